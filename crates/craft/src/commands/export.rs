//! `craft export`

use std::sync::atomic::AtomicBool;

use craft_model::dtype::Dtype;
use craft_pipeline::Context;
use craft_pipeline::export::{Exported, Format, Wish, export as write};
use serde_json::json;

use super::App;
use crate::cli::{ExportArgs, ExportDtype, ExportFormat};
use crate::pocket_world::PocketWorld;
use crate::progress::Reporter;
use crate::{console, interrupt};

/// Writes the tuned model of a run in another tool's format.
pub(super) fn export(app: &App, args: &ExportArgs) -> anyhow::Result<()> {
    interrupt::exit_at_once()?;
    let progress = Reporter::new(app.level);
    // Nothing is worth saving half-way, so the flag is never raised.
    static GO_ON: AtomicBool = AtomicBool::new(false);
    let context = Context {
        progress: &progress,
        stop: &GO_ON,
        compute: &app.compute,
        world: Some(&PocketWorld),
    };
    let format = match args.format {
        ExportFormat::Diffusers => Format::Diffusers,
        ExportFormat::LoraKohya => Format::LoraKohya,
        ExportFormat::LoraDiffusers => Format::LoraDiffusers,
        ExportFormat::SingleFile => Format::SingleFile,
    };
    let dtype = match args.dtype {
        ExportDtype::Base => Dtype::Base,
        ExportDtype::F16 => Dtype::F16,
        ExportDtype::Bf16 => Dtype::Bf16,
        ExportDtype::F32 => Dtype::F32,
    };
    let wish = Wish { format, rank: usize::from(args.rank), dtype };
    let done = write(&args.run_dir, &args.out, wish, &context)?;
    for lacking in &done.unplaced {
        tracing::warn!(
            "{} has no place for {} in a LoRA and leaves them out; ComfyUI and diffusers read all",
            lacking.program,
            lacking.modules.join(", ")
        );
    }
    let shown = args.out.display().to_string();
    if app.json {
        let line = json!({
            "out": shown, "adapted": done.adapted, "captured": done.captured, "dtype": done.dtype,
            "mean_difference": done.mean_difference, "max_difference": done.max_difference,
            "read_by": readers(format),
        });
        return console::result(&line.to_string());
    }
    console::result(&format!(
        "{shown}: {}, {}, read by {}; read back, its picture differs from the tuned model's by {:.2} of 255 on average, {} at most",
        kind(format, &done),
        done.dtype,
        readers(format),
        done.mean_difference,
        done.max_difference
    ))
}

fn kind(format: Format, done: &Exported) -> String {
    match format {
        Format::Diffusers => "model folder".to_owned(),
        Format::SingleFile => "checkpoint".to_owned(),
        Format::LoraKohya | Format::LoraDiffusers => format!(
            "LoRA on {} parameters, {:.1} % of the squared change",
            done.adapted,
            100.0 * done.captured
        ),
    }
}

/// Programs whose loaders were tried on files of a format (docs/exports.md).
fn readers(format: Format) -> &'static str {
    match format {
        Format::Diffusers => "diffusers",
        Format::LoraDiffusers => {
            "diffusers (ComfyUI reads only a part of it, A1111 and sd-scripts nothing: for them --format lora-kohya)"
        }
        Format::LoraKohya => "ComfyUI, A1111, sd-scripts and diffusers",
        Format::SingleFile => "ComfyUI, A1111, sd-scripts and diffusers",
    }
}
