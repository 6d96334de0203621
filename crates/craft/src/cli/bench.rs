//! Arguments of `craft bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

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
    /// Dtype of the denoiser's weights: f32, or bf16 for train-step
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
