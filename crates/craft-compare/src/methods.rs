//! Which methods are compared, and what they change of the recipe.

use craft_core::Recipe;
use craft_core::recipe::{RewardRole, nearest};
use craft_train::methods::{self, Method};

use super::change::Change;
use super::pipeline::{PipelineError, Result};

/// The method that all others are compared with.
pub(super) const CRAFT: &str = "craft";
/// The methods of a comparison when none are named.
const DEFAULT: &[&str] =
    &[CRAFT, "random", "guidance-1.5", "guidance-2", "sft", "raft", "rwr", "dpo", "kto"];
/// The same with `--quick`.
const QUICK: &[&str] = &[CRAFT, "random", "sft", "dpo"];

/// The methods of a comparison that names none; fewer for a first look.
pub fn default_methods(quick: bool) -> Vec<&'static Method> {
    let names = if quick { QUICK } else { DEFAULT };
    names.iter().filter_map(|name| methods::all().find(|m| m.name == *name)).collect()
}

/// The method of this name.
///
/// # Errors
/// When there is none; the message lists all.
pub fn method(name: &str) -> Result<&'static Method> {
    methods::all().find(|method| method.name == name).ok_or_else(|| {
        let all: Vec<&str> = methods::all().map(|method| method.name).collect();
        let near = nearest(name, all.iter().copied())
            .map_or(".".to_owned(), |near| format!("; did you mean `{near}`?"));
        PipelineError::Usage(format!(
            "there is no method `{name}`{near} Known are {}",
            all.join(", ")
        ))
    })
}

/// What a method changes of the recipe.
///
/// # Errors
/// When the recipe has no reward that its filter needs.
pub(super) fn changes(method: &Method, recipe: &Recipe) -> Result<Vec<Change>> {
    let Some(wanted) = method.filter else { return Ok(Vec::new()) };
    let training = recipe.reward_names(RewardRole::Train);
    for part in wanted {
        if !training.iter().any(|name| name.as_str().contains(part)) {
            let names: Vec<&str> = training.iter().map(|n| n.as_str()).collect();
            return Err(PipelineError::Usage(format!(
                "{}: its filter needs a reward with `{part}` in its name and role = \"train\", but the recipe has only {}; add it under [[rewards]] or leave the method out",
                method.name,
                names.join(", ")
            )));
        }
    }
    let filters = training.into_iter().map(|name| {
        let used = wanted.iter().any(|part| name.as_str().contains(part));
        Change::Filter(name.clone(), used)
    });
    // Whoever names a filter means all of it.
    Ok(filters.chain([Change::MinPasses(wanted.len())]).collect())
}

/// Refuses what a method cannot work with.
pub(super) fn check(method: &Method, recipe: &Recipe, has_annotators: bool) -> Result<()> {
    if method.data.annotated() && !has_annotators {
        let instead = format!("{}-rewards", method.name);
        return Err(PipelineError::Usage(format!(
            "{}: it needs preference pairs, and only the embedded world (prompts.source = \"pocket\") has annotators; take `{instead}`, which makes pairs from the rewards of the candidates, or leave it out",
            method.name
        )));
    }
    if method.data.guidance().is_some() && recipe.evaluate_guidance_scale() <= 1.0 {
        return Err(PipelineError::Usage(format!(
            "{}: it draws with more guidance, and the recipe draws without (evaluate.guidance_scale = {}); set a scale above 1 or leave the method out",
            method.name,
            recipe.evaluate_guidance_scale()
        )));
    }
    Ok(method.check(recipe)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use super::super::ablations::Ablation;
    use super::*;

    #[test]
    fn every_name_stands_in_the_document() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compare.md");
        let page = std::fs::read_to_string(path).unwrap();
        let names = methods::all().map(|method| method.name);
        for name in names.chain(Ablation::all().iter().map(Ablation::name)) {
            assert!(
                page.contains(&format!("`{name}`")),
                "docs/compare.md says nothing of `{name}`"
            );
        }
    }

    #[test]
    fn the_defaults_exist() {
        assert_eq!(default_methods(false).len(), DEFAULT.len());
        assert_eq!(default_methods(true).len(), QUICK.len());
        assert_eq!(method(CRAFT).unwrap().name, CRAFT);
        let error = method("dop").unwrap_err().to_string();
        for words in ["`dop`", "did you mean `dpo`?", "raft"] {
            assert!(error.contains(words), "{error}");
        }
    }
}
