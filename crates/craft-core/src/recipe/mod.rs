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
mod rounds;
mod validate;

use serde::{Deserialize, Serialize};

pub use document::apply_override;
pub use expand::{ExpandKind, ExpandSection};
pub use external::{OnFailure, RewardAnswer, RewardApi, RewardSource};
pub use fields::nearest;
pub use lora::{LoraInit, LoraSection};
pub use rounds::{RoundsSection, StopSection, SweepSection};

use crate::reward::RewardName;
use crate::select::{AdvantageScale, Indicator, Sign, Statistics, Total};

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

/// The samplers by the names of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SchedulerName {
    /// DDIM, deterministic.
    #[default]
    #[serde(rename = "ddim")]
    Ddim,
    /// Euler.
    #[serde(rename = "euler")]
    Euler,
    /// Ancestral Euler; draws noise at every step.
    #[serde(rename = "euler-a")]
    EulerA,
    /// DPM-Solver++ of order 2, multistep.
    #[serde(rename = "dpm++2m")]
    DpmPp2M,
}

impl SchedulerName {
    /// The name on the command line and in recipes.
    pub fn as_str(self) -> &'static str {
        match self {
            SchedulerName::Ddim => "ddim",
            SchedulerName::Euler => "euler",
            SchedulerName::EulerA => "euler-a",
            SchedulerName::DpmPp2M => "dpm++2m",
        }
    }
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
    pub scheduler: SchedulerName,
    /// Whether Euler and DPM++ 2M place their steps as Karras et al. 2022, equation 5, whatever the
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

impl Default for GenerateSection {
    fn default() -> Self {
        Self {
            steps: 25,
            guidance_scale: 7.5,
            scheduler: SchedulerName::default(),
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

/// What a reward model is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RewardRole {
    /// Filtering and weighing.
    #[default]
    Train,
    /// Evaluation only.
    HeldOut,
}

/// One of `[[rewards]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardSection {
    /// Which reward model.
    pub name: RewardName,
    /// Its weights, if it has any outside the binary: folders, files, or repositories of the Hugging
    /// Face hub (`owner/name`, `owner/name/file`, either with `@revision`), several after commas.
    /// `None`: embedded, or the published ones of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Its weight in r_total.
    #[serde(default = "one")]
    pub weight: f64,
    /// Training or held out.
    #[serde(default)]
    pub role: RewardRole,
    /// Whether candidates must beat the original on it.
    #[serde(default = "yes")]
    pub filter: bool,
    /// What happens when a candidate gets no score from it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_failure: OnFailure,
    /// A program and its arguments that score instead of weights; started in the recipe's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Address of a server that scores instead of weights; with `api = "openai"` the base address,
    /// such as `http://127.0.0.1:8000/v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What the server speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<RewardApi>,
    /// Model that an OpenAI-compatible server is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Question about a picture; `{prompt}` stands for its prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// What the question is answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<RewardAnswer>,
    /// Environment variable that holds the server's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Whether the server may be another machine.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_remote: bool,
    /// Seconds that an answer may take; 60 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// Seconds that the first answer of a started command may take; 600 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_timeout_seconds: Option<f64>,
    /// Times that a busy or failing server is asked again; 3 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<usize>,
    /// Pictures in one request to a server; 8 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Version of a command or server, "1" if not given; scores of another version are not used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

/// `[select]`; see [`crate::select`] for the meaning of each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelectSection {
    /// How many filter rewards must rise; `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_passes: Option<usize>,
    /// By how much each must rise, in its standard deviations.
    pub margin: f64,
    /// Per candidate or per prompt.
    pub indicator: Indicator,
    /// How rewards are summed.
    pub total: Total,
    /// Whole group or survivors.
    pub statistics: Statistics,
    /// In deviations of the group or as it is.
    pub advantage_scale: AdvantageScale,
    /// How advantages become weights.
    pub sign: Sign,
    /// The b of `sign = "shifted"`.
    pub shift: f64,
    /// The budget.
    pub max_samples: usize,
    /// Limit per prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_per_prompt: Option<usize>,
}

impl Default for SelectSection {
    fn default() -> Self {
        Self {
            min_passes: None,
            margin: 0.0,
            indicator: Indicator::default(),
            total: Total::default(),
            statistics: Statistics::default(),
            advantage_scale: AdvantageScale::default(),
            sign: Sign::default(),
            shift: 0.5,
            max_samples: 100,
            max_per_prompt: None,
        }
    }
}

/// How the learning rate goes on after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LrSchedule {
    /// As it is.
    #[default]
    Constant,
    /// Half a cosine down to 0 at the last step.
    Cosine,
}

/// Which text conditions the training loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conditioning {
    /// The prompt.
    #[default]
    Original,
    /// The wording that was drawn.
    Expanded,
    /// Either, with equal chance at every use.
    Mixed,
}

/// A method of preference tuning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Composite reward assisted fine-tuning.
    #[default]
    Craft,
    /// Plain fine-tuning on the survivors, all weights 1.
    Sft,
    /// Best of each group.
    Raft,
    /// Softmax-of-reward weights.
    Rwr,
    /// Diffusion-DPO on best and worst of each group.
    Dpo,
    /// Diffusion-KTO.
    Kto,
}

/// What training changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainMode {
    /// Every parameter of the denoiser.
    #[default]
    Full,
    /// Low-rank factors beside frozen weights; see [`LoraSection`].
    Lora,
}

/// Number format of the weights of the denoiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16 weights, computing and everything else in 32 bits: frozen weights take half the
    /// memory; trained ones have an f32 master copy beside them.
    Bf16,
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSection {
    /// The method.
    pub method: Method,
    /// Every parameter, or low-rank factors.
    pub mode: TrainMode,
    /// Number format of the denoiser's weights.
    pub precision: Precision,
    /// Whether the backward pass computes each block of the denoiser once more instead of keeping
    /// what is inside: much less memory for about a third more time. The results are the same up to
    /// rounding.
    pub gradient_checkpointing: bool,
    /// Optimiser steps.
    pub steps: usize,
    /// Samples per step.
    pub batch: usize,
    /// Samples per forward and backward pass; `None`: `batch`. Gradients are accumulated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: usize,
    /// What follows.
    pub lr_schedule: LrSchedule,
    /// Decoupled weight decay of AdamW.
    pub weight_decay: f64,
    /// AdamW's β₁.
    pub beta1: f64,
    /// AdamW's β₂.
    pub beta2: f64,
    /// AdamW's ε.
    pub eps: f64,
    /// Global norm that gradients are clipped to.
    pub max_grad_norm: f64,
    /// Decay of an exponential moving average of the weights; `None`: no average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// Chance that a sample is trained with the empty prompt.
    pub unconditional_dropout: f64,
    /// Which text conditions the loss.
    pub conditioning: Conditioning,
    /// First timestep drawn.
    pub timestep_min: usize,
    /// Last timestep drawn; `None`: the model's last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestep_max: Option<usize>,
    /// γ of min-SNR weighting of the loss over timesteps, such as 5; `None`: equal weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_snr_gamma: Option<f64>,
    /// Steps between checkpoints; 0: only at the end and when interrupted.
    pub checkpoint_every: usize,
    /// Consecutive steps with a non-finite loss or gradient that end the run.
    pub max_nonfinite_steps: usize,
    /// Of `mode = "lora"`.
    pub lora: LoraSection,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            method: Method::default(),
            mode: TrainMode::default(),
            precision: Precision::default(),
            gradient_checkpointing: false,
            steps: 120,
            batch: 128,
            micro_batch: None,
            learning_rate: 5e-5,
            warmup_steps: 0,
            lr_schedule: LrSchedule::default(),
            weight_decay: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            max_grad_norm: 1.0,
            ema_decay: None,
            unconditional_dropout: 0.0,
            conditioning: Conditioning::default(),
            timestep_min: 0,
            timestep_max: None,
            min_snr_gamma: None,
            checkpoint_every: 20,
            max_nonfinite_steps: 3,
            lora: LoraSection::default(),
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
