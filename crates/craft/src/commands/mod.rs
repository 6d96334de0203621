//! One file per command.

mod bench;
mod compare;
mod demo;
mod doctor;
mod export;
mod forward;
mod pocket;
mod run;
mod sample;
mod score;
mod stage;
mod summary;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::Context;
use craft_model::Compute;
use craft_model::source;
use craft_nn::ops::{Precision, Speeds, amx_active, set_precision};

use crate::cli::{Cli, Command, MatmulPrecision};
use crate::console::Level;
use crate::exit::usage;
use crate::progress::Reporter;

/// What every command is given.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// Where to compute.
    pub(crate) compute: Compute,
    /// Results as JSON.
    pub(crate) json: bool,
    /// How much is said.
    pub(crate) level: Level,
}

/// Name of the embedded model.
const POCKET: &str = "pocket";

/// Runs the command.
pub(crate) fn dispatch(cli: &Cli, level: Level) -> anyhow::Result<()> {
    let app = App {
        compute: Compute::of_name(&cli.global.device).map_err(usage)?,
        json: cli.global.json,
        level,
    };
    if let Some(threads) = cli.global.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(usize::from(threads))
            .build_global()
            .context("cannot start the threads")?;
    }
    if cli.global.matmul_precision == MatmulPrecision::Bf16 {
        multiply_bf16()?;
    }
    match &cli.command {
        Command::Demo(args) => demo::demo(&app, args),
        Command::Run(args) => run::run(&app, args),
        Command::Expand(args) => stage::stage(&app, &args.run_dir, "expand"),
        Command::Generate(args) => stage::stage(&app, &args.run_dir, "generate"),
        Command::Score(args) => score::score(&app, args),
        Command::Select(args) => stage::stage(&app, &args.run_dir, "select"),
        Command::Train(args) => stage::stage(&app, &args.run_dir, "train"),
        Command::Evaluate(args) => stage::stage(&app, &args.run_dir, "evaluate"),
        Command::Report(args) => stage::report(&app, args),
        Command::Verify(args) => verify::verify(&app, args),
        Command::Sample(args) => sample::sample(&app, args),
        Command::Forward(args) => forward::forward(&app, args),
        Command::Compare(args) => compare::compare(&app, args),
        Command::Bench(args) => bench::bench(&app, args),
        Command::Export(args) => export::export(&app, args),
        Command::Doctor => doctor::doctor(&app),
        Command::Pocket(command) => pocket::pocket(command),
    }
}

/// Chooses bf16 for products, and says so where that makes them slower.
fn multiply_bf16() -> anyhow::Result<()> {
    if !set_precision(Precision::Bf16) {
        return Err(usage(
            "--matmul-precision bf16: this processor has no bf16 multiply-adds (AVX-512 BF16); expected f32",
        ));
    }
    if !amx_active() {
        let speeds = Speeds::measure();
        if !speeds.bf16_pays() {
            tracing::warn!(
                "--matmul-precision bf16: this processor multiplies bf16 at {:.0} GFLOP/s and f32 at {:.0}: f32 is faster here",
                speeds.bf16.unwrap_or_default(),
                speeds.f32
            );
        }
    }
    Ok(())
}

/// The folder of a model: the embedded one by its name, a folder, a single file or a repository.
fn model_dir(app: &App, model: &str, config: Option<&Path>) -> anyhow::Result<PathBuf> {
    if model == POCKET && !Path::new(model).exists() {
        return pocket::assets();
    }
    let progress = Reporter::new(app.level);
    Ok(source::resolve(model, config, Path::new(""), None, &progress)?.dir)
}
