//! What a run reads: its model, rewards and prompts, found and checked before the first expensive step.

use std::path::Path;

use craft_core::recipe::{ExpandKind, Recipe, TrainMode};

use crate::cache::WORDINGS;
use crate::context::Context;
use crate::cost::{Cost, Work};
use crate::error::Result;
use crate::origin::Origin;
use crate::plan::{Plan, Sizes};
use crate::rates::Rates;
use crate::rewards::{self, Pins, RewardSource, RunReward};
use crate::stages::{generate, prompts, wording};
use craft_model::source::{self, Found};

/// The folder of a recipe's model.
pub(crate) fn model(
    recipe: &Recipe,
    base: &Path,
    commit: Option<&str>,
    context: &Context<'_>,
) -> Result<Found> {
    if recipe.model.path == "pocket" {
        let dir = context.world("model.path")?.model_dir()?;
        return Ok(Found { dir, commit: None });
    }
    let config = recipe.model.config.as_deref().map(Path::new);
    Ok(source::resolve(&recipe.model.path, config, base, commit, context.progress)?)
}

/// Folders that a run reads.
pub(crate) struct Sources {
    pub(crate) model: Found,
    pub(crate) rewards: Vec<RunReward>,
}

impl Sources {
    pub(crate) fn new(
        recipe: &Recipe,
        base: &Path,
        commit: Option<&str>,
        context: &Context<'_>,
    ) -> Result<Self> {
        Self::pinned(recipe, base, commit, &Pins::new(), context)
    }

    /// With the commits that a run began with, if it began before.
    pub(crate) fn again(
        recipe: &Recipe,
        base: &Path,
        run_dir: &Path,
        context: &Context<'_>,
    ) -> Result<Self> {
        let origin = Origin::of(run_dir);
        let commit = origin.as_ref().and_then(|origin| origin.commit.as_deref());
        let none = Pins::new();
        let pins = origin.as_ref().map_or(&none, |origin| &origin.rewards);
        Self::pinned(recipe, base, commit, pins, context)
    }

    fn pinned(
        recipe: &Recipe,
        base: &Path,
        commit: Option<&str>,
        pins: &Pins,
        context: &Context<'_>,
    ) -> Result<Self> {
        let model = model(recipe, base, commit, context)?;
        Ok(Self { model, rewards: rewards::of_recipe(&recipe.rewards, base, pins, context)? })
    }

    /// Commits of the rewards' repositories.
    pub(crate) fn pins(&self) -> Pins {
        let commits = self.rewards.iter().filter_map(|reward| match &reward.source {
            RewardSource::Weights(weights) => Some(weights.commits().clone()),
            RewardSource::External(..) => None,
        });
        commits.flatten().collect()
    }

    /// Everything that can be wrong is found here, before the first expensive step.
    /// `folder` is that of the run, if it is known. Returns the numbers of training and evaluation prompts.
    pub(crate) fn check(
        &self,
        recipe: &Recipe,
        base: &Path,
        folder: Option<&Path>,
        context: &Context<'_>,
    ) -> Result<(usize, usize)> {
        let found = self.survey(recipe, base, folder, false, context)?;
        Ok((found.train, found.eval))
    }

    /// [`Self::check`], with the plan that follows from what is loaded for it. Times are measured if asked for
    /// and if a training pass fits the memory.
    pub(crate) fn survey(
        &self,
        recipe: &Recipe,
        base: &Path,
        folder: Option<&Path>,
        measured: bool,
        context: &Context<'_>,
    ) -> Result<Survey> {
        craft_train::methods::of_recipe(recipe)?.check_run(recipe)?;
        // A run that asked before can be done again without the server.
        let asked = folder.is_some_and(|folder| folder.join(WORDINGS).exists());
        if recipe.expand.kind == ExpandKind::Openai && !asked {
            wording::model(&recipe.expand)?;
        }
        if let (ExpandKind::File, Some(file)) = (recipe.expand.kind, &recipe.expand.file) {
            craft_store::input::open(&base.join(file))?;
        }
        let prompts = prompts_of(base, recipe, context)?;
        let model = crate::start::training_model(recipe, base, &self.model.dir, context.device())?;
        if recipe.train.mode == TrainMode::Lora {
            let parts = craft_model::lora::parts(&model);
            craft_train::networks::fresh_factors(&recipe.train.lora, recipe.seed, &parts)?;
        }
        let options = generate::options(&recipe.generate, &model)?;
        let train = prompts.iter().filter(|p| p.split == craft_core::Split::Train).count();
        let eval = prompts.len() - train;
        let work = Work::of(recipe, train, eval);
        let cost = Cost::of(recipe, &model, &work)?;
        let mut rates = (measured && cost.warning().is_none()).then(Rates::default);
        for reward in &self.rewards {
            let loaded = rewards::load_source(&reward.name, &reward.source, context.device())?;
            let size = [options.height, options.width];
            // Programs and servers that score are not started for a plan.
            if let (Some(rates), RewardSource::Weights(_)) = (&mut rates, &reward.source) {
                rates.add_reward(loaded.as_ref(), reward.trained_on, size)?;
            }
        }
        let cut = prompts.iter().filter(|prompt| model.tokens_cut(&prompt.text) > 0).count();
        if cut > 0 {
            context.progress.note(&format!(
                "{cut} prompts are longer than {} tokens; their ends are cut off",
                model.tokenizer.length()
            ));
        }
        let sizes = Sizes {
            latents: model.latent_shape(options.height, options.width),
            pixels: (options.height * options.width) as u64,
            rewards: rewards::memory(&self.rewards)?,
            reward_count: self.rewards.len() as u64,
        };
        if let Some(rates) = &mut rates {
            rates.add_model(recipe, model)?;
        }
        let plan = Plan::new(recipe, &work, sizes, &cost, rates.as_ref());
        Ok(Survey { train, eval, work, cost, plan })
    }
}

/// What a recipe comes to.
pub(crate) struct Survey {
    /// Training prompts.
    pub(crate) train: usize,
    /// Evaluation prompts.
    pub(crate) eval: usize,
    pub(crate) work: Work,
    pub(crate) cost: Cost,
    pub(crate) plan: Plan,
}

/// The prompts of a recipe, read without a run folder.
fn prompts_of(
    base: &Path,
    recipe: &Recipe,
    context: &Context<'_>,
) -> Result<Vec<craft_core::Prompt>> {
    let (found, _) = prompts::load(base, recipe, context)?;
    craft_core::prompt::check_prompts(&found, true)?;
    Ok(found)
}
