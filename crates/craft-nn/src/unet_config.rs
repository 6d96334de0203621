//! `config.json` of a UNet2DConditionModel.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::bounds::Bounds;
use crate::config::ConfigError;
use crate::unet_depths::Depths;

mod check;

const COMPONENT: &str = "UNet2DConditionModel";

/// One number for all levels, or one per level.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum PerLevel<T> {
    /// The same everywhere.
    One(T),
    /// By level, outermost first.
    Many(Vec<T>),
}

impl<T: Copy> PerLevel<T> {
    fn at(&self, level: usize) -> Option<T> {
        match self {
            Self::One(value) => Some(*value),
            Self::Many(values) => values.get(level).copied(),
        }
    }
}

fn yes() -> bool {
    true
}
fn one() -> Depths {
    Depths::Same(1)
}
fn groups() -> usize {
    32
}
fn eps() -> f64 {
    1e-5
}
fn act() -> String {
    "silu".to_owned()
}
fn only_cross() -> PerLevel<bool> {
    PerLevel::One(false)
}
fn mid() -> Option<String> {
    Some("UNetMidBlock2DCrossAttn".to_owned())
}
fn heads() -> PerLevel<usize> {
    PerLevel::One(8)
}

/// The keys that decide what the network computes, with diffusers' defaults.
#[derive(Clone, Debug, Deserialize)]
pub struct UNetConfig {
    /// Latent height and width that the model was trained on.
    #[serde(default)]
    pub sample_size: Option<Value>,
    /// Latent channels in.
    pub in_channels: usize,
    /// Latent channels out.
    pub out_channels: usize,
    /// Block types of the way down, outermost first.
    pub down_block_types: Vec<String>,
    /// Block type of the middle.
    #[serde(default = "mid")]
    pub mid_block_type: Option<String>,
    /// Block types of the way up, innermost first.
    pub up_block_types: Vec<String>,
    /// Channels by level, outermost first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks by level.
    #[serde(default = "PerLevel::two")]
    pub layers_per_block: PerLevel<usize>,
    /// Transformer blocks by level.
    #[serde(default = "one")]
    pub transformer_layers_per_block: Depths,
    /// The same on the way up, innermost first, if it differs from the way down.
    #[serde(default)]
    pub reverse_transformer_layers_per_block: Option<Depths>,
    /// Width of the text embeddings.
    pub cross_attention_dim: PerLevel<usize>,
    /// Number of heads: the published configs mean heads, not their width, by this key.
    #[serde(default = "heads")]
    pub attention_head_dim: PerLevel<usize>,
    /// Number of heads, where given.
    #[serde(default)]
    pub num_attention_heads: Option<PerLevel<usize>>,
    /// Linear projections instead of 1×1 convolutions.
    #[serde(default)]
    pub use_linear_projection: bool,
    /// Both attentions of a block look at the text.
    #[serde(default = "only_cross")]
    pub only_cross_attention: PerLevel<bool>,
    /// Groups of group norm.
    #[serde(default = "groups")]
    pub norm_num_groups: usize,
    /// Epsilon of group norm.
    #[serde(default = "eps")]
    pub norm_eps: f64,
    /// Activation; only SiLU.
    #[serde(default = "act")]
    pub act_fn: String,
    /// Cosines before sines.
    #[serde(default = "yes")]
    pub flip_sin_to_cos: bool,
    /// Shift of the frequencies.
    #[serde(default)]
    pub freq_shift: f64,
    /// `text_time` for SDXL.
    #[serde(default)]
    pub addition_embed_type: Option<String>,
    /// Width of each time id's features.
    #[serde(default)]
    pub addition_time_embed_dim: Option<usize>,
    /// Width of pooled text plus time ids' features.
    #[serde(default)]
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// Everything else.
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl PerLevel<usize> {
    fn two() -> Self {
        Self::One(2)
    }
}

impl UNetConfig {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// When it is not such a config, or asks for something that is not supported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let parse = |error| ConfigError::parse(COMPONENT, &error);
        let keys: BTreeMap<String, Value> = serde_json::from_str(text).map_err(parse)?;
        check::check_lists(&keys)?;
        let config: Self = serde_json::from_str(text).map_err(parse)?;
        config.check()?;
        Ok(config)
    }

    /// Compares the numbers with those of the weights, before a network is built.
    ///
    /// # Errors
    /// When a number is larger than any tensor of the weights, or there are more layers than
    /// tensors.
    pub fn fits(&self, weights: &Bounds) -> Result<(), ConfigError> {
        let width = |key, value| weights.width(COMPONENT, key, value);
        width("in_channels", self.in_channels)?;
        width("out_channels", self.out_channels)?;
        for channels in &self.block_out_channels {
            width("block_out_channels", *channels)?;
        }
        let attends =
            |types: &[String], at: usize| types.get(at).is_some_and(|t| t.starts_with("Cross"));
        let levels = self.block_out_channels.len();
        let (mut resnets, mut blocks) = (2usize, 0usize);
        for level in 0..levels {
            let layers = self.layers(level).unwrap_or(0);
            weights.layers(COMPONENT, "layers_per_block", layers)?;
            resnets = resnets.saturating_add(2 * layers + 1);
            let last = level + 1 == levels && self.mid_attends();
            let down = attends(&self.down_block_types, level);
            let up = attends(&self.up_block_types, levels - 1 - level);
            if !down && !up && !last {
                continue;
            }
            width("cross_attention_dim", self.context(level).unwrap_or(0))?;
            let mut depths = vec![];
            if down {
                depths.extend((0..layers).map(|i| self.down_depth(level, i)));
            }
            if up {
                depths.extend((0..=layers).map(|i| self.up_depth(levels - 1 - level, i)));
            }
            if last {
                depths.push(self.mid_depth());
            }
            let depths = depths.into_iter().map(|depth| depth.unwrap_or(0));
            blocks = depths.fold(blocks, usize::saturating_add);
        }
        weights.layers(COMPONENT, "layers_per_block", resnets)?;
        weights.layers(COMPONENT, "transformer_layers_per_block", blocks)?;
        match self
            .projection_class_embeddings_input_dim
            .filter(|_| self.addition_embed_type.is_some())
        {
            None => Ok(()),
            Some(value) => width("projection_class_embeddings_input_dim", value),
        }
    }

    /// What a network of such channels is for; `None` if it draws latents of `latents` channels
    /// from a text.
    pub fn other_purpose(&self, latents: usize) -> Option<&'static str> {
        match self.in_channels.checked_sub(latents) {
            Some(0) if self.out_channels == latents => None,
            Some(0) => {
                Some("a network that predicts a variance too, or of another kind of latents")
            }
            Some(1) => Some("a depth-to-image model"),
            Some(3) => Some("an upscaler, which takes a small picture beside the noise"),
            Some(4) if latents == 4 => Some("an image-to-image model such as InstructPix2Pix"),
            Some(5) => Some("an inpainting model"),
            _ => Some("not a text-to-image model for these latents"),
        }
    }

    /// The version of diffusers that wrote the config.
    pub fn diffusers_version(&self) -> Option<&str> {
        self.rest.get("_diffusers_version")?.as_str()
    }
    pub(crate) fn heads(&self, level: usize) -> Option<usize> {
        self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim).at(level)
    }
    pub(crate) fn layers(&self, level: usize) -> Option<usize> {
        self.layers_per_block.at(level)
    }
    /// Transformer blocks of an attention of the way down.
    pub(crate) fn down_depth(&self, level: usize, attention: usize) -> Option<usize> {
        self.transformer_layers_per_block.at(level, attention)
    }
    /// The same of the way up, whose levels begin with the innermost.
    pub(crate) fn up_depth(&self, up: usize, attention: usize) -> Option<usize> {
        match &self.reverse_transformer_layers_per_block {
            Some(reverse) => reverse.at(up, attention),
            None => {
                let level = (self.block_out_channels.len() - 1).checked_sub(up)?;
                self.transformer_layers_per_block.at(level, attention)
            }
        }
    }
    /// Transformer blocks of the middle, if it attends.
    pub(crate) fn mid_depth(&self) -> Option<usize> {
        self.transformer_layers_per_block.at(self.block_out_channels.len().checked_sub(1)?, 0)
    }
    /// Whether the middle looks at the text.
    pub(crate) fn mid_attends(&self) -> bool {
        self.mid_block_type.as_deref() == Some("UNetMidBlock2DCrossAttn")
    }
    /// Width of the text embeddings at a level.
    pub fn context(&self, level: usize) -> Option<usize> {
        self.cross_attention_dim.at(level)
    }
    /// Widths of the text embeddings at all levels that look at them, and in the middle.
    pub fn contexts(&self) -> impl Iterator<Item = usize> + '_ {
        let levels = self.block_out_channels.len();
        let cross =
            |types: &[String], at: usize| types.get(at).is_some_and(|t| t.starts_with("Cross"));
        let looks = move |level: &usize| {
            cross(&self.down_block_types, *level)
                || cross(&self.up_block_types, levels - 1 - *level)
                || *level + 1 == levels && self.mid_attends()
        };
        (0..levels).filter(looks).filter_map(|level| self.context(level))
    }
    /// Whether the first attention at a level looks at the text too.
    pub fn only_cross(&self, level: usize) -> Option<bool> {
        self.only_cross_attention.at(level)
    }
}
