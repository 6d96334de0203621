//! `craft compare`

use std::path::Path;

use craft_compare::Options;
use craft_pipeline::Context;

use super::{App, run};
use crate::cli::CompareArgs;
use crate::pocket_world::PocketWorld;
use crate::progress::Reporter;
use crate::{console, interrupt};

/// Compares methods, or continues.
pub(super) fn compare(app: &App, args: &CompareArgs) -> anyhow::Result<()> {
    let text = run::read_recipe(&args.recipe)?;
    let base_dir = run::base_dir(&args.recipe);
    let out = args.out.clone().unwrap_or_else(|| {
        let stem = args.recipe.file_stem().unwrap_or("recipe".as_ref()).to_string_lossy();
        Path::new("runs").join(format!("compare-{stem}"))
    });
    let options = Options {
        methods: args.methods.clone(),
        ablation: args.ablation,
        seeds: args.seeds.clone(),
        learning_rates: args.learning_rates.clone(),
        search_seeds: args.search_seeds,
        fact_loss: args.fact_loss,
        pairs: args.pairs,
        quick: args.quick,
        rounds: args.rounds,
    };
    let progress = Reporter::new(app.level);
    let context = Context {
        progress: &progress,
        stop: interrupt::stop_flag()?,
        compute: &app.compute,
        world: Some(&PocketWorld),
    };
    if args.dry_run {
        let plan = craft_compare::dry_run(&text, &args.set, &base_dir, &options, &context)?;
        return console::result(plan.trim_end());
    }
    let found = craft_compare::compare(&text, &args.set, &base_dir, &out, &options, &context)?;
    if app.json {
        let mut json = found.json;
        json["out"] = out.display().to_string().into();
        json["report"] = found.report.display().to_string().into();
        return console::result(&json.to_string());
    }
    console::result(found.table.trim_end())?;
    console::result(&format!("report: {}", found.report.display()))
}
