//! `craft expand|generate|score|select|train|evaluate|report RUN_DIR`

use std::io::ErrorKind;
use std::path::Path;

use craft_pipeline::{Context, PipelineError};
use craft_store::StoreError;
use serde_json::json;

use super::App;
use crate::cli::ReportArgs;
use crate::pocket_world::PocketWorld;
use crate::progress::Reporter;
use crate::{console, interrupt};

/// Runs or resumes one stage of a run.
pub(super) fn stage(app: &App, run_dir: &Path, stage: &str) -> anyhow::Result<()> {
    let progress = Reporter::new(app.level);
    let context = Context {
        progress: &progress,
        stop: interrupt::stop_flag()?,
        compute: &app.compute,
        world: Some(&PocketWorld),
    };
    craft_pipeline::run::run_stage(run_dir, stage, &context)?;
    if app.json {
        let done = json!({ "stage": stage, "run_dir": run_dir.display().to_string() });
        console::result(&done.to_string())?;
    } else if stage == "report" {
        console::result(&format!("report: {}", run_dir.join("report/index.html").display()))?;
    }
    Ok(())
}

/// Writes the page of a run, in its own folder or elsewhere.
pub(super) fn report(app: &App, args: &ReportArgs) -> anyhow::Result<()> {
    let Some(out) = &args.out else {
        return stage(app, &args.run_dir, "report").map_err(|error| match is_refused_write(&error) {
            true => error.context(
                "the page is written into the run, which cannot be written to; give --out DIR to write it elsewhere",
            ),
            false => error,
        });
    };
    let page = craft_report::write_report_to(&args.run_dir, out)?;
    let line = match app.json {
        true => json!({ "stage": "report", "page": page.display().to_string() }).to_string(),
        false => format!("report: {}", page.display()),
    };
    console::result(&line)
}

/// Whether the system does not let us write.
fn is_refused_write(error: &anyhow::Error) -> bool {
    let refused = |error: &StoreError| match error {
        StoreError::Io { source, .. } => {
            matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
        }
        _ => false,
    };
    match error.downcast_ref::<PipelineError>() {
        Some(PipelineError::Store(error)) => refused(error),
        _ => false,
    }
}
