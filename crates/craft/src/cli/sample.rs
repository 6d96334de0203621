//! Arguments of `craft sample`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use craft_core::sampler::SamplerKind;

use crate::samplers;

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
    /// Each picture has noise of its own, whatever else is drawn
    Craft,
    /// torch.Generator("cpu").manual_seed(seed), as given to a pipeline of diffusers; pictures that are
    /// drawn together share it
    Torch,
}
