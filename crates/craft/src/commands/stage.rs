//! `craft expand|generate|score|select|train|evaluate|report RUN_DIR`

use std::path::Path;

use craft_pipeline::Context;
use serde_json::json;

use super::App;
use crate::pocket_world::PocketWorld;
use crate::progress::Reporter;
use crate::{console, interrupt};

/// Runs or resumes one stage of a run.
pub(super) fn stage(app: &App, run_dir: &Path, stage: &str) -> anyhow::Result<()> {
    let progress = Reporter::new(app.level);
    let context =
        Context { progress: &progress, stop: interrupt::stop_flag()?, world: Some(&PocketWorld) };
    craft_pipeline::run::run_stage(run_dir, stage, &context)?;
    if app.json {
        let done = json!({ "stage": stage, "run_dir": run_dir.display().to_string() });
        console::result(&done.to_string())?;
    } else if stage == "report" {
        console::result(&format!("report: {}", run_dir.join("report/index.html").display()))?;
    }
    Ok(())
}
