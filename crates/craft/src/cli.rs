//! The command line as types.

// The comments are the text of `--help`.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod bench;
mod compare;
mod compare_help;
mod export;
mod forward;
mod sample;

pub(crate) use bench::{BenchArgs, BenchKind, Simd};
pub(crate) use compare::CompareArgs;
pub(crate) use export::{ExportArgs, ExportDtype, ExportFormat};
pub(crate) use forward::{Component, ForwardArgs};
pub(crate) use sample::{Rng, SampleArgs};

/// Aligns a text-to-image diffusion model with human preference (CRAFT), from a model, a list of
/// prompts and a few reward models.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage or recipe, 3 bad input file, 4 stopped by the NaN
/// guard, 130 interrupted (state saved).
#[derive(Debug, Parser)]
#[command(name = "craft", version, max_term_width = 100, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where to compute: `cpu`
    #[arg(long, global = true, default_value = "cpu", value_name = "DEVICE")]
    pub(crate) device: String,
    /// Threads to compute with; all cores if not given. Does not change any result
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Dtype of matmuls: the operands of linear maps, attention, and those convolutions that are not faster
    /// in f32. Sums and the rest are f32; in bf16 GEGLU's saved input is rounded too. bf16 is faster with AMX,
    /// or AVX-512 BF16 at full speed (`craft doctor` says), and changes results by its rounding: keep to one
    /// dtype in a run
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) matmul_precision: MatmulPrecision,
    /// Results as JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// More messages (twice: everything)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// No progress and no messages but warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

/// Dtypes of `--matmul-precision`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum MatmulPrecision {
    /// 32 bits
    #[default]
    F32,
    /// bfloat16
    Bf16,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The whole loop on the embedded model: expand, generate, score, select, train, evaluate, report
    Demo(DemoArgs),
    /// Run a recipe; running it again resumes
    Run(RunArgs),
    /// Stage of a run: word the prompts in richer ways
    Expand(StageArgs),
    /// Stage of a run: draw the candidates
    Generate(StageArgs),
    /// Stage of a run: score the candidates. With --reward: score images, one JSON line each
    Score(ScoreArgs),
    /// Stage of a run: filter and weigh the candidates
    Select(StageArgs),
    /// Stage of a run: tune the model on the selection
    Train(StageArgs),
    /// Stage of a run: compare base and tuned model on prompts never trained on
    Evaluate(StageArgs),
    /// Stage of a run: write the report page
    Report(ReportArgs),
    /// Hash every file of a run and compare with what was recorded: what a start does not do. Exit code 3
    /// if one is missing or was changed
    Verify(StageArgs),
    /// Draw pictures
    Sample(SampleArgs),
    /// Run one component on tensors of a file, to compare with other implementations
    Forward(ForwardArgs),
    /// Compare methods of preference tuning over several seeds; running it again resumes
    Compare(CompareArgs),
    /// Measure the speed of sampling or training
    Bench(BenchArgs),
    /// Write the tuned model of a run for other tools
    Export(ExportArgs),
    /// Check this machine and the embedded models
    Doctor,
    /// The embedded world
    #[command(subcommand)]
    Pocket(PocketCommand),
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Run folder [default: runs/demo]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Seed of every random number
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// A smaller run, for a first look and for continuous integration
    #[arg(long)]
    pub(crate) quick: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The recipe; paths in it are relative to its folder
    #[arg(value_name = "RECIPE.toml")]
    pub(crate) recipe: PathBuf,
    /// Run folder [default: runs/<name of the recipe>]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Override a key of the recipe, such as train.steps=60 or rewards.pocket-aes.weight=2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// How often to draw, filter and tune, each time from the model of the round before; the same as
    /// --set rounds.count=N
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
    /// Check everything, measure one step, and print the plan with its cost, but begin nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StageArgs {
    /// Run folder, as written by `craft run`
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Run folder, as written by `craft run`
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run_dir: PathBuf,
    /// New folder for the page; the run itself is only read then, so it may be one that you may not write to
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    /// Run folder, or with --reward the images (PNG or JPEG)
    #[arg(value_name = "RUN_DIR | IMAGE", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Reward model: jpeg-size, colorfulness, pocket-hps, pocket-pick, pocket-aes, pocket-ir;
    /// hpsv2.1, hpsv2, pickscore, aesthetic, clipscore, clipscore-h, imagereward, mps with their
    /// published weights from the hub; NAME=WEIGHTS (a folder, a file or OWNER/REPOSITORY, or several
    /// after commas) with one of these names or your own; a program,
    /// NAME="command:python3 score.py" (words, or a JSON list of them); or a server,
    /// NAME=http://127.0.0.1:8000/score (docs/external-rewards.md)
    #[arg(long = "reward", value_name = "NAME[=SOURCE]", requires = "prompt")]
    pub(crate) rewards: Vec<String>,
    /// Longest time of an answer of a program or server [default: 60; first answer of a program: 600]
    #[arg(long, value_name = "SECONDS", requires = "rewards")]
    pub(crate) reward_timeout: Option<f64>,
    /// A server among the rewards may be another machine
    #[arg(long, requires = "rewards")]
    pub(crate) allow_remote: bool,
    /// What the images are to show
    #[arg(long, value_name = "TEXT", requires = "rewards")]
    pub(crate) prompt: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PocketCommand {
    /// Train the embedded models from seeds; running it again resumes
    Build(PocketBuildArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PocketBuildArgs {
    /// Folder that receives the models
    #[arg(long, value_name = "DIR", default_value = "assets/pocket")]
    pub(crate) out: PathBuf,
    /// Seed of every random number
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Factor on the length of training; less than 1 for a trial
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    pub(crate) scale: f64,
    /// tokenizer, vae, base, rewards [default: all]
    #[arg(value_name = "PART")]
    pub(crate) parts: Vec<String>,
}
