//! The embedded recipes.

/// The whole loop on the pocket model in a few minutes on two cores.
pub const DEMO_RECIPE: &str = include_str!("../../../recipes/pocket.toml");

/// The same, smaller, for a quick look and for continuous integration.
pub const QUICK_DEMO_RECIPE: &str = include_str!("../../../recipes/pocket-quick.toml");

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use craft_core::recipe::{Recipe, TrainMode};

    /// Every recipe of the folder by name.
    fn all() -> Vec<(String, String)> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes");
        std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, std::fs::read_to_string(path).unwrap())
            })
            .collect()
    }

    #[test]
    fn every_recipe_parses_and_says_what_it_takes() {
        assert!(all().len() >= 6);
        for (name, text) in all() {
            if let Err(error) = Recipe::parse::<String>(&text, &[]) {
                panic!("{name}: {error}");
            }
            let head: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
            for part in ["# Command: ", "# Hardware: ", "# Time: ", "# Expected: "] {
                let line = head.iter().find(|line| line.starts_with(part));
                assert!(line.is_some_and(|l| l.len() > part.len() + 5), "{name} has no `{part}`");
            }
        }
    }

    #[test]
    fn recipes_name_models_that_exist_and_prompts_that_are_shipped() {
        // Repositories of the hub that were seen to exist, 2026-11-30.
        const MODELS: [&str; 3] = [
            "pocket",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "stabilityai/stable-diffusion-xl-base-1.0",
        ];
        let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes"));
        for (name, text) in all() {
            let recipe = Recipe::parse::<String>(&text, &[]).unwrap();
            assert!(MODELS.contains(&recipe.model.path.as_str()), "{name}: {}", recipe.model.path);
            let files = (recipe.prompts.train.as_ref(), recipe.prompts.eval.as_ref());
            let (Some(train), Some(eval)) = files else {
                assert_eq!(recipe.model.path, "pocket", "{name}");
                continue;
            };
            let read = |file: &String| {
                let set = crate::prompt_files::read(&folder.join(file), &name).unwrap();
                assert_eq!((set.blank, set.repeated), (0, 0), "{name}: {file}");
                set.entries.into_iter().map(|e| e.text.to_lowercase()).collect()
            };
            let train: std::collections::BTreeSet<String> = read(train);
            let eval: std::collections::BTreeSet<String> = read(eval);
            assert!(train.is_disjoint(&eval), "{name}");
            assert!(train.len() >= 200 && eval.len() >= 60, "{name}");
            assert!(
                recipe.prompts.eval_count.unwrap_or(usize::MAX) >= 50 && recipe.control.enabled
            );
        }
    }

    #[test]
    fn the_large_models_have_the_paper_s_settings() {
        let recipes: std::collections::BTreeMap<_, _> = all().into_iter().collect();
        let parse = |name: &str| Recipe::parse::<String>(&recipes[name], &[]).unwrap();
        for (name, steps) in [("sd15.toml", 120), ("sdxl.toml", 200)] {
            let recipe = parse(name);
            assert_eq!((recipe.train.steps, recipe.train.batch), (steps, 128), "{name}");
            assert_eq!((recipe.train.learning_rate, recipe.select.max_samples), (5e-5, 100));
            assert_eq!(recipe.train.mode, TrainMode::Full);
        }
        for name in ["sd15-lora-8gb.toml", "sd15-night.toml"] {
            assert_eq!(parse(name).train.mode, TrainMode::Lora, "{name}");
        }
    }
}
