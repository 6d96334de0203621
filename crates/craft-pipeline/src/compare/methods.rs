//! Which methods are compared, and what they ask of the recipe.

use craft_core::Recipe;
use craft_core::recipe::RewardRole;
use craft_train::methods::{Method, by_name};

use crate::error::{PipelineError, Result};

/// The methods of a comparison when none are named.
pub(super) const DEFAULT: &[&str] =
    &["craft", "random", "guidance-1.5", "guidance-2", "sft", "raft", "rwr", "dpo", "kto"];
/// The same with `--quick`.
pub(super) const QUICK: &[&str] = &["craft", "random", "sft", "dpo"];

/// The methods of these names, each once.
pub(super) fn of_names(names: &[String]) -> Result<Vec<&'static Method>> {
    let mut found: Vec<&'static Method> = Vec::new();
    for name in names {
        let method = by_name(name, "--methods")?;
        if found.iter().any(|m| m.name == method.name) {
            return Err(PipelineError::Usage(format!(
                "--methods: `{name}` is named twice; name each method once"
            )));
        }
        found.push(method);
    }
    if found.is_empty() {
        return Err(PipelineError::Usage("--methods is empty; name at least one".to_owned()));
    }
    Ok(found)
}

/// What a method changes of the recipe, as overrides.
///
/// # Errors
/// When the recipe has no reward that its filter needs.
pub(super) fn overrides(method: &Method, recipe: &Recipe) -> Result<Vec<String>> {
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
    let filters = training.iter().map(|name| {
        let used = wanted.iter().any(|part| name.as_str().contains(part));
        format!("rewards.{name}.filter={used}")
    });
    // Whoever names a filter means all of it.
    Ok(filters.chain([format!("select.min_passes={}", wanted.len())]).collect())
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_exist() {
        for names in [DEFAULT, QUICK] {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            assert_eq!(of_names(&names).unwrap().len(), names.len());
        }
    }
}
