//! `craft compare`: methods of preference tuning head to head, on the same base model, prompts, draws of
//! candidates and evaluation, over several seeds.
//!
//! A comparison is a folder. `seed-N/` is a run folder with what all methods of a seed share (prompts,
//! wordings, candidates, scores, annotated pairs); below it `methods/NAME/` is a stage per method, with the
//! scores of its pictures, its curve along training and its weights, and `search/NAME/` the search of its
//! learning rate and length. Whatever is finished is not done again, so a killed comparison continues, and
//! further methods and seeds join an old one.

mod ablations;
mod conclusion;
mod convergence;
mod cost;
mod data;
mod fit;
mod guided;
mod judge;
mod methods;
mod network;
mod online;
mod pairs;
mod plan;
mod rounds;
mod search;
mod shelf;
mod state;
mod step_aware;
mod summary;
mod table;
mod tune;

use std::path::{Path, PathBuf};

use craft_store::{Manifest, RunFolder};
use serde_json::Value;

use crate::context::Context;
use crate::error::Result;
use crate::origin::{self, Origin};
use crate::stages::{Run, expand, generate, prompts, score};
use crate::start::Start;
use judge::Judge;
use plan::Plan;

/// What to compare.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names of methods; empty: a default set.
    pub methods: Vec<String>,
    /// Name of an ablation of CRAFT, in the place of methods.
    pub ablation: Option<String>,
    /// A number of seeds, or the seeds themselves, separated by commas.
    pub seeds: Option<String>,
    /// Learning rates that every method tries; empty: a third of the recipe's, the recipe's, three times it.
    pub learning_rates: Vec<f64>,
    /// How many of the first seeds choose the settings; `None`: two, or as many as there are.
    pub search_seeds: Option<usize>,
    /// The share of facts that settings may lose to be chosen; `None`: 0.01.
    pub fact_loss: Option<f64>,
    /// Annotated pairs for each seed.
    pub pairs: Option<usize>,
    /// Fewer seeds and methods, and no search.
    pub quick: bool,
    /// CRAFT in so many rounds, within the budget of one, as a method more.
    pub rounds: Option<usize>,
}

/// A finished comparison.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// `compare.json`.
    pub json: Value,
    /// The table as Markdown.
    pub table: String,
    /// The page.
    pub report: PathBuf,
}

/// Compares methods, or continues a comparison that was stopped.
///
/// # Errors
/// See [`crate::PipelineError`]; what was done is kept, and the same call continues.
pub fn compare(
    recipe_text: &str,
    overrides: &[String],
    base: &Path,
    out: &Path,
    options: &Options,
    context: &Context<'_>,
) -> Result<Comparison> {
    let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
    let plan = Plan::new(recipe_text, overrides, &base, options, context)?;
    origin::check_precision(out)?;
    let folder = RunFolder::create_or_open(out, &plan.recipe.to_toml())?;
    Origin::now(&base, None).write(folder.path())?;
    for &seed in plan.searched() {
        with_seed(&plan, seed, &folder, &base, context, &mut |shared, judge| {
            let mut own = plan.entries.iter().filter(|entry| entry.searches());
            own.try_for_each(|entry| search::run(shared, &plan, judge, entry))
        })?;
    }
    let mut result = None;
    for &seed in &plan.seeds {
        with_seed(&plan, seed, &folder, &base, context, &mut |shared, judge| {
            train_all(&plan, &folder, shared, judge)
        })?;
        // Written after each seed, so that a comparison can be looked at while it goes on.
        result = Some(summary::write(&plan, &folder)?);
    }
    result.map_or_else(|| summary::write(&plan, &folder), Ok)
}

/// What a comparison would do and cost, without doing it: the resolved recipe, and the rest as comments. One
/// pass of each kind of work is measured for it.
///
/// # Errors
/// The same as a comparison's before its first expensive step.
pub fn dry_run(
    recipe_text: &str,
    overrides: &[String],
    base: &Path,
    options: &Options,
    context: &Context<'_>,
) -> Result<String> {
    let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
    let plan = Plan::new(recipe_text, overrides, &base, options, context)?;
    let comments: String = cost::lines(&plan)?.iter().map(|line| format!("# {line}\n")).collect();
    Ok(format!("{}\n{comments}", plan.recipe.to_toml()))
}

/// What all methods of a seed share.
struct Shared<'a> {
    run: Run<'a>,
    model_hash: String,
    generated: Manifest,
    scored: Manifest,
    /// Annotated pairs, where a method needs them.
    pairs: Option<Manifest>,
}

/// Does something with what all methods of a seed share, which is made unless it is there.
fn with_seed(
    plan: &Plan,
    seed: u64,
    folder: &RunFolder,
    base: &Path,
    context: &Context<'_>,
    work: &mut dyn FnMut(&Shared<'_>, &Judge<'_>) -> Result<()>,
) -> Result<()> {
    context.progress.note(&format!("seed {seed}"));
    let recipe = plan.recipe_of(seed);
    let seed_folder =
        RunFolder::create_or_open(&folder.join(format!("seed-{seed}")), &recipe.to_toml())?;
    let run = Run { folder: &seed_folder, recipe: &recipe, base, context: *context };
    let start = Start::first(&recipe, base, &plan.model_dir)?;
    let hashes = plan.reward_hashes()?;
    let prompted = prompts::run(&run)?;
    let expanded = expand::run(&run, &prompted)?;
    let generated = generate::run(&run, &start, &expanded)?;
    let scored = score::run(&run, &plan.rewards, &hashes, &generated)?;
    let pairs = if plan.entries.iter().any(|e| e.method.data.annotated()) {
        Some(pairs::run(&run, plan, &start.hash, &prompted)?)
    } else {
        None
    };
    let judge = Judge::new(&run, plan, &hashes)?;
    let shared = Shared { run, model_hash: start.hash, generated, scored, pairs };
    work(&shared, &judge)
}

/// Trains and measures every method on one seed.
fn train_all(
    plan: &Plan,
    folder: &RunFolder,
    shared: &Shared<'_>,
    judge: &Judge<'_>,
) -> Result<()> {
    let base_scores = tune::base(shared, plan, judge)?;
    for entry in &plan.entries {
        if let Some(factor) = entry.method.data.guidance() {
            guided::run(shared, plan, judge, entry, factor, &base_scores)?;
            continue;
        }
        let of = match entry.takes_from_craft() {
            true => plan.entries.iter().find(|e| e.name == "craft").unwrap_or(entry),
            false => entry,
        };
        let settings = search::settings(plan, folder.path(), of)?;
        tune::run(shared, plan, judge, entry, &settings, &base_scores)?;
    }
    Ok(())
}
