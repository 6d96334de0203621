//! A whole run: checks before the first expensive step, the stages in order, the summary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use craft_core::Recipe;
use craft_core::recipe::{ExpandKind, TrainMode};
use craft_core::select::Shortfall;
use craft_store::{Manifest, RunFolder, Stage};
use serde_json::{Value, json};

use crate::cache::WORDINGS;
use crate::context::Context;
use crate::cost::{Cost, Work};
use crate::error::{PipelineError, Result};
use crate::origin::{self, Origin};
use crate::rewards::{self, Pins, RewardSource, RunReward};
use crate::rounds;
use crate::stages::train::Arm;
use crate::stages::{
    Run, evaluate, expand, generate, prompts, score, select, sweep, train, wording,
};
use crate::start::Start;
use craft_model::source::{self, Found};
use craft_train::networks::say_unplaced;

/// What a finished run says of itself: the contents of `run.json`.
#[derive(Clone, Debug)]
pub struct Summary {
    /// `run.json`.
    pub json: Value,
    /// The report's page.
    pub report: PathBuf,
}

/// Names of the stages in order.
pub const STAGES: [&str; 8] =
    ["prompts", "expand", "generate", "score", "select", "train", "evaluate", "report"];

/// Runs a recipe from start to report, or continues a run that was stopped.
///
/// # Errors
/// See [`PipelineError`]; what was done is kept, and the same call continues.
pub fn run(
    recipe_text: &str,
    overrides: &[String],
    out: &Path,
    base: &Path,
    context: &Context<'_>,
) -> Result<Summary> {
    let recipe = Recipe::parse(recipe_text, overrides)?;
    let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
    origin::check_precision(out)?;
    let plan = Plan::again(&recipe, &base, out, context)?;
    plan.check(&recipe, &base, Some(out), context)?;
    let folder = RunFolder::create_or_open(out, &recipe.to_toml())?;
    let origin = Origin::now(&base, plan.model.commit.as_deref());
    Origin { rewards: plan.pins(), ..origin }.write(folder.path())?;
    execute(&folder, &recipe, &base, context, &plan, None)
}

/// Runs one stage of an existing run and those before it that are not finished.
///
/// # Errors
/// See [`PipelineError`].
pub fn run_stage(run_dir: &Path, stage: &str, context: &Context<'_>) -> Result<()> {
    if !STAGES.contains(&stage) {
        return Err(PipelineError::Usage(format!(
            "there is no stage {stage}; expected one of {}",
            STAGES.join(", ")
        )));
    }
    let folder = RunFolder::open(run_dir)?;
    origin::check_precision(run_dir)?;
    let (recipe, base) = recipe_of(run_dir)?;
    let plan = Plan::again(&recipe, &base, run_dir, context)?;
    plan.check(&recipe, &base, Some(run_dir), context)?;
    execute(&folder, &recipe, &base, context, &plan, Some(stage)).map(|_| ())
}

/// The recipe of a run and the folder that its paths are relative to.
fn recipe_of(run_dir: &Path) -> Result<(Recipe, PathBuf)> {
    let recipe = Recipe::parse::<String>(&craft_store::run::read_recipe(run_dir)?, &[])?;
    let base = Origin::of(run_dir).map_or_else(|| run_dir.to_owned(), |origin| origin.base);
    Ok((recipe, base))
}

/// The recipe of a run, the folder that its paths are relative to, and the folder of its base model. Nothing
/// is written, so the run may be one that cannot be written to, or that is at work.
pub(crate) fn model_of(
    run_dir: &Path,
    context: &Context<'_>,
) -> Result<(Recipe, PathBuf, PathBuf)> {
    let (recipe, base) = recipe_of(run_dir)?;
    let found = model(&recipe, &base, commit_of(run_dir).as_deref(), context)?;
    Ok((recipe, base, found.dir))
}

/// The commit of the hub that a run began with, and keeps whatever its branch does.
fn commit_of(run_dir: &Path) -> Option<String> {
    Origin::of(run_dir)?.commit
}

fn model(
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

/// What a run would do, without doing it: the resolved recipe, and as comments what it would cost. One
/// prediction and one training pass are measured for it.
///
/// # Errors
/// The same as a run's before its first expensive step.
pub fn dry_run(
    recipe_text: &str,
    overrides: &[String],
    base: &Path,
    context: &Context<'_>,
) -> Result<String> {
    let recipe = Recipe::parse(recipe_text, overrides)?;
    let plan = Plan::new(&recipe, base, None, context)?;
    let (train, eval) = plan.check(&recipe, base, None, context)?;
    let model = crate::start::training_model(&recipe, base, &plan.model.dir)?;
    if let Some(text) = crate::stages::generate::advise(&recipe.generate, &model) {
        context.progress.note(&text);
    }
    let work = Work::of(&recipe, train, eval);
    let cost = Cost::of(&recipe, &model, &work)?;
    if recipe.train.mode == TrainMode::Lora {
        say_unplaced(&recipe.train.lora, &craft_model::lora::parts(&model), context.progress)?;
    }
    let warning = cost.warning();
    if let Some(warning) = &warning {
        context.progress.note(&format!("warning: {warning}"));
    }
    let time = match warning {
        Some(_) => "not measured, since a training pass does not fit".to_owned(),
        None => cost.time(&recipe, model, &work)?,
    };
    let lines = [work.line(&recipe), cost.lines(plan.disk(work.candidates)), time];
    let comments: String = lines.join("\n").lines().map(|line| format!("# {line}\n")).collect();
    Ok(format!("{}\n{comments}", recipe.to_toml()))
}

/// Folders that a run reads.
pub(crate) struct Plan {
    pub(crate) model: Found,
    pub(crate) rewards: Vec<RunReward>,
}

impl Plan {
    pub(crate) fn new(
        recipe: &Recipe,
        base: &Path,
        commit: Option<&str>,
        context: &Context<'_>,
    ) -> Result<Self> {
        Self::pinned(recipe, base, commit, &Pins::new(), context)
    }

    /// With the commits that a run began with, if it began before.
    fn again(recipe: &Recipe, base: &Path, run_dir: &Path, context: &Context<'_>) -> Result<Self> {
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
    fn pins(&self) -> Pins {
        let commits = self.rewards.iter().filter_map(|reward| match &reward.source {
            RewardSource::Weights(weights) => Some(weights.commits().clone()),
            RewardSource::External(..) => None,
        });
        commits.flatten().collect()
    }

    fn disk(&self, candidates: usize) -> u64 {
        (candidates as u64) * (16 << 10) + (64 << 20)
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
        craft_train::methods::of_recipe(recipe)?.check_run(recipe)?;
        // A run that asked before can be done again without the server.
        let asked = folder.is_some_and(|folder| folder.join(WORDINGS).exists());
        if recipe.expand.kind == ExpandKind::Openai && !asked {
            wording::model(&recipe.expand)?;
        }
        if let (ExpandKind::File, Some(file)) = (recipe.expand.kind, &recipe.expand.file) {
            craft_store::input::open(&base.join(file))?;
        }
        let dir = prompts_of(base, recipe, context)?;
        let device = burn::tensor::Device::flex();
        let model = crate::start::training_model(recipe, base, &self.model.dir)?;
        if recipe.train.mode == TrainMode::Lora {
            let parts = craft_model::lora::parts(&model);
            craft_train::networks::fresh_factors(&recipe.train.lora, recipe.seed, &parts)?;
        }
        generate::options(&recipe.generate, &model)?;
        for reward in &self.rewards {
            rewards::load_source(&reward.name, &reward.source, &device)?;
        }
        let mut cut = 0;
        for prompt in &dir {
            cut += usize::from(model.tokens_cut(&prompt.text) > 0);
        }
        if cut > 0 {
            context.progress.note(&format!(
                "{cut} prompts are longer than {} tokens; their ends are cut off",
                model.tokenizer.length()
            ));
        }
        let train = dir.iter().filter(|p| p.split == craft_core::Split::Train).count();
        Ok((train, dir.len() - train))
    }
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

fn execute(
    folder: &RunFolder,
    recipe: &Recipe,
    base: &Path,
    context: &Context<'_>,
    plan: &Plan,
    last: Option<&str>,
) -> Result<Summary> {
    // Rounds before the last have folders of their own; the last is the run.
    let earlier = match last {
        Some("prompts" | "expand") => None,
        _ => rounds::earlier(folder, recipe, base, context, (&plan.model.dir, &plan.rewards))?,
    };
    let recipe = &rounds::share(recipe);
    let run = Run { folder, recipe, base, context: *context };
    let mut hashes = BTreeMap::new();
    for reward in &plan.rewards {
        hashes.insert(reward.name.clone(), reward.hash()?);
    }
    let mut seconds = serde_json::Map::new();
    let start = match earlier {
        Some(earlier) => {
            seconds.insert("rounds".to_owned(), json!(earlier.seconds));
            earlier.start
        }
        None => Start::first(recipe, base, &plan.model.dir)?,
    };
    let nothing = || Summary { json: Value::Null, report: folder.join("report/index.html") };
    let until = |stage: &str| last == Some(stage);
    let note = |seconds: &mut serde_json::Map<String, Value>, m: &Manifest| {
        seconds.insert(m.stage.clone(), json!(m.seconds));
    };

    let prompted = prompts::run(&run)?;
    if until("prompts") {
        return Ok(nothing());
    }
    let expanded = expand::run(&run, &prompted)?;
    note(&mut seconds, &expanded);
    if until("expand") {
        return Ok(nothing());
    }
    let train = prompted.counts.get("train").map_or(1, |n| *n as usize);
    if Manifest::of(folder.path(), &Stage::GENERATE)?.is_none() {
        // What an interrupted attempt wrote is not needed once more.
        let there = craft_store::space::used_bytes(&folder.join(Stage::GENERATE.folder()));
        let needed = plan.disk(recipe.candidate_count(train)).saturating_sub(there);
        craft_store::space::require_free(folder.path(), needed)?;
    }
    let generated = generate::run(&run, &start, &expanded)?;
    note(&mut seconds, &generated);
    if until("generate") {
        return Ok(nothing());
    }
    let scored = score::run(&run, &plan.rewards, &hashes, &generated)?;
    note(&mut seconds, &scored);
    if until("score") {
        return Ok(nothing());
    }
    let selected = select::run(&run, &scored)?;
    note(&mut seconds, &selected);
    if until("select") {
        return Ok(nothing());
    }
    let inputs = [&generated, &selected];
    let watchers = (plan.rewards.as_slice(), &hashes);
    let trained = train::run(&run, Arm::Craft, &start, inputs, watchers)?;
    note(&mut seconds, &trained);
    let mut models = vec![("base", plan.model.dir.clone()), ("tuned", folder.join("aligned"))];
    let mut stages = vec![&prompted, &trained];
    let control = if recipe.control.enabled {
        Some(train::run(&run, Arm::Control, &start, inputs, watchers)?)
    } else {
        None
    };
    if let Some(control) = &control {
        note(&mut seconds, control);
        models.push(("control", folder.join("control/aligned")));
        stages.push(control);
    }
    if until("train") {
        return Ok(nothing());
    }
    let evaluated = evaluate::run(&run, &models, &plan.rewards, &hashes, &stages)?;
    note(&mut seconds, &evaluated);
    if until("evaluate") {
        return Ok(nothing());
    }
    if recipe.sweep.enabled {
        let models = [plan.model.dir.as_path(), &folder.join("aligned")];
        let stages = [&prompted, &trained];
        note(&mut seconds, &sweep::run(&run, models, &plan.rewards, &hashes, &stages)?);
    }
    let total: f64 = seconds.values().filter_map(Value::as_f64).sum();
    seconds.insert("total".to_owned(), json!(total));
    let evaluation: Value =
        craft_store::manifest::read_json(&folder.join("evaluation/evaluation.json"))?;
    let count = |m: &Manifest, name: &str| m.counts.get(name).copied().unwrap_or(0);
    let passed: serde_json::Map<String, Value> = selected
        .counts
        .iter()
        .filter_map(|(name, n)| Some((name.strip_prefix("passed.")?.to_owned(), json!(n))))
        .collect();
    let origins: BTreeMap<&str, Value> =
        plan.rewards.iter().map(|reward| (reward.name.as_str(), reward.origin())).collect();
    let json = json!({
        "code_version": env!("CARGO_PKG_VERSION"),
        "seed": recipe.seed,
        "model": { "path": recipe.model.path, "commit": plan.model.commit },
        "reward_origins": origins,
        "matmul_precision": origin::matmul_precision(),
        "rounds": recipe.rounds.count,
        "seconds": seconds,
        "peak_rss_bytes": peak_rss_bytes(),
        "prompts": count(&prompted, "train"),
        "evaluation_prompts": count(&prompted, "eval"),
        "candidates": count(&generated, "candidates"),
        "passed": passed,
        "passed_all": count(&selected, "passed"),
        "selected": count(&selected, "selected"),
        "images": count(&generated, "candidates") + count(&evaluated, "images"),
        "asked": recipe.select.max_samples,
        "train_mode": recipe.train.mode,
        "warnings": warnings(folder)?,
        "verdict": craft_report::verdict(folder.path())?,
        "evaluation": evaluation["rewards"],
    });
    craft_store::manifest::write_json(&folder.join("run.json"), &json)?;
    let report = craft_report::write_report(folder.path())?;
    Ok(Summary { json, report })
}

/// What a reader of the summary should not miss.
fn warnings(folder: &RunFolder) -> Result<Vec<String>> {
    let path = folder.join("selection").join(select::SHORTFALL);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let short: Shortfall = craft_store::manifest::read_json(&path)?;
    Ok(vec![short.text])
}

/// Seconds that processors have worked for this process, all threads together; 0 where the system does not
/// tell. Unlike time on the clock it says little of what else the machine does.
pub(crate) fn cpu_seconds() -> f64 {
    craft_store::meter::cpu_seconds().unwrap_or_default()
}

/// Peak resident memory of this process in bytes; 0 where the system does not tell.
pub fn peak_rss_bytes() -> u64 {
    craft_store::meter::peak_rss_bytes().unwrap_or_default()
}
