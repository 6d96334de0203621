//! `[train.lora]`: low-rank factors beside frozen weights.

use serde::{Deserialize, Serialize};

use super::one_or_many::one_or_many;

/// What the factors A of a LoRA start from; B starts from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoraInit {
    /// Normal with standard deviation 1 / rank, as diffusers' training scripts ask PEFT for.
    #[default]
    Gaussian,
    /// Uniform on ±1 / √inputs, the start of a linear map and PEFT's own default.
    Kaiming,
}

/// `[train.lora]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSection {
    /// Inner size of the factors.
    pub rank: usize,
    /// Numerator of the scale alpha / rank; `None`: the rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Endings of the names of the denoiser's modules that get factors; `all-linear`: every linear
    /// map, `all`: convolutions too.
    #[serde(deserialize_with = "one_or_many")]
    pub targets: Vec<String>,
    /// What A starts from.
    pub init: LoraInit,
    /// Whether the text encoders get factors too. Text embeddings are then computed anew at every step.
    pub text_encoders: bool,
    /// Endings of the names of the text encoders' modules that get factors.
    #[serde(deserialize_with = "one_or_many")]
    pub text_encoder_targets: Vec<String>,
}

impl Default for LoraSection {
    fn default() -> Self {
        let words = |words: [&str; 4]| words.map(str::to_owned).to_vec();
        Self {
            rank: 4,
            alpha: None,
            targets: words(["to_q", "to_k", "to_v", "to_out.0"]),
            init: LoraInit::default(),
            text_encoders: false,
            text_encoder_targets: words(["q_proj", "k_proj", "v_proj", "out_proj"]),
        }
    }
}

impl LoraSection {
    /// What B·A is multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64) / self.rank as f64
    }
}
