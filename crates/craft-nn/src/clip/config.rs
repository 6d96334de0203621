//! Shapes of CLIP networks, from transformers' `config.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::bounds::{Bounds, above_zero, refused as unsupported};
use crate::config::{ConfigError, check_rest};
use crate::ops::Act;

/// Shape of a CLIP text encoder. Absent keys have transformers' defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward blocks.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads; they divide `hidden_size`.
    pub num_attention_heads: usize,
    /// Longest text in tokens, begin and end included.
    pub max_position_embeddings: usize,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: Act,
    /// Added to variances in layer norms.
    pub layer_norm_eps: f64,
    /// The token whose state stands for the text; 2 means "the largest id", as files of before 2023
    /// have it.
    pub eos_token_id: u32,
    /// Width of the projected embedding.
    pub projection_dim: usize,
}

const TEXT: &str = "CLIPTextModel";

/// The keys of [`ClipTextConfig`].
const TEXT_KEYS: [&str; 10] = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "eos_token_id",
    "projection_dim",
];

/// Keys that transformers writes and that do not change what the network computes: initialisation,
/// dropout of training, generation of text, dtypes.
const NO_EFFECT: [&str; 29] = [
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dropout",
    "dtype",
    "gradient_checkpointing",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "label2id",
    "length_penalty",
    "logit_scale_init_value",
    "max_length",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "repetition_penalty",
    "return_dict",
    "temperature",
    "tie_word_embeddings",
    "top_k",
    "top_p",
    "torch_dtype",
    "transformers_version",
    "typical_p",
    "use_cache",
];

/// Whether a value switches its key off: null, false, 0, empty.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        Value::Bool(true) => false,
    }
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Act::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
            projection_dim: 512,
        }
    }
}

impl ClipTextConfig {
    /// Reads `config.json` of a text encoder.
    ///
    /// # Errors
    /// When it is not JSON of that form, or describes a network that cannot be built.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        let mut rest: BTreeMap<String, Value> = parse("CLIPTextModel", json)?;
        let config: Self = parse("CLIPTextModel", json)?;
        config.check()?;
        rest.retain(|key, value| !TEXT_KEYS.contains(&key.as_str()) && !is_off(value));
        let models = [json!("clip_text_model"), json!("clip")];
        check_rest("CLIPTextModel", &rest, &[("model_type", &models)], &NO_EFFECT)?;
        Ok(config)
    }

    /// Compares the numbers with those of the weights, before a network is built.
    ///
    /// # Errors
    /// When a number is larger than any tensor of the weights, or there are more layers than
    /// tensors.
    pub fn fits(&self, weights: &Bounds) -> Result<(), ConfigError> {
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            weights.width(TEXT, key, value)?;
        }
        weights.layers(TEXT, "num_hidden_layers", self.num_hidden_layers)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        const NAME: &str = TEXT;
        check_tower(NAME, self.hidden_size, self.num_attention_heads, self.hidden_act)?;
        above_zero(NAME, "layer_norm_eps", self.layer_norm_eps, 1.0)?;
        positive(
            NAME,
            &[
                ("vocab_size", self.vocab_size),
                ("intermediate_size", self.intermediate_size),
                ("num_hidden_layers", self.num_hidden_layers),
                ("max_position_embeddings", self.max_position_embeddings),
                ("projection_dim", self.projection_dim),
            ],
        )
    }
}

/// Shape of a CLIP image encoder. Absent keys have transformers' defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward blocks.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads; they divide `hidden_size`.
    pub num_attention_heads: usize,
    /// Height and width of its images in pixels.
    pub image_size: usize,
    /// Height and width of a patch in pixels; divides `image_size`.
    pub patch_size: usize,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: Act,
    /// Added to variances in layer norms.
    pub layer_norm_eps: f64,
    /// Width of the projected embedding.
    pub projection_dim: usize,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            hidden_act: Act::QuickGelu,
            layer_norm_eps: 1e-5,
            projection_dim: 512,
        }
    }
}

impl ClipVisionConfig {
    /// Reads the image encoder out of `config.json` of `CLIPVisionModel(WithProjection)` or of
    /// `CLIPModel`.
    ///
    /// # Errors
    /// When it is not JSON of that form, or describes a network that cannot be built.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        let value: Value = parse("CLIPVisionModel", json)?;
        if value.get("vision_config").is_some() {
            return Ok(ClipConfig::from_json(json)?.vision_config);
        }
        let config: Self = from_value("CLIPVisionModel", value)?;
        config.check()?;
        Ok(config)
    }

    /// Compares the numbers with those of the weights, before a network is built.
    ///
    /// # Errors
    /// When a number is larger than any tensor of the weights, or there are more layers than
    /// tensors.
    pub fn fits(&self, weights: &Bounds) -> Result<(), ConfigError> {
        const NAME: &str = "CLIPVisionModel";
        weights.width(NAME, "hidden_size", self.hidden_size)?;
        weights.width(NAME, "intermediate_size", self.intermediate_size)?;
        weights.width(NAME, "patch_size", self.patch_size)?;
        // The position embedding has a row for each patch.
        let side = self.image_size / self.patch_size.max(1);
        weights.width(NAME, "image_size", side.saturating_mul(side))?;
        weights.layers(NAME, "num_hidden_layers", self.num_hidden_layers)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        const NAME: &str = "CLIPVisionModel";
        check_tower(NAME, self.hidden_size, self.num_attention_heads, self.hidden_act)?;
        above_zero(NAME, "layer_norm_eps", self.layer_norm_eps, 1.0)?;
        positive(
            NAME,
            &[
                ("intermediate_size", self.intermediate_size),
                ("num_hidden_layers", self.num_hidden_layers),
                ("image_size", self.image_size),
                ("patch_size", self.patch_size),
                ("projection_dim", self.projection_dim),
            ],
        )?;
        if !self.image_size.is_multiple_of(self.patch_size) {
            return Err(unsupported(
                NAME,
                "patch_size",
                self.patch_size,
                &format!("a divisor of image_size = {}", self.image_size),
            ));
        }
        Ok(())
    }
}

/// Shape of a CLIP model with both encoders.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// The text encoder; its `projection_dim` is that of the model.
    pub text_config: ClipTextConfig,
    /// The image encoder; its `projection_dim` is that of the model.
    pub vision_config: ClipVisionConfig,
    /// Width of the common embedding.
    pub projection_dim: usize,
    /// Logarithm of the scale of similarities that training starts from.
    pub logit_scale_init_value: f64,
}

impl ClipConfig {
    /// A model of two encoders.
    ///
    /// # Errors
    /// When one of them cannot be built.
    pub fn new(
        mut text_config: ClipTextConfig,
        mut vision_config: ClipVisionConfig,
        projection_dim: usize,
    ) -> Result<Self, ConfigError> {
        text_config.projection_dim = projection_dim;
        vision_config.projection_dim = projection_dim;
        text_config.check()?;
        vision_config.check()?;
        Ok(Self { text_config, vision_config, projection_dim, logit_scale_init_value: 2.6592 })
    }

    /// Reads `config.json` of a `CLIPModel`.
    ///
    /// # Errors
    /// When it is not JSON of that form, or describes a network that cannot be built.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        const NAME: &str = "CLIPModel";
        #[derive(Deserialize)]
        struct Raw {
            text_config: Option<Value>,
            vision_config: Option<Value>,
            text_config_dict: Option<Value>,
            vision_config_dict: Option<Value>,
            #[serde(default = "default_projection")]
            projection_dim: usize,
            #[serde(default = "default_scale")]
            logit_scale_init_value: f64,
        }
        let raw: Raw = parse(NAME, json)?;
        let text = merge(raw.text_config, raw.text_config_dict);
        let vision = merge(raw.vision_config, raw.vision_config_dict);
        let mut config =
            Self::new(from_value(NAME, text)?, from_value(NAME, vision)?, raw.projection_dim)?;
        config.logit_scale_init_value = raw.logit_scale_init_value;
        Ok(config)
    }
}

fn default_projection() -> usize {
    512
}

fn default_scale() -> f64 {
    2.6592
}

/// Older files keep what was changed in a second `*_config_dict`, which wins.
fn merge(base: Option<Value>, over: Option<Value>) -> Value {
    let mut merged = match base {
        Some(Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    if let Some(Value::Object(over)) = over {
        merged.extend(over);
    }
    Value::Object(merged)
}

fn parse<T: serde::de::DeserializeOwned>(
    component: &'static str,
    json: &str,
) -> Result<T, ConfigError> {
    serde_json::from_str(json).map_err(|error| ConfigError::parse(component, &error))
}

fn from_value<T: serde::de::DeserializeOwned>(
    component: &'static str,
    value: Value,
) -> Result<T, ConfigError> {
    serde_json::from_value(value).map_err(|error| ConfigError::parse(component, &error))
}

fn positive(component: &'static str, sizes: &[(&str, usize)]) -> Result<(), ConfigError> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((key, size)) => Err(unsupported(component, key, size, "1 or more")),
        None => Ok(()),
    }
}

fn check_tower(
    component: &'static str,
    width: usize,
    heads: usize,
    act: Act,
) -> Result<(), ConfigError> {
    positive(component, &[("hidden_size", width), ("num_attention_heads", heads)])?;
    if !width.is_multiple_of(heads) {
        let divisor = format!("a divisor of hidden_size = {width}");
        return Err(unsupported(component, "num_attention_heads", heads, &divisor));
    }
    if act == Act::Silu {
        return Err(unsupported(component, "hidden_act", "silu", "quick_gelu, gelu"));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
