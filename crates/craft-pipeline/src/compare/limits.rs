//! What a recipe may ask of a run, but not of a comparison: it is refused, not ignored.

use craft_core::Recipe;
use craft_core::recipe::{Method, Precision, TrainMode};

use super::pipeline::{PipelineError, Result};

/// Refuses what a comparison decides itself, and what its trainer cannot do.
pub(super) fn of_recipe(recipe: &Recipe) -> Result<()> {
    let decided = [
        ("train.method (give --methods)", recipe.train.method != Method::Craft),
        ("rounds.count (give --rounds)", recipe.rounds.count > 1),
        ("stop.every", recipe.stop.every > 0),
    ];
    match trainer(recipe).into_iter().chain(decided).find(|(_, asked)| *asked) {
        Some((key, _)) => Err(PipelineError::Usage(format!(
            "{key}: a comparison trains the denoiser in f32, once and to the end; expected a recipe without it (--set can change it)"
        ))),
        None => Ok(()),
    }
}

/// Keys that the comparison's trainer does not know, and whether the recipe has them. A trainer that knows
/// all of them makes this list, and [`of_variant`], empty.
fn trainer(recipe: &Recipe) -> [(&'static str, bool); 4] {
    let train = &recipe.train;
    let lora = train.mode == TrainMode::Lora;
    [
        ("train.lora.text_encoders = true", lora && train.lora.text_encoders),
        ("train.precision = \"bf16\"", train.precision != Precision::F32),
        ("train.gradient_checkpointing = true", train.gradient_checkpointing),
        ("model.lora", !recipe.model.lora.is_empty()),
    ]
}

/// Refuses a variant whose rounds would have to hand on low-rank factors.
pub(super) fn of_variant(recipe: &Recipe) -> Result<()> {
    if recipe.rounds.count > 1 && recipe.train.mode == TrainMode::Lora {
        return Err(PipelineError::Usage(format!(
            "rounds.count = {}: rounds are compared with full training only; set train.mode = \"full\", or leave --rounds out",
            recipe.rounds.count
        )));
    }
    Ok(())
}
