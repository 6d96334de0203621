//! `config.json` of an AutoencoderKL.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bounds::{self, Bounds, refused};
use crate::config::{ConfigError, check_rest};

const COMPONENT: &str = "AutoencoderKL";

/// Largest pictures that an autoencoder is taken to be trained on.
const MOST_PIXELS: usize = 32_768;

fn yes() -> bool {
    true
}
fn scaling() -> f64 {
    0.18215
}
fn groups() -> usize {
    32
}
fn layers() -> usize {
    1
}

fn sample_size() -> PerSide {
    PerSide::Both(32)
}

/// One size for height and width, or one for each.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum PerSide {
    /// The same for both.
    Both(usize),
    /// Height and width.
    Each([usize; 2]),
}

impl PerSide {
    /// The height.
    pub fn height(self) -> usize {
        match self {
            Self::Both(size) | Self::Each([size, _]) => size,
        }
    }
}

/// The keys of `config.json` that decide what the network computes.
#[derive(Clone, Debug, Deserialize)]
pub struct VaeConfig {
    /// Image channels in.
    pub in_channels: usize,
    /// Image channels out.
    pub out_channels: usize,
    /// Latent channels.
    pub latent_channels: usize,
    /// Channels by level, outermost first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks by level (one more on the way up).
    #[serde(default = "layers")]
    pub layers_per_block: usize,
    /// Groups of group norm.
    #[serde(default = "groups")]
    pub norm_num_groups: usize,
    /// Factor from the encoder's latents to the denoiser's.
    #[serde(default = "scaling")]
    pub scaling_factor: f64,
    /// Subtracted before the factor.
    #[serde(default)]
    pub shift_factor: Option<f64>,
    /// Attention in the middle.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    /// 1×1 convolution behind the encoder.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// 1×1 convolution before the decoder.
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    /// Height and width in pixels that it was trained on, and of the tiles of large pictures.
    #[serde(default = "sample_size")]
    pub sample_size: PerSide,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl VaeConfig {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// When it is not such a config, or asks for something that is not supported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self =
            serde_json::from_str(text).map_err(|error| ConfigError::parse(COMPONENT, &error))?;
        config.check_numbers()?;
        let levels = config.block_out_channels.len();
        let down = [json!(vec!["DownEncoderBlock2D"; levels])];
        let up = [json!(vec!["UpDecoderBlock2D"; levels])];
        let neutral: &[(&str, &[Value])] = &[
            ("act_fn", &[json!("silu"), json!("swish")]),
            ("down_block_types", &down),
            ("up_block_types", &up),
        ];
        // Means and standard deviations of latents are read by pipelines that scale per channel;
        // none of the supported families does.
        // `force_upcast` asks for f32, which is what is computed.
        let ignored = ["force_upcast"];
        check_rest(COMPONENT, &config.rest, neutral, &ignored)?;
        Ok(config)
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        bounds::levels(COMPONENT, "block_out_channels", self.block_out_channels.len())?;
        bounds::groups(COMPONENT, self.norm_num_groups, &self.block_out_channels)?;
        bounds::above_zero(COMPONENT, "scaling_factor", self.scaling_factor, 1e4)?;
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
        ] {
            if value == 0 {
                return Err(refused(COMPONENT, key, value, "1 or more"));
            }
        }
        if let Some(shift) = self.shift_factor.filter(|shift| shift.abs() > 1e4) {
            return Err(refused(COMPONENT, "shift_factor", format!("{shift:e}"), "a small number"));
        }
        let sizes = match self.sample_size {
            PerSide::Both(size) => [size; 2],
            PerSide::Each(sizes) => sizes,
        };
        match sizes.iter().find(|size| !(1..=MOST_PIXELS).contains(*size)) {
            None => Ok(()),
            Some(size) => {
                let supported = format!("1 to {MOST_PIXELS} pixels");
                Err(refused(COMPONENT, "sample_size", size, &supported))
            }
        }
    }

    /// Compares the numbers with those of the weights, before a network is built.
    ///
    /// # Errors
    /// When a number is larger than any tensor of the weights, or there are more layers than
    /// tensors.
    pub fn fits(&self, weights: &Bounds) -> Result<(), ConfigError> {
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
        ] {
            weights.width(COMPONENT, key, value)?;
        }
        for channels in &self.block_out_channels {
            weights.width(COMPONENT, "block_out_channels", *channels)?;
        }
        let layers = self.layers_per_block.saturating_mul(self.block_out_channels.len());
        weights.layers(COMPONENT, "layers_per_block", layers)
    }

    /// Pixels per latent along one side.
    pub fn scale(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// The encoder's latents as the denoiser wants them.
    pub fn scale_latents(&self, latents: Tensor<4>) -> Tensor<4> {
        (latents - self.shift_factor.unwrap_or(0.0)) * self.scaling_factor
    }

    /// The denoiser's latents as the decoder wants them.
    pub fn unscale_latents(&self, latents: Tensor<4>) -> Tensor<4> {
        latents / self.scaling_factor + self.shift_factor.unwrap_or(0.0)
    }
}
