//! Arguments of `craft forward`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

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
