//! The embedded recipes.

/// The whole loop on the pocket model in a few minutes on two cores.
pub const DEMO_RECIPE: &str = include_str!("../../../recipes/pocket.toml");

/// The same, smaller, for a quick look and for continuous integration.
pub const QUICK_DEMO_RECIPE: &str = include_str!("../../../recipes/pocket-quick.toml");

#[cfg(test)]
#[allow(clippy::unwrap_used)]
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
        assert!(all().len() >= 5);
        for (name, text) in all() {
            if let Err(error) = Recipe::parse::<String>(&text, &[]) {
                panic!("{name}: {error}");
            }
            for part in ["# Command:", "# Hardware:", "Time:", "# Expected:"] {
                assert!(text.contains(part), "{name} has no `{part}`");
            }
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
        assert_eq!(parse("sd15-lora-8gb.toml").train.mode, TrainMode::Lora);
    }
}
