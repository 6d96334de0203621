//! Several rounds: draw, filter and tune, and again from the model that came of it.

use std::path::Path;

use craft_core::Recipe;
use craft_core::recipe::{PromptSource, PromptsSection, RoundsSection};
use craft_store::RunFolder;

use crate::context::Context;
use crate::driver::Advance;
use crate::error::Result;
use crate::rewards::RunReward;
use crate::stages::Run;
use crate::stages::table::StageId;
use crate::start::Start;

/// Between the seeds of rounds, so that each draws other noise, wordings and, from the embedded world, prompts.
const SEED_STRIDE: u64 = 1_000_003;

/// The recipe of each round: its part of the budget, where all share that of one.
pub(crate) fn share(recipe: &Recipe) -> Recipe {
    let RoundsSection { count, same_budget } = recipe.rounds;
    let mut own = recipe.clone();
    if count < 2 || !same_budget {
        return own;
    }
    own.train.steps = own.train.steps.div_ceil(count);
    own.train.warmup_steps = own.train.warmup_steps.div_ceil(count).min(own.train.steps);
    own.select.max_samples = own.select.max_samples.div_ceil(count);
    // Other prompts can be had from the embedded world only; those of a file are drawn again.
    if own.prompts.source == PromptSource::Pocket {
        let all = own.prompts.train_count.unwrap_or(PromptsSection::POCKET_TRAIN_COUNT);
        own.prompts.train_count = Some(all.div_ceil(count));
    }
    own
}

/// The recipe of the `round`-th round before the last.
fn recipe_of(recipe: &Recipe, round: usize) -> Recipe {
    let mut own = share(recipe);
    own.rounds = RoundsSection::default();
    own.sweep = Default::default();
    own.control.enabled = false;
    own.seed = (recipe.seed + SEED_STRIDE * round as u64) & (i64::MAX as u64);
    own
}

/// What the rounds before the last left.
pub(crate) struct Earlier {
    /// What the last round begins with.
    pub(crate) start: Start,
    pub(crate) seconds: f64,
}

/// Does all rounds but the last, each in a run folder of its own below `rounds/`. `None` for a single round.
///
/// # Errors
/// Those of the stages.
pub(crate) fn earlier(
    folder: &RunFolder,
    recipe: &Recipe,
    base: &Path,
    context: &Context<'_>,
    (model, rewards): (&Path, &[RunReward]),
) -> Result<Option<Earlier>> {
    if recipe.rounds.count < 2 {
        return Ok(None);
    }
    let mut start = Start::first(recipe, base, model, context.device())?;
    let mut seconds = 0.0;
    for round in 1..recipe.rounds.count {
        context.progress.note(&format!("round {round} of {}", recipe.rounds.count));
        let own = recipe_of(recipe, round);
        let path = folder.join(format!("rounds/{round}"));
        let inner = RunFolder::create_or_open(&path, &own.to_toml())?;
        let run = Run { folder: &inner, recipe: &own, base, context: *context };
        let mut at = Advance::new(run, start, (model, rewards))?;
        at.until(StageId::Train)?;
        seconds += at.seconds();
        start = at.start.after(path.join("aligned"))?;
    }
    context.progress.note(&format!("round {0} of {0}", recipe.rounds.count));
    Ok(Some(Earlier { start, seconds }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rounds_share_a_budget_where_they_are_told_to() {
        let text = "seed = 5\n[model]\npath = \"m\"\n[prompts]\nsource = \"pocket\"\ntrain_count = 100\n\
                    [[rewards]]\nname = \"a\"\n[select]\nmax_samples = 10\n[train]\nsteps = 61\n\
                    [rounds]\ncount = 3\n";
        let recipe = Recipe::parse::<String>(text, &[]).unwrap();
        assert_eq!(share(&recipe), recipe);
        let own = recipe_of(&recipe, 2);
        assert_eq!((own.seed, own.train.steps, own.control.enabled), (5 + 2_000_006, 61, false));
        let recipe = Recipe::parse(text, &["rounds.same_budget=true"]).unwrap();
        let own = share(&recipe);
        assert_eq!((own.train.steps, own.select.max_samples), (21, 4));
        assert_eq!(own.prompts.train_count, Some(34));
    }
}
