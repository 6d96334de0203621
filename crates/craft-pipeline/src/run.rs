//! A whole run, or a part of it: checks before the first expensive step, the stages, the summary.

use std::path::{Path, PathBuf};

use craft_core::Recipe;
use craft_core::recipe::TrainMode;
use craft_store::RunFolder;

use crate::context::Context;
use crate::driver::Advance;
use crate::error::{PipelineError, Result};
use crate::origin::{self, Origin};
use crate::plan;
use crate::rounds;
pub(crate) use crate::sources::Sources as Plan;
use crate::sources::{self, Sources};
use crate::stages::Run;
pub use crate::stages::table::StageId;
use crate::start::Start;
use crate::summary;
pub use crate::summary::Summary;
use craft_train::networks::say_unplaced;

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
    origin::check_arithmetic(out, context.compute)?;
    let sources = Sources::again(&recipe, &base, out, context)?;
    // A run is planned once: what it takes is compared with that.
    let first = !out.join(plan::FILE).exists();
    let found = sources.survey(&recipe, &base, Some(out), first, context)?;
    found.plan.check(out, StageId::Report, context)?;
    let folder = RunFolder::create_or_open(out, &recipe.to_toml())?;
    let origin = Origin::now(&base, sources.model.commit.as_deref(), context.compute);
    Origin { rewards: sources.pins(), ..origin }.write(folder.path())?;
    found.plan.keep(&folder)?;
    let whole = Whole { folder: &folder, recipe: &recipe, base: &base, context, sources: &sources };
    whole.perform(StageId::Report).and_then(|summary| {
        summary.ok_or_else(|| PipelineError::Usage("a run ended without its report".to_owned()))
    })
}

/// Runs one stage of an existing run and those before it that are not finished.
///
/// # Errors
/// See [`PipelineError`].
pub fn run_stage(run_dir: &Path, stage: &str, context: &Context<'_>) -> Result<()> {
    let last = StageId::of_command(stage).ok_or_else(|| {
        let names = StageId::COMMANDS.map(|(name, _)| name).join(", ");
        PipelineError::Usage(format!("there is no stage {stage}; expected one of {names}"))
    })?;
    let folder = RunFolder::open(run_dir)?;
    origin::check_arithmetic(run_dir, context.compute)?;
    let (recipe, base) = recipe_of(run_dir)?;
    let sources = Sources::again(&recipe, &base, run_dir, context)?;
    let found = sources.survey(&recipe, &base, Some(run_dir), false, context)?;
    found.plan.check(run_dir, last, context)?;
    let whole = Whole { folder: &folder, recipe: &recipe, base: &base, context, sources: &sources };
    whole.perform(last).map(|_| ())
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
    let commit = Origin::of(run_dir).and_then(|origin| origin.commit);
    let found = sources::model(&recipe, &base, commit.as_deref(), context)?;
    Ok((recipe, base, found.dir))
}

/// What a run would do, without doing it: the resolved recipe, and as comments what it would take. One pass of
/// each kind of work is measured for it.
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
    let sources = Sources::new(&recipe, base, None, context)?;
    let found = sources.survey(&recipe, base, None, true, context)?;
    let model = crate::start::training_model(&recipe, base, &sources.model.dir, context.device())?;
    if let Some(text) = crate::stages::generate::advise(&recipe.generate, &model) {
        context.progress.note(&text);
    }
    if recipe.train.mode == TrainMode::Lora {
        say_unplaced(&recipe.train.lora, &craft_model::lora::parts(&model), context.progress)?;
    }
    let mut lines = vec![found.work.line(&recipe), found.cost.lines(), found.plan.lines()];
    if let Some(warning) = found.cost.warning() {
        context.progress.note(&format!("warning: {warning}"));
        lines.push("time: not measured, since a training pass does not fit".to_owned());
    }
    let comments: String = lines.join("\n").lines().map(|line| format!("# {line}\n")).collect();
    Ok(format!("{}\n{comments}", recipe.to_toml()))
}

/// A run with all its rounds.
struct Whole<'a> {
    folder: &'a RunFolder,
    recipe: &'a Recipe,
    base: &'a Path,
    context: &'a Context<'a>,
    sources: &'a Sources,
}

impl Whole<'_> {
    /// Performs all stages up to `last` and with it; with the report there is a summary.
    fn perform(&self, last: StageId) -> Result<Option<Summary>> {
        let sources = (self.sources.model.dir.as_path(), self.sources.rewards.as_slice());
        // Rounds before the last have folders of their own; the last is the run.
        let earlier = match last {
            StageId::Prompts | StageId::Expand => None,
            _ => rounds::earlier(self.folder, self.recipe, self.base, self.context, sources)?,
        };
        let (start, seconds) = match earlier {
            Some(earlier) => (earlier.start, Some(earlier.seconds)),
            None => (Start::first(self.recipe, self.base, sources.0, self.context.device())?, None),
        };
        let recipe = &rounds::share(self.recipe);
        let run = Run { folder: self.folder, recipe, base: self.base, context: *self.context };
        let mut at = Advance::new(run, start, sources)?;
        at.until(last)?;
        if last < StageId::Report {
            return Ok(None);
        }
        summary::write(&at, self.sources, seconds).map(Some)
    }
}
