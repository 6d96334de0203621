//! What a client of the stages calls, such as a comparison of methods: a run and its stages up to the scores
//! of its candidates, drawing, scoring, and what each costs.
//!
//! API boundary: `craft-compare` reaches the pipeline by this module, its errors and its context alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use craft_core::{Recipe, Silent};
use craft_model::model::Model;
use craft_model::sample::{DrawOptions, Painter};
use craft_rewards::Reward;
use craft_store::{Manifest, RunFolder};

use crate::cache::ScoreCache;
use crate::origin::{self, Origin};
use crate::rewards::{RewardSource, load_all};
use crate::rounds;
use crate::run::Plan;
use crate::stages::pictures::Series;
use crate::stages::score::Work;
use crate::stages::{evaluate, expand, generate, prompts, score};

pub use crate::context::Context;
pub use crate::cost::{Spent, duration};
pub use crate::error::{PipelineError, Result};
pub use crate::origin::matmul_precision;
pub use crate::rewards::RunReward;
pub use crate::stages::measuring::CHECKER;
pub use crate::stages::pictures::Item;
pub use crate::stages::scoring::Pictures;
pub use crate::stages::training_set::{OfRun, of_units, through};
pub use crate::stages::{Outcome, Run, inputs};
pub use crate::start::{Start, training_model};
pub use crate::statistics::{ImageStatistics, measure as statistics};

/// What a recipe names, found and checked.
pub struct Resolved {
    /// Folder of the base model.
    pub model_dir: PathBuf,
    /// The rewards, held-out ones among them.
    pub rewards: Vec<RunReward>,
    /// How many prompts to train on.
    pub train_prompts: usize,
    /// How many prompts to evaluate on.
    pub eval_prompts: usize,
}

impl Resolved {
    /// # Errors
    /// Everything that a run finds wrong before its first expensive step.
    pub fn of(recipe: &Recipe, base: &Path, context: &Context<'_>) -> Result<Self> {
        let plan = Plan::new(recipe, base, None, context)?;
        let (train_prompts, eval_prompts) = plan.check(recipe, base, None, context)?;
        let Plan { model, rewards } = plan;
        Ok(Self { model_dir: model.dir, rewards, train_prompts, eval_prompts })
    }
}

/// The folder of a comparison, made unless it is there.
///
/// # Errors
/// When it holds another recipe, or was begun with another precision of products.
pub fn folder(
    out: &Path,
    recipe: &Recipe,
    base: &Path,
    context: &Context<'_>,
) -> Result<RunFolder> {
    origin::check_arithmetic(out, context.compute)?;
    let folder = RunFolder::create_or_open(out, &recipe.to_toml())?;
    Origin::now(base, None, context.compute).write(folder.path())?;
    Ok(folder)
}

/// The stages up to the scores of the candidates.
pub struct Candidates {
    /// Prompts.
    pub prompted: Manifest,
    /// Candidates.
    pub generated: Manifest,
    /// Their scores.
    pub scored: Manifest,
}

/// Prompts, expansions, candidates and their scores, unless they are there.
///
/// # Errors
/// Those of the stages.
pub fn candidates(
    run: &Run<'_>,
    start: &Start,
    rewards: &[RunReward],
    hashes: &BTreeMap<String, String>,
) -> Result<Candidates> {
    let prompted = prompts::run(run)?;
    let expanded = expand::run(run, &prompted)?;
    let generated = generate::run(run, start, &expanded)?;
    let scored = score::run(run, rewards, hashes, &generated)?;
    Ok(Candidates { prompted, generated, scored })
}

/// What the last of several rounds begins with.
pub struct LastRound {
    /// The recipe of the last round: its part of the budget.
    pub recipe: Recipe,
    /// The model that it begins with.
    pub start: Start,
    /// Seconds of the rounds before.
    pub seconds: f64,
}

/// Does all rounds of a recipe but the last; `None` if it has one round only.
///
/// # Errors
/// Those of the stages; a training that diverges among them.
pub fn before_last_round(
    folder: &RunFolder,
    recipe: &Recipe,
    base: &Path,
    context: &Context<'_>,
    from: (&Path, &[RunReward]),
) -> Result<Option<LastRound>> {
    let earlier = rounds::earlier(folder, recipe, base, context, from)?;
    let recipe = rounds::share(recipe);
    Ok(earlier.map(|rounds::Earlier { start, seconds }| LastRound { recipe, start, seconds }))
}

/// The rewards of a run, loaded, with its cache of scores.
pub struct Scorer<'a> {
    run: &'a Run<'a>,
    rewards: Vec<(RunReward, Box<dyn Reward>)>,
    cache: Mutex<ScoreCache>,
    hashes: &'a BTreeMap<String, String>,
}

impl<'a> Scorer<'a> {
    /// `hashes` are those of the rewards' weights, by name.
    ///
    /// # Errors
    /// When a reward cannot be loaded, or the cache not be read.
    pub fn new(
        run: &'a Run<'a>,
        rewards: &[RunReward],
        hashes: &'a BTreeMap<String, String>,
    ) -> Result<Self> {
        let named: Vec<_> = rewards.iter().map(|r| (r.name.as_str(), &r.source)).collect();
        let loaded = load_all(&named, run.context.device())?;
        Ok(Self {
            run,
            rewards: rewards.iter().cloned().zip(loaded).collect(),
            cache: Mutex::new(ScoreCache::open(run.folder, &run.context)?),
            hashes,
        })
    }

    /// Names of the rewards.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rewards.iter().map(|(reward, _)| reward.name.as_str())
    }

    /// Scores of pictures under texts by one reward; `None` where there is none.
    ///
    /// # Errors
    /// When a picture cannot be read, or a score is missing and the recipe says to stop.
    pub fn scores(
        &self,
        reward: &str,
        pictures: Pictures<'_>,
        texts: &[&str],
    ) -> Result<Vec<Option<f64>>> {
        let Some((reward, model)) = self.rewards.iter().find(|(r, _)| r.name == reward) else {
            return Ok(vec![None; texts.len()]);
        };
        let work = Work::new(self.run, pictures, texts)?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let scorer = (reward, model.as_ref(), self.hashes[&reward.name].as_str());
        let scores = work.score(self.run, &mut cache, scorer, |_| ())?;
        Ok(scores.into_iter().map(std::result::Result::ok).collect())
    }
}

/// Draws the pictures of `items` that are not there yet. `part` is written into them.
///
/// # Errors
/// When a picture cannot be drawn or written, or the run is stopped.
pub fn draw(
    run: &Run<'_>,
    model: &Model,
    options: DrawOptions,
    part: &str,
    items: &[Item<'_>],
) -> Result<()> {
    let series = Series { recipe: run.recipe, items, model: part };
    let mut painter = Painter::new(model, options, run.context.stop)?;
    series.draw(&mut painter, None, &Silent)
}

/// How candidates are drawn.
///
/// # Errors
/// When the model cannot draw what the recipe asks for.
pub fn candidate_options(recipe: &Recipe, model: &Model) -> Result<DrawOptions> {
    generate::options(&recipe.generate, model)
}

/// How the evaluation's pictures are drawn.
///
/// # Errors
/// See [`candidate_options`].
pub fn evaluation_options(run: &Run<'_>, model: &Model) -> Result<DrawOptions> {
    evaluate::drawing_options(run, model)
}

/// Measures one prediction of the denoiser.
///
/// # Errors
/// Those of the model.
pub fn prediction_cost(recipe: &Recipe, model: &Model) -> Result<Spent> {
    crate::cost::prediction_seconds(recipe, model)
}

/// Measures one sample's forward and backward pass.
///
/// # Errors
/// Those of the model.
pub fn training_cost(recipe: &Recipe, model: Model) -> Result<Spent> {
    crate::cost::training_pass(recipe, model)
}

/// Loads the rewards that are weights: programs and servers are not started for a plan.
///
/// # Errors
/// When one cannot be loaded.
pub fn load_rewards(rewards: &[RunReward], device: &Device) -> Result<Vec<Box<dyn Reward>>> {
    let weights: Vec<_> = rewards
        .iter()
        .filter(|reward| matches!(reward.source, RewardSource::Weights(_)))
        .map(|reward| (reward.name.as_str(), &reward.source))
        .collect();
    load_all(&weights, device)
}
