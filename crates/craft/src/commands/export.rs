//! `craft export`

use std::sync::atomic::AtomicBool;

use craft_pipeline::Context;
use craft_pipeline::export::{Format, export as write};
use serde_json::json;

use super::App;
use crate::cli::{ExportArgs, ExportFormat};
use crate::pocket_world::PocketWorld;
use crate::progress::Reporter;
use crate::{console, interrupt};

/// Writes the tuned model of a run in another tool's format.
pub(super) fn export(app: &App, args: &ExportArgs) -> anyhow::Result<()> {
    interrupt::exit_at_once()?;
    let progress = Reporter::new(app.level);
    // Nothing is worth saving half-way, so the flag is never raised.
    static GO_ON: AtomicBool = AtomicBool::new(false);
    let context = Context { progress: &progress, stop: &GO_ON, world: Some(&PocketWorld) };
    let format = match args.format {
        ExportFormat::Diffusers => Format::Diffusers,
        ExportFormat::LoraKohya => Format::LoraKohya,
        ExportFormat::LoraDiffusers => Format::LoraDiffusers,
        ExportFormat::SingleFile => Format::SingleFile,
    };
    let done = write(&args.run_dir, format, &args.out, usize::from(args.rank), &context)?;
    let shown = args.out.display().to_string();
    if app.json {
        let line = json!({
            "out": shown, "adapted": done.adapted, "captured": done.captured,
            "mean_difference": done.mean_difference, "max_difference": done.max_difference,
        });
        return console::result(&line.to_string());
    }
    let what = match format {
        Format::Diffusers => "model folder".to_owned(),
        Format::SingleFile => "checkpoint".to_owned(),
        _ => format!(
            "LoRA on {} parameters, {:.1} % of the squared change",
            done.adapted,
            100.0 * done.captured
        ),
    };
    console::result(&format!(
        "{shown}: {what}; read back, its picture differs from the tuned model's by {:.2} of 255 on average, {} at most",
        done.mean_difference, done.max_difference
    ))
}
