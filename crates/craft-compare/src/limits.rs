//! What a recipe may ask of a run, but a comparison decides itself: it is refused, not ignored.

use craft_core::Recipe;

use super::methods::CRAFT;
use super::pipeline::{PipelineError, Result};

/// # Errors
/// Names the key that the comparison decides, and the flag in its place if there is one.
pub(super) fn of_recipe(recipe: &Recipe) -> Result<()> {
    let decided = [
        ("train.method (give --methods)", recipe.train.method != CRAFT),
        ("rounds.count (give --rounds)", recipe.rounds.count > 1),
        ("model.lora", !recipe.model.lora.is_empty()),
        ("stop.every", recipe.stop.every > 0),
    ];
    match decided.into_iter().find(|(_, asked)| *asked) {
        Some((key, _)) => Err(PipelineError::Usage(format!(
            "{key}: a comparison trains every method from the base model to the end; expected a recipe without it (--set can change it)"
        ))),
        None => Ok(()),
    }
}
