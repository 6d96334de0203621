//! The command line as types.

// The comments are the text of `--help`.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use craft_compare::{Ablation, Method, Seeds, method};
use craft_core::sampler::SamplerKind;

use crate::samplers;

mod compare_help;

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
    /// Number format of the factors in linear maps, attention, and those convolutions that are not faster in
    /// f32; sums and the rest are f32, but for what a gate keeps for its backward pass. bf16 is faster
    /// where the processor has AMX, or AVX-512 BF16 at full speed (`craft doctor` says), and changes results by its
    /// rounding: keep to one format in a run
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

/// Number formats of `--matmul-precision`.
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
pub(crate) struct CompareArgs {
    /// The recipe that all methods share; paths in it are relative to its folder
    #[arg(value_name = "RECIPE.toml")]
    pub(crate) recipe: PathBuf,
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = method, help = compare_help::methods())]
    pub(crate) methods: Vec<&'static Method>,
    #[arg(long, value_name = "NAME", conflicts_with = "methods", value_parser = Ablation::named, help = compare_help::ablations())]
    pub(crate) ablation: Option<&'static Ablation>,
    #[arg(long, value_name = "N|LIST", help = compare_help::seeds())]
    pub(crate) seeds: Option<Seeds>,
    /// Learning rates that every method tries [default: the recipe's, a third and three times it]
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with_all = ["quick", "ablation"])]
    pub(crate) learning_rates: Vec<f64>,
    #[arg(long, value_name = "N", conflicts_with_all = ["quick", "ablation"], help = compare_help::search_seeds())]
    pub(crate) search_seeds: Option<usize>,
    #[arg(long, value_name = "SHARE", conflicts_with_all = ["quick", "ablation"], help = compare_help::fact_loss())]
    pub(crate) fact_loss: Option<f64>,
    #[arg(long, value_name = "N", help = compare_help::pairs())]
    pub(crate) pairs: Option<usize>,
    /// Compare also CRAFT in so many rounds, each drawing from the model of the one before, within
    /// the budget of one round
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
    #[arg(long, help = compare_help::quick())]
    pub(crate) quick: bool,
    /// Folder of the comparison [default: runs/compare-<name of the recipe>]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Override a key of the recipe, such as train.steps=60
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Check everything, measure one pass of each kind of work, and print the plan with its cost, but
    /// begin nothing
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

#[derive(Debug, Args)]
pub(crate) struct SampleArgs {
    /// Model folder in the diffusers layout, single-file checkpoint, owner/name[@revision] on the
    /// Hugging Face hub, or `pocket`
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: String,
    /// Model folder whose configs and tokenizers a single-file checkpoint takes
    #[arg(long, value_name = "DIR")]
    pub(crate) model_config: Option<PathBuf>,
    /// What to draw; may be given several times
    #[arg(long = "prompt", value_name = "TEXT", required = true)]
    pub(crate) prompts: Vec<String>,
    /// What not to draw [default: none, which some models tell from the empty text]
    #[arg(long, value_name = "TEXT")]
    pub(crate) negative_prompt: Option<String>,
    /// Steps of sampling [default: 25; pocket: 8]
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<usize>,
    /// Scale of classifier-free guidance, up to 1 for none [default: 7.5; pocket: 4]
    #[arg(long, value_name = "F")]
    pub(crate) guidance_scale: Option<f64>,
    /// The sampler
    #[arg(long, value_name = "NAME", help = samplers::names(), value_parser = samplers::named)]
    pub(crate) scheduler: Option<SamplerKind>,
    /// Karras sigmas
    #[arg(long, help = samplers::karras())]
    pub(crate) karras: bool,
    /// Seed of the noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Where noise comes from: `torch` draws what PyTorch's CPU generator of that seed would
    #[arg(long, value_enum, default_value_t = Rng::Craft)]
    pub(crate) rng: Rng,
    /// Height in pixels [default: the model's]
    #[arg(long, value_name = "H")]
    pub(crate) height: Option<usize>,
    /// Width in pixels [default: the model's]
    #[arg(long, value_name = "W")]
    pub(crate) width: Option<usize>,
    /// LoRA merged into the model: a file (keys of sd-scripts, diffusers or PEFT), or the folder that PEFT or
    /// diffusers saved it in; may be given several times [scale: 1]
    #[arg(long, value_name = "FILE|DIR[:SCALE]")]
    pub(crate) lora: Vec<String>,
    /// Initial noise: tensor `latents` [B,4,h,w] of unit normals
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) latents: Option<PathBuf>,
    /// Decode one picture at a time, which takes less memory
    #[arg(long)]
    pub(crate) vae_slicing: bool,
    /// Decode large pictures in blended tiles, which takes less memory and changes them a little
    #[arg(long)]
    pub(crate) vae_tiling: bool,
    /// PNG file, or folder for several pictures [default: sample.png or samples/]
    #[arg(long, value_name = "FILE.png|DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Write the final latents before VAE decoding as tensor `latents`
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) dump_latents: Option<PathBuf>,
}

/// Generators of `craft sample`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rng {
    /// Each picture has noise of its own, whatever is drawn beside it
    Craft,
    /// torch.Generator("cpu").manual_seed(seed), as given to a pipeline of diffusers; pictures that are
    /// drawn together share it
    Torch,
}

/// Components of `craft forward`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Component {
    /// sample, timestep, encoder_hidden_states → sample
    Unet,
    /// sample [B,3,H,W] in -1..1 → mean, logvar
    VaeEncode,
    /// sample [B,4,h,w] → sample [B,3,H,W]
    VaeDecode,
    /// input_ids → last_hidden_state, penultimate_hidden_state, pooled
    TextEncoder,
    /// The same of the folder text_encoder_2
    #[value(name = "text-encoder-2")]
    TextEncoder2,
}

#[derive(Debug, Args)]
pub(crate) struct ForwardArgs {
    /// Model folder in the diffusers layout, single-file checkpoint, owner/name[@revision] on the
    /// Hugging Face hub, or `pocket`
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: String,
    /// Model folder whose configs and tokenizers a single-file checkpoint takes
    #[arg(long, value_name = "DIR")]
    pub(crate) model_config: Option<PathBuf>,
    /// Which part of the model
    #[arg(long)]
    pub(crate) component: Component,
    /// Tensors that go in
    #[arg(long = "in", value_name = "X.safetensors")]
    pub(crate) input: PathBuf,
    /// Where the tensors that come out are written
    #[arg(long = "out", value_name = "Y.safetensors")]
    pub(crate) output: PathBuf,
    /// vae-encode, vae-decode: in blended tiles of the model's size
    #[arg(long)]
    pub(crate) vae_tiling: bool,
    /// unet: also `loss`, the weighted squared error to `target` with `weight`
    #[arg(long)]
    pub(crate) loss: bool,
    /// unet: also `loss` and its gradients as `grad.<parameter>`
    #[arg(long)]
    pub(crate) grads: bool,
}

/// Formats of `craft export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Model folder in the diffusers layout; files are hard-linked where the disk can
    Diffusers,
    /// LoRA file in the keys of sd-scripts: read by ComfyUI, A1111, Forge, sd-scripts, InvokeAI and diffusers
    LoraKohya,
    /// LoRA file in diffusers' keys: for diffusers; ComfyUI reads only a part of it, A1111 and sd-scripts nothing
    LoraDiffusers,
    /// One checkpoint file: read by ComfyUI, A1111, Forge, sd-scripts, InvokeAI and diffusers
    SingleFile,
}

/// Number formats of `craft export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportDtype {
    /// That of the base model, tensor by tensor
    Base,
    /// 16 bits, as most published files
    F16,
    /// 16 bits with the range of 32
    Bf16,
    /// 32 bits, as training left them
    F32,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Run folder whose training is done
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run_dir: PathBuf,
    /// What to write
    #[arg(long)]
    pub(crate) format: ExportFormat,
    /// New file, or folder for `diffusers`
    #[arg(long, value_name = "PATH")]
    pub(crate) out: PathBuf,
    /// Number format of weights or factors
    #[arg(long, value_enum, default_value_t = ExportDtype::Base)]
    pub(crate) dtype: ExportDtype,
    /// Rank of the LoRA that comes nearest to the change of the weights; a run that trained a LoRA
    /// has its own
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) rank: u16,
}

/// What `craft bench` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchKind {
    /// Denoising steps with guidance, and decoding
    Sample,
    /// Forward, backward and AdamW
    TrainStep,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    pub(crate) kind: BenchKind,
    /// Model folder in the diffusers layout, single-file checkpoint, owner/name[@revision] on the
    /// Hugging Face hub, or `pocket`
    #[arg(long, value_name = "MODEL", default_value = "pocket")]
    pub(crate) model: String,
    /// Model folder whose configs and tokenizers a single-file checkpoint takes
    #[arg(long, value_name = "DIR")]
    pub(crate) model_config: Option<PathBuf>,
    /// Pictures at a time
    #[arg(long, value_name = "B", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch: u32,
    /// Height in pixels [default: the model's]
    #[arg(long, value_name = "H")]
    pub(crate) height: Option<usize>,
    /// Width in pixels [default: the model's]
    #[arg(long, value_name = "W")]
    pub(crate) width: Option<usize>,
    /// Number format of the denoiser's weights: f32, or bf16 for train-step
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    pub(crate) precision: String,
    /// train-step: train low-rank factors of the attention's projections instead of all parameters
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) lora_rank: Option<u16>,
    /// train-step: compute each block once more in the backward pass instead of keeping what is inside
    #[arg(long)]
    pub(crate) gradient_checkpointing: bool,
    /// Steps to measure
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) steps: u32,
    /// Instruction set of the kernels, to see what a processor without the better ones would do
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) simd: Option<Simd>,
}

/// Instruction sets of `bench --simd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Simd {
    /// 512-bit vectors
    Avx512,
    /// 256-bit vectors with fused multiply-add
    Avx2,
    /// 128-bit vectors of 64-bit ARM
    Neon,
    /// What every processor of the architecture has
    Portable,
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
