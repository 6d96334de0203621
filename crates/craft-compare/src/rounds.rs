//! CRAFT in several rounds: a method that draws again from what it tuned, within the budget of one round.

use std::path::PathBuf;

use craft_core::Recipe;
use craft_core::recipe::TrainMode;
use craft_model::model::{Model, read_tensors};
use craft_nn::weights::TensorMap;
use craft_store::hash::sha256_bytes;
use craft_store::{Manifest, RunFolder};
use craft_train::set::Set;

use super::Shared;
use super::data;
use super::entry::Entry;
use super::evaluator::Evaluator;
use super::pipeline::{Result, Run, before_last_round, candidates};
use super::plan::Plan;
use super::settings::Settings;

/// A last round, ready to be trained.
pub(super) struct Last {
    /// What it is trained on.
    pub(super) set: Set,
    /// The factors that it goes on from, if factors are trained.
    pub(super) factors: Option<(PathBuf, TensorMap)>,
    /// The model that it begins with.
    pub(super) model: Model,
    /// Its recipe: its part of the budget.
    pub(super) recipe: Recipe,
    /// Candidates of all rounds.
    pub(super) images: usize,
    /// Samples that went through the network in earlier rounds.
    pub(super) passes: usize,
    /// Seconds of earlier rounds, drawing and scoring included, and of drawing and scoring in the last.
    pub(super) seconds: [f64; 3],
}

/// Does the rounds before the last, and draws and scores for that; `None` for a method of one round.
///
/// # Errors
/// Those of the stages; a training that diverges among them.
pub(super) fn last(
    shared: &Shared<'_>,
    plan: &Plan,
    evaluator: &Evaluator<'_>,
    entry: &Entry,
    recipe: &Recipe,
    settings: &Settings,
) -> Result<Option<Last>> {
    if recipe.rounds.count < 2 {
        return Ok(None);
    }
    let mut recipe = recipe.clone();
    recipe.train.learning_rate = settings.learning_rate;
    recipe.train.steps = settings.steps;
    recipe.train.warmup_steps = recipe.train.warmup_steps.min(settings.steps);
    let text = recipe.to_toml();
    // Other settings are other rounds.
    let name = format!("rounds/{}-{}", entry.name, &sha256_bytes(&text)[..8]);
    let folder = RunFolder::create_or_open(&shared.run.path(&name), &text)?;
    let Run { base, context, .. } = shared.run;
    let from = (plan.model_dir.as_path(), plan.rewards.as_slice());
    let Some(begin) = before_last_round(&folder, &recipe, base, &context, from)? else {
        return Ok(None);
    };
    let own = begin.recipe;
    let run = Run { folder: &folder, recipe: &own, base, context };
    let found = candidates(&run, &begin.start, &plan.rewards, evaluator.hashes)?;
    let set = data::training_set(&run, &own, entry.part, entry.method, evaluator)?;
    let factors = begin.start.factors().filter(|_| own.train.mode == TrainMode::Lora);
    let factors = match factors {
        Some(path) => Some((path.clone(), read_tensors(&path)?)),
        None => None,
    };
    let count = |m: &Manifest| m.counts.get("candidates").map_or(0, |n| *n as usize);
    let rounds = recipe.rounds.count;
    Ok(Some(Last {
        set,
        model: begin.start.training_model(&own, base)?,
        factors,
        images: rounds * count(&found.generated),
        passes: (rounds - 1) * own.train.steps * own.train.batch,
        seconds: [begin.seconds, found.generated.seconds, found.scored.seconds],
        recipe: own,
    }))
}
