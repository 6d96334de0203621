//! `config.json` of a UNet2DConditionModel.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::bounds::{self, Bounds, refused};
use crate::config::{ConfigError, check_rest};
use crate::unet_depths::Depths;

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
    /// The same on the way up, innermost first, where it differs from the way down.
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

/// Largest height and width of latents that a model is taken to be trained on.
const MOST_LATENTS: u64 = 4096;

/// Keys of networks that take more than a text, and what such networks are.
const OTHERS: [(&str, &str); 7] = [
    ("class_embed_type", "a class-conditioned network, such as unCLIP's"),
    ("num_class_embeds", "a class-conditioned network, such as the upscaler's"),
    ("encoder_hid_dim_type", "a network conditioned on pictures"),
    ("encoder_hid_dim", "a network with a text encoder of another width, such as DeepFloyd's"),
    ("time_cond_proj_dim", "a network that takes the guidance scale, such as LCM's"),
    ("cross_attention_norm", "a network that normalises its condition"),
    ("timestep_post_act", "a network of another family"),
];

/// One number, or height and width.
fn sizes(value: &Value) -> Option<Vec<u64>> {
    match value {
        Value::Array(both) if both.len() == 2 => both.iter().map(Value::as_u64).collect(),
        one => Some(vec![one.as_u64()?]),
    }
}

/// Names a per-level key of another form.
fn check_lists(keys: &BTreeMap<String, Value>) -> Result<(), ConfigError> {
    for (key, flag) in [
        ("layers_per_block", false),
        ("cross_attention_dim", false),
        ("attention_head_dim", false),
        ("only_cross_attention", true),
    ] {
        let fits = |value: &Value| if flag { value.is_boolean() } else { value.is_u64() };
        let sound = |value: &Value| value.as_array().map_or(fits(value), |v| v.iter().all(fits));
        if let Some(value) = keys.get(key).filter(|value| !sound(value)) {
            let one = if flag { "true or false" } else { "a whole number" };
            return Err(ConfigError::Unsupported {
                component: COMPONENT,
                key: key.to_owned(),
                value: value.to_string(),
                supported: format!("{one}, or a list of one per level"),
            });
        }
    }
    for key in ["transformer_layers_per_block", "reverse_transformer_layers_per_block"] {
        let other = |value: &&Value| !value.is_null() && !Depths::fits(value);
        if let Some(value) = keys.get(key).filter(other) {
            let supported = "a whole number, or a list of one, or of one per block, per level";
            return Err(refused(COMPONENT, key, value, supported));
        }
    }
    let key = "transformer_layers_per_block";
    let nested =
        |value: &&Value| value.as_array().is_some_and(|levels| levels.iter().any(Value::is_array));
    let reverse = keys.get("reverse_transformer_layers_per_block").is_some_and(|v| !v.is_null());
    match keys.get(key).filter(nested) {
        Some(value) if !reverse => {
            let supported =
                "one number per level, or reverse_transformer_layers_per_block beside it";
            Err(refused(COMPONENT, key, value, supported))
        }
        _ => Ok(()),
    }
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
        check_lists(&keys)?;
        let config: Self = serde_json::from_str(text).map_err(parse)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let neutral: &[(&str, &[Value])] = &[
            ("center_input_sample", &[json!(false)]),
            ("downsample_padding", &[json!(1)]),
            ("mid_block_scale_factor", &[json!(1), json!(1.0)]),
            ("dropout", &[json!(0.0), json!(0)]),
            ("dual_cross_attention", &[json!(false)]),
            ("class_embeddings_concat", &[json!(false)]),
            ("resnet_skip_time_act", &[json!(false)]),
            ("resnet_out_scale_factor", &[json!(1.0), json!(1)]),
            ("resnet_time_scale_shift", &[json!("default")]),
            ("time_embedding_type", &[json!("positional")]),
            ("attention_type", &[json!("default")]),
            ("mid_block_only_cross_attention", &[json!(false)]),
            ("conv_in_kernel", &[json!(3)]),
            ("conv_out_kernel", &[json!(3)]),
        ];
        // `upcast_attention` asks for f32 attention, which is what is computed.
        let ignored = ["upcast_attention", "addition_embed_type_num_heads"];
        for (key, meaning) in OTHERS {
            if let Some(value) = self.rest.get(key).filter(|value| !value.is_null()) {
                let supported =
                    format!("null (this seems to be {meaning}): use a plain text-to-image model");
                return Err(refused(COMPONENT, key, value, &supported));
            }
        }
        check_rest(COMPONENT, &self.rest, neutral, &ignored)?;
        let unsupported = |key: &str, value: String, supported: &str| {
            Err(refused(COMPONENT, key, value, supported))
        };
        self.check_numbers()?;
        let levels = self.block_out_channels.len();
        for (key, types, known) in [
            ("down_block_types", &self.down_block_types, ["CrossAttnDownBlock2D", "DownBlock2D"]),
            ("up_block_types", &self.up_block_types, ["CrossAttnUpBlock2D", "UpBlock2D"]),
        ] {
            if types.len() != levels {
                let text = format!("{} entries", types.len());
                return unsupported(key, text, &format!("{levels} entries, one per level"));
            }
            if let Some(bad) = types.iter().find(|t| !known.contains(&t.as_str())) {
                return unsupported(key, bad.clone(), &known.join(", "));
            }
        }
        match self.mid_block_type.as_deref() {
            None | Some("UNetMidBlock2DCrossAttn" | "UNetMidBlock2D") => {}
            Some(other) => {
                let supported = "UNetMidBlock2DCrossAttn, UNetMidBlock2D, null";
                return unsupported("mid_block_type", other.to_owned(), supported);
            }
        }
        if !["silu", "swish"].contains(&self.act_fn.as_str()) {
            return unsupported("act_fn", self.act_fn.clone(), "silu");
        }
        let widths = [self.addition_time_embed_dim, self.projection_class_embeddings_input_dim];
        match self.addition_embed_type.as_deref() {
            None => {}
            Some("text_time") if widths.iter().all(Option::is_some) => {}
            Some("text_time") => {
                return unsupported(
                    "addition_embed_type",
                    "text_time without its widths".to_owned(),
                    "text_time with addition_time_embed_dim and projection_class_embeddings_input_dim",
                );
            }
            Some(other) => {
                return unsupported("addition_embed_type", other.to_owned(), "null, text_time");
            }
        }
        for level in 0..levels {
            let channels = self.block_out_channels[level];
            let complete = self.heads(level).is_some()
                && self.layers(level).is_some()
                && self.has_depths(level)
                && self.context(level).is_some()
                && self.only_cross(level).is_some();
            if !complete {
                let text = format!("a list that ends before level {level}");
                return unsupported("a per-level key", text, &format!("{levels} entries"));
            }
            let heads = self.heads(level).unwrap_or(0);
            if heads == 0 || !channels.is_multiple_of(heads) {
                return unsupported(
                    "attention_head_dim",
                    heads.to_string(),
                    &format!("divisors of {channels} (it is the number of heads)"),
                );
            }
        }
        Ok(())
    }

    /// Checks the numbers that no other key bounds.
    fn check_numbers(&self) -> Result<(), ConfigError> {
        bounds::levels(COMPONENT, "block_out_channels", self.block_out_channels.len())?;
        bounds::groups(COMPONENT, self.norm_num_groups, &self.block_out_channels)?;
        bounds::above_zero(COMPONENT, "norm_eps", self.norm_eps, 1.0)?;
        for (key, value) in [("in_channels", self.in_channels), ("out_channels", self.out_channels)]
        {
            if value == 0 {
                return Err(refused(COMPONENT, key, value, "1 or more"));
            }
        }
        let widths = self.block_out_channels.first().copied().into_iter();
        let widths = widths.chain(self.addition_time_embed_dim);
        if let Some(odd) = widths.clone().find(|width| *width < 2 || !width.is_multiple_of(2)) {
            let key = "block_out_channels or addition_time_embed_dim";
            return Err(refused(COMPONENT, key, odd, "even widths for sines and cosines"));
        }
        let half = widths.min().unwrap_or(2) as f64 / 2.0;
        if !(0.0..half).contains(&self.freq_shift) {
            let found = format!("{:e}", self.freq_shift);
            return Err(refused(COMPONENT, "freq_shift", found, "0 or 1"));
        }
        match &self.sample_size {
            None => Ok(()),
            Some(size)
                if sizes(size)
                    .is_some_and(|s| s.iter().all(|n| (1..=MOST_LATENTS).contains(n))) =>
            {
                Ok(())
            }
            Some(size) => {
                let supported = format!("1 to {MOST_LATENTS}, or a height and a width");
                Err(refused(COMPONENT, "sample_size", size, &supported))
            }
        }
    }

    /// Compares the numbers with those of the weights, before a network is built.
    ///
    /// # Errors
    /// When a number is larger than any tensor of the weights, or there are more layers than tensors.
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

    /// What a network of such channels is for, where it is not one that draws latents of `latents`
    /// channels from a text.
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
    /// Transformer blocks of the middle, where it attends.
    pub(crate) fn mid_depth(&self) -> Option<usize> {
        self.transformer_layers_per_block.at(self.block_out_channels.len().checked_sub(1)?, 0)
    }
    /// Whether the middle looks at the text.
    pub(crate) fn mid_attends(&self) -> bool {
        self.mid_block_type.as_deref() == Some("UNetMidBlock2DCrossAttn")
    }
    /// Whether every attention of a level has its number of blocks.
    fn has_depths(&self, level: usize) -> bool {
        let levels = self.block_out_channels.len();
        let cross =
            |types: &[String], at: usize| types.get(at).is_some_and(|t| t.starts_with("Cross"));
        let (layers, up) = (self.layers(level).unwrap_or(0), levels - 1 - level);
        let mut sound = level + 1 < levels || !self.mid_attends() || self.mid_depth().is_some();
        if cross(&self.down_block_types, level) {
            sound &= (0..layers).all(|i| self.down_depth(level, i).is_some());
        }
        if cross(&self.up_block_types, up) {
            sound &= (0..=layers).all(|i| self.up_depth(up, i).is_some());
        }
        sound
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
