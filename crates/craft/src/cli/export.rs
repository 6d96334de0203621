//! Arguments of `craft export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

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

/// Dtypes of `craft export`.
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
    /// Dtype of weights or factors
    #[arg(long, value_enum, default_value_t = ExportDtype::Base)]
    pub(crate) dtype: ExportDtype,
    /// Rank of the LoRA that comes nearest to the change of the weights; a run that trained a LoRA
    /// has its own
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) rank: u16,
}
