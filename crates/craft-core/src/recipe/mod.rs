//! The recipe of a run: every choice as one TOML document.
//!
//! [`Recipe::parse`] reads a document, applies `--set key=value` overrides, fills defaults and
//! checks every range before anything expensive starts. [`Recipe::to_toml`] writes the resolved
//! recipe, from which the same recipe is parsed again.

mod convert;
mod document;
mod expand;
mod external;
mod fields;
mod lora;
mod one_or_many;
mod report;
mod rewards;
mod rounds;
mod select;
mod train;
mod validate;

use serde::{Deserialize, Serialize};

use crate::sampler::SamplerKind;

pub use document::apply_override;
pub use expand::{ExpandKind, ExpandSection};
pub use external::{OnFailure, RewardAnswer, RewardApi, RewardSource};
pub use fields::nearest;
pub use lora::{LoraInit, LoraSection};
pub use report::ReportSection;
pub use rewards::{RewardRole, RewardSection};
pub use rounds::{RoundsSection, StopSection, SweepSection};
pub use select::SelectSection;
pub use train::{
    Compared, Conditioning, FormSection, LrSchedule, Precision, PullTo, TrainMode, TrainSection,
};

/// A recipe that cannot be used. Messages name the key, its value and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// Not TOML.
    #[error("the recipe is not valid TOML: {0}")]
    Syntax(String),
    /// A key that does not exist.
    #[error("unknown key `{key}`{}; known there: {known}", suggestion.as_ref().map(|s| format!(": did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey {
        /// Full path of the key.
        key: String,
        /// The nearest known key, if one is near.
        suggestion: Option<String>,
        /// All keys known at this place.
        known: String,
    },
    /// A value of the wrong kind, or not one of the known words.
    #[error("`{key}`: {message}")]
    Type {
        /// Full path of the key.
        key: String,
        /// What was found and expected.
        message: String,
    },
    /// A value out of its range.
    #[error("`{key}` is {value}: expected {allowed}")]
    Range {
        /// Full path of the key.
        key: String,
        /// The value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// An override that cannot be applied.
    #[error("--set {text}: {message}")]
    Override {
        /// What was given.
        text: String,
        /// What is wrong with it.
        message: String,
    },
}

/// Everything that decides the result of a run, except the files it names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Seed of every random number of the run. At most 2⁶³ − 1, the largest integer of TOML.
    #[serde(default)]
    pub seed: u64,
    /// The model to align.
    pub model: ModelSection,
    /// Where prompts come from.
    #[serde(default)]
    pub prompts: PromptsSection,
    /// How prompts are expanded.
    #[serde(default)]
    pub expand: ExpandSection,
    /// How candidates are drawn.
    #[serde(default)]
    pub generate: GenerateSection,
    /// The reward models.
    #[serde(default)]
    pub rewards: Vec<RewardSection>,
    /// How candidates are selected.
    #[serde(default)]
    pub select: SelectSection,
    /// How the model is tuned.
    #[serde(default)]
    pub train: TrainSection,
    /// The random control.
    #[serde(default)]
    pub control: ControlSection,
    /// How base and tuned model are compared.
    #[serde(default)]
    pub evaluate: EvaluateSection,
    /// Drawing again from the tuned model.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rounds: RoundsSection,
    /// Weights between base and tuned model.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sweep: SweepSection,
    /// When training ends early.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stop: StopSection,
    /// What the report shows.
    #[serde(default, skip_serializing_if = "is_default")]
    pub report: ReportSection,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// A model folder in the layout of diffusers, a single-file checkpoint, or a repository of the
    /// Hugging Face hub (`owner/name`, `owner/name@revision`).
    pub path: String,
    /// A model folder whose configs and tokenizers a single-file checkpoint takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// LoRA files merged into the model before anything else, `FILE` or `FILE:SCALE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "one_or_many::one_or_many")]
    pub lora: Vec<String>,
}

/// Where prompts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptSource {
    /// The files `train` and `eval`.
    #[default]
    File,
    /// The embedded world.
    Pocket,
}

/// `[prompts]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptsSection {
    /// Files, or the embedded world.
    pub source: PromptSource,
    /// File of training prompts; [`crate::prompt_file`] has the formats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<String>,
    /// File of prompts to evaluate on, of the same form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval: Option<String>,
    /// How many training prompts: at most so many of the file, or exactly so many drawn from the
    /// embedded world (200 if not given).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_count: Option<usize>,
    /// How many prompts to evaluate on, likewise (96 of the embedded world if not given).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_count: Option<usize>,
}

impl PromptsSection {
    /// Training prompts drawn from the embedded world when `train_count` is not given.
    pub const POCKET_TRAIN_COUNT: usize = 200;
    /// Evaluation prompts drawn from the embedded world when `eval_count` is not given.
    pub const POCKET_EVAL_COUNT: usize = 96;
}

/// `[generate]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateSection {
    /// Steps of sampling.
    pub steps: usize,
    /// Classifier-free guidance scale; 1: no guidance.
    pub guidance_scale: f64,
    /// The sampler.
    pub scheduler: SamplerKind,
    /// Whether a sampler that can do so places its steps as Karras et al. 2022, equation 5, whatever the
    /// model's scheduler says (`use_karras_sigmas`).
    #[serde(skip_serializing_if = "is_default")]
    pub karras: bool,
    /// Pixels; `None`: the size of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<usize>,
    /// Pixels; `None`: the size of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Pictures drawn at once. Changes speed and memory, never the pictures.
    pub batch: usize,
    /// Noises per wording.
    pub samples: usize,
    /// Whether all wordings of a prompt start from the same noises.
    pub shared_noise: bool,
    /// What to steer away from.
    pub negative_prompt: String,
}

impl GenerateSection {
    /// What to steer away from, if anything.
    pub fn negative(&self) -> Option<&str> {
        Some(self.negative_prompt.as_str()).filter(|text| !text.is_empty())
    }
}

impl Default for GenerateSection {
    fn default() -> Self {
        Self {
            steps: 25,
            guidance_scale: 7.5,
            scheduler: SamplerKind::default(),
            karras: false,
            height: None,
            width: None,
            batch: 8,
            samples: 1,
            shared_noise: true,
            negative_prompt: String::new(),
        }
    }
}

/// `[control]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlSection {
    /// Whether a second model is tuned on as many random candidates.
    pub enabled: bool,
}

impl Default for ControlSection {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[evaluate]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSection {
    /// Pictures per prompt and model.
    pub samples_per_prompt: usize,
    /// Steps of sampling; `None`: as candidates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Guidance scale; `None`: as candidates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// Resamples of the confidence intervals.
    pub bootstrap: usize,
}

impl Default for EvaluateSection {
    fn default() -> Self {
        Self { samples_per_prompt: 2, steps: None, guidance_scale: None, bootstrap: 2000 }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
