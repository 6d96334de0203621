//! Shapes of CLIP networks, from open_clip's `open_clip_config.json`.

use serde::Deserialize;

use crate::clip::{ClipConfig, ClipTextConfig, ClipVisionConfig};
use crate::config::ConfigError;
use crate::ops::Act;

/// What open_clip's `open_clip_config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenClipConfig {
    /// The same model as transformers would describe it.
    pub clip: ClipConfig,
    /// Means of the pixels' normalisation, where given.
    pub mean: Option<[f32; 3]>,
    /// Standard deviations of the pixels' normalisation, where given.
    pub std: Option<[f32; 3]>,
}

#[derive(Deserialize)]
struct RawConfig {
    model_cfg: RawModel,
    #[serde(default)]
    preprocess_cfg: RawPreprocess,
}

#[derive(Deserialize)]
struct RawModel {
    embed_dim: usize,
    vision_cfg: RawVision,
    text_cfg: RawText,
    #[serde(default)]
    quick_gelu: bool,
}

#[derive(Default, Deserialize)]
struct RawPreprocess {
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
}

fn head_width() -> usize {
    64
}
fn mlp_ratio() -> f64 {
    4.0
}

#[derive(Deserialize)]
struct RawVision {
    image_size: usize,
    layers: usize,
    width: usize,
    #[serde(default = "head_width")]
    head_width: usize,
    #[serde(default = "mlp_ratio")]
    mlp_ratio: f64,
    patch_size: usize,
}

#[derive(Deserialize)]
struct RawText {
    context_length: usize,
    vocab_size: usize,
    width: usize,
    heads: usize,
    layers: usize,
    #[serde(default = "mlp_ratio")]
    mlp_ratio: f64,
}

impl OpenClipConfig {
    /// Reads `open_clip_config.json`.
    ///
    /// # Errors
    /// When it is not JSON of that form, or describes a network that cannot be built.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        let raw: RawConfig = serde_json::from_str(json)
            .map_err(|error| ConfigError::parse("open_clip CLIP", &error))?;
        let RawModel { embed_dim, vision_cfg: v, text_cfg: t, quick_gelu } = raw.model_cfg;
        let hidden_act = if quick_gelu { Act::QuickGelu } else { Act::Gelu };
        if v.head_width == 0 || !v.width.is_multiple_of(v.head_width) {
            return Err(ConfigError::Unsupported {
                component: "open_clip CLIP",
                key: "head_width".to_owned(),
                value: v.head_width.to_string(),
                supported: format!("a divisor of width = {}", v.width),
            });
        }
        let text = ClipTextConfig {
            vocab_size: t.vocab_size,
            hidden_size: t.width,
            intermediate_size: (t.width as f64 * t.mlp_ratio) as usize,
            num_hidden_layers: t.layers,
            num_attention_heads: t.heads,
            max_position_embeddings: t.context_length,
            hidden_act,
            eos_token_id: 2, // Pooled at the largest id.
            ..ClipTextConfig::default()
        };
        let vision = ClipVisionConfig {
            hidden_size: v.width,
            intermediate_size: (v.width as f64 * v.mlp_ratio) as usize,
            num_hidden_layers: v.layers,
            num_attention_heads: v.width / v.head_width,
            image_size: v.image_size,
            patch_size: v.patch_size,
            hidden_act,
            ..ClipVisionConfig::default()
        };
        Ok(Self {
            clip: ClipConfig::new(text, vision, embed_dim)?,
            mean: raw.preprocess_cfg.mean,
            std: raw.preprocess_cfg.std,
        })
    }
}
