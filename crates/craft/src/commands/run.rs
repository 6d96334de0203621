//! `craft run`

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use craft_pipeline::Context;
use craft_store::input;

use super::{App, summary};
use crate::cli::RunArgs;
use crate::pocket_world::PocketWorld;
use crate::progress::Reporter;
use crate::{console, interrupt};

/// Runs a recipe.
pub(super) fn run(app: &App, args: &RunArgs) -> anyhow::Result<()> {
    let text = read_recipe(&args.recipe)?;
    let base_dir = base_dir(&args.recipe);
    let rounds = args.rounds.map(|n| format!("rounds.count={n}"));
    let set: Vec<String> = args.set.iter().cloned().chain(rounds).collect();
    if args.dry_run {
        let progress = Reporter::new(app.level);
        let context = Context {
            progress: &progress,
            stop: interrupt::stop_flag()?,
            compute: &app.compute,
            world: Some(&PocketWorld),
        };
        let plan = craft_pipeline::run::dry_run(&text, &set, &base_dir, &context)?;
        return console::result(plan.trim_end());
    }
    let out = args.out.clone().unwrap_or_else(|| {
        Path::new("runs").join(args.recipe.file_stem().unwrap_or("run".as_ref()))
    });
    execute(app, &text, &set, &out, &base_dir)
}

/// Runs or resumes a recipe in a folder and prints how it ended.
pub(super) fn execute(
    app: &App,
    recipe: &str,
    overrides: &[String],
    out: &Path,
    base_dir: &Path,
) -> anyhow::Result<()> {
    let progress = Reporter::new(app.level);
    let context = Context {
        progress: &progress,
        stop: interrupt::stop_flag()?,
        compute: &app.compute,
        world: Some(&PocketWorld),
    };
    let summary = craft_pipeline::run::run(recipe, overrides, out, base_dir, &context)?;
    summary::print(app, out, base_dir, &summary)
}

/// The folder that paths of a recipe are relative to.
pub(super) fn base_dir(recipe: &Path) -> PathBuf {
    match recipe.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

pub(super) fn read_recipe(path: &Path) -> anyhow::Result<String> {
    input::read_text(path, input::MAX_RECIPE).context("the recipe cannot be read")
}
