//! `[train]`: how the denoiser is tuned.

use serde::{Deserialize, Serialize};

use super::LoraSection;

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

/// Whose prediction [`FormSection`] compares with the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compared {
    /// The trained network's.
    #[default]
    Current,
    /// That of the model which drew the samples.
    Old,
}

/// What [`FormSection`] pulls the prediction to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullTo {
    /// The prediction of the model that drew the samples.
    #[default]
    Base,
    /// The prediction of the average of the trained weights.
    Average,
}

/// `[train.form]`: the common form of losses that weigh samples. The gradient with respect to the prediction p is
/// `a (p• − target) + κ (p − anchor)`, with a sample's weight or advantage times `strength` for `a`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FormSection {
    /// Which prediction p• is compared with the target.
    pub compare: Compared,
    /// Factor on the samples' weights.
    pub strength: f64,
    /// κ, the weight of the pull; `None`: the method's own, 0 for most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull: Option<f64>,
    /// What it pulls to.
    pub pull_to: PullTo,
}

impl Default for FormSection {
    fn default() -> Self {
        Self { compare: Compared::default(), strength: 1.0, pull: None, pull_to: PullTo::default() }
    }
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
    /// The method, by the name that a comparison has for it; the training engine knows them.
    pub method: String,
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
    /// Samples per forward and backward pass; `None`: as many of `batch` as have 16,384 positions of latents
    /// together. Gradients are accumulated.
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
    /// The common form of losses over weighted samples.
    #[serde(skip_serializing_if = "super::is_default")]
    pub form: FormSection,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            method: "craft".to_owned(),
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
            form: FormSection::default(),
        }
    }
}
