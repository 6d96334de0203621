//! `craft demo`

use std::path::PathBuf;

use craft_pipeline::recipes::{DEMO_RECIPE, QUICK_DEMO_RECIPE};

use super::{App, run};
use crate::cli::DemoArgs;

/// The whole loop on the embedded model.
pub(super) fn demo(app: &App, args: &DemoArgs) -> anyhow::Result<()> {
    let recipe = if args.quick { QUICK_DEMO_RECIPE } else { DEMO_RECIPE };
    let overrides: Vec<String> = args.seed.iter().map(|seed| format!("seed={seed}")).collect();
    let out = args.out.clone().unwrap_or_else(|| {
        let quick = if args.quick { "-quick" } else { "" };
        let seed = args.seed.map_or(String::new(), |seed| format!("-seed-{seed}"));
        PathBuf::from(format!("runs/demo{quick}{seed}"))
    });
    run::execute(app, recipe, &overrides, &out, &std::env::current_dir()?)
}
