//! `craft compare`: methods of preference tuning head to head, on the same base model, prompts, draws of
//! candidates and evaluation, over several seeds.
//!
//! A comparison is a folder. `seed-N/` is a run folder with what all methods of a seed share (prompts,
//! expansions, candidates, scores, annotated pairs); below it `methods/NAME/` is a stage per method, with the
//! scores of its pictures, its curve along training and its weights, and `search/NAME/` the search of its
//! learning rate and length. Whatever is finished is not done again, so a killed comparison continues, and
//! further methods and seeds join an old one.

mod ablations;
mod change;
mod conclusion;
mod convergence;
mod cost;
mod data;
mod entry;
mod evaluator;
mod fit;
mod guided;
mod limits;
mod methods;
mod options;
mod pairs;
mod plan;
mod result;
mod rounds;
mod scores;
mod search;
mod settings;
mod spread;
mod summary;
mod table;
mod tune;

use std::path::{Path, PathBuf};

use craft_pipeline::client as pipeline;
use craft_store::{Manifest, RunFolder};
use serde_json::Value;

use entry::SettingsFrom;
use evaluator::Evaluator;
use pipeline::{Candidates, Context, Result, Run, Start, candidates};
use plan::Plan;

pub use ablations::Ablation;
pub use craft_train::methods::{Method, all as methods};
pub use methods::{default_methods, method};
pub use options::{FACT_LOSS, Options, PAIRS, QUICK_SEEDS, SEARCH_SEEDS, SEEDS, Seeds};

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
/// See [`pipeline::PipelineError`]; what was done is kept, and the same call continues.
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
    let folder = pipeline::folder(out, &plan.recipe, &base, context)?;
    for &seed in plan.searched() {
        with_seed(&plan, seed, &folder, &base, context, &mut |shared, evaluator| {
            let mut own = plan.entries.iter().filter(|entry| entry.searches());
            own.try_for_each(|entry| search::run(shared, &plan, evaluator, entry))
        })?;
    }
    let mut result = None;
    for &seed in &plan.seeds {
        with_seed(&plan, seed, &folder, &base, context, &mut |shared, evaluator| {
            train_all(&plan, &folder, shared, evaluator)
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
    let comments: String =
        cost::lines(&plan, context.device())?.iter().map(|line| format!("# {line}\n")).collect();
    Ok(format!("{}\n{comments}", plan.recipe.to_toml()))
}

/// What all methods of a seed share.
struct Shared<'a> {
    run: Run<'a>,
    model_hash: String,
    generated: Manifest,
    scored: Manifest,
    /// Annotated pairs, if a method needs them.
    pairs: Option<Manifest>,
}

/// Does something with what all methods of a seed share, which is made unless it is there.
fn with_seed(
    plan: &Plan,
    seed: u64,
    folder: &RunFolder,
    base: &Path,
    context: &Context<'_>,
    work: &mut dyn FnMut(&Shared<'_>, &Evaluator<'_>) -> Result<()>,
) -> Result<()> {
    context.progress.note(&format!("seed {seed}"));
    let recipe = plan.recipe_of(seed);
    let seed_folder =
        RunFolder::create_or_open(&folder.join(format!("seed-{seed}")), &recipe.to_toml())?;
    let run = Run { folder: &seed_folder, recipe: &recipe, base, context: *context };
    let start = Start::first(&recipe, base, &plan.model_dir, context.device())?;
    let hashes = plan.reward_hashes()?;
    let Candidates { prompted, generated, scored } =
        candidates(&run, &start, &plan.rewards, &hashes)?;
    let pairs = if plan.entries.iter().any(|e| e.method.data.annotated()) {
        Some(pairs::run(&run, plan, &start.hash, &prompted)?)
    } else {
        None
    };
    let evaluator = Evaluator::new(&run, plan, &hashes)?;
    let shared = Shared { run, model_hash: start.hash, generated, scored, pairs };
    work(&shared, &evaluator)
}

/// Trains and measures every method on one seed.
fn train_all(
    plan: &Plan,
    folder: &RunFolder,
    shared: &Shared<'_>,
    evaluator: &Evaluator<'_>,
) -> Result<()> {
    let base_scores = tune::base(shared, plan, evaluator)?;
    for entry in &plan.entries {
        if let Some(factor) = entry.method.data.guidance() {
            guided::run(shared, plan, evaluator, entry, factor, &base_scores)?;
            continue;
        }
        let chooser = match entry.settings {
            SettingsFrom::Craft => plan.craft().unwrap_or(entry),
            _ => entry,
        };
        let settings = search::settings(plan, folder.path(), chooser)?;
        tune::run(shared, plan, evaluator, entry, &settings, &base_scores)?;
    }
    Ok(())
}
