//! Noise schedules as diffusers defines them, in f64.
//!
//! Read from `scheduler/scheduler_config.json` of a model folder. What a sampler does with the
//! schedule is not known here: its rules say at which timesteps it calls the network, and at which σ.
//! Sources: diffusers `scheduling_ddim.py`, `scheduling_euler_discrete.py`,
//! `scheduling_dpmsolver_multistep.py`; zero terminal SNR: arXiv 2305.08891, algorithm 1.

mod classes;
mod config;
mod pipeline;
mod rules;
mod sigmas;

pub use classes::Class;
pub use config::{FinalSigma, SamplingOptions, SigmaSpacing, SolverType};
pub use pipeline::Pipeline;
pub use rules::{Ends, Rules};
pub use sigmas::Steps;

pub use crate::process::PredictionType;
use crate::process::{Level, Process};

/// A scheduler configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// Not JSON, or a value of the wrong kind.
    #[error("scheduler configuration is not readable: {0}")]
    Json(String),
    /// A value that is not known.
    #[error("scheduler configuration: `{key}` is {value}: expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value as JSON.
        value: String,
        /// What is supported.
        expected: String,
    },
    /// Zero terminal signal-to-noise ratio with a prediction of ε.
    #[error(
        "a schedule of zero terminal signal-to-noise ratio (`rescale_betas_zero_snr`) with `prediction_type` epsilon cannot be sampled by DDIM: the noise alone says nothing of the image at the last timestep; expected `v_prediction`, or another sampler"
    )]
    ZeroSnrEpsilon,
    /// A number of steps that cannot be taken.
    #[error(
        "{steps} inference steps: expected 1 to {most} ({num_train_timesteps} training timesteps)"
    )]
    Steps {
        /// What was asked for.
        steps: usize,
        /// The most there can be.
        most: usize,
        /// Timesteps of training.
        num_train_timesteps: usize,
    },
}

/// How the noise grows over the timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BetaSchedule {
    /// β from `beta_start` to `beta_end` in equal steps.
    Linear,
    /// √β in equal steps: Stable Diffusion.
    ScaledLinear,
    /// ᾱ follows a squared cosine, β at most 0.999.
    SquaredcosCapV2,
}

/// How the timesteps of sampling are placed among those of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestepSpacing {
    /// Equal whole strides from 0, plus `steps_offset`.
    Leading,
    /// Equal strides back from the last timestep.
    Trailing,
    /// Both ends included.
    Linspace,
}

/// The noise schedule of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    /// Noise added per timestep of training; f64.
    pub betas: Vec<f64>,
    /// ᾱ_t = Π (1 − β), t = 0 … T−1; f64.
    pub alphas_cumprod: Vec<f64>,
    /// How the noise grows.
    pub beta_schedule: BetaSchedule,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// Whether ᾱ before the first timestep is 1 instead of ᾱ_0 (DDIM's last step).
    pub set_alpha_to_one: bool,
    /// Added to timesteps of leading spacing; `None`: not given.
    pub steps_offset: Option<usize>,
    /// Spacing; `None`: the sampler's own default.
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Whether DDIM clips the predicted x₀ to ± `clip_sample_range`; `None`: not given ([`Self::clip`]).
    pub clip_sample: Option<bool>,
    /// Bound of the clipping.
    pub clip_sample_range: f64,
    /// Whether betas were rescaled to a terminal signal-to-noise ratio of zero.
    pub rescale_betas_zero_snr: bool,
    /// The scheduler's class, such as `PNDMScheduler`.
    pub class_name: Option<String>,
    /// The class of few steps and little guidance that the model's files name, such as `LCMScheduler`.
    pub distilled: Option<String>,
    /// The class whose missing settings the pipeline corrects: the scheduler's own.
    pub corrected: Option<String>,
    /// What else samplers read from the file.
    pub sampling: SamplingOptions,
}

impl NoiseSchedule {
    /// The schedule of Stable Diffusion 1 and 2 and SDXL: scaled linear, 0.00085 to 0.012, 1000
    /// timesteps, offset 1, ε.
    pub fn stable_diffusion() -> Self {
        let betas = betas_of(BetaSchedule::ScaledLinear, 0.00085, 0.012, 1000);
        Self {
            alphas_cumprod: cumprod(&betas),
            betas,
            beta_schedule: BetaSchedule::ScaledLinear,
            prediction_type: PredictionType::Epsilon,
            set_alpha_to_one: false,
            steps_offset: Some(1),
            timestep_spacing: None,
            clip_sample: Some(false),
            clip_sample_range: 1.0,
            rescale_betas_zero_snr: false,
            class_name: None,
            distilled: None,
            corrected: None,
            sampling: SamplingOptions::default(),
        }
    }

    /// Number of timesteps of training, T.
    pub fn num_train_timesteps(&self) -> usize {
        self.betas.len()
    }

    /// ᾱ at a timestep; before the first one (negative), 1 or ᾱ_0 as `set_alpha_to_one` says.
    /// Timesteps past the last take the last.
    pub fn alpha_cumprod(&self, timestep: i64) -> f64 {
        match usize::try_from(timestep) {
            Ok(t) => self.alphas_cumprod[t.min(self.alphas_cumprod.len() - 1)],
            Err(_) if self.set_alpha_to_one => 1.0,
            Err(_) => self.alphas_cumprod[0],
        }
    }

    /// σ = √((1−ᾱ)/ᾱ) of each timestep. With zero terminal SNR the last ᾱ is taken as 2⁻²⁴, as
    /// diffusers does, so that σ stays finite.
    pub fn sigmas(&self) -> Vec<f64> {
        let mut alphas = self.alphas_cumprod.clone();
        if let (true, Some(last)) = (self.rescale_betas_zero_snr, alphas.last_mut()) {
            *last = (2.0f64).powi(-24);
        }
        alphas.iter().map(|a| ((1.0 - a) / a).sqrt()).collect()
    }

    /// What the network is asked at the timesteps of training, and what its output means.
    pub fn process(&self) -> Box<dyn Process> {
        let levels = self.alphas_cumprod.iter().enumerate();
        let levels = levels.map(|(t, &alpha)| Level::of_alpha(t as f64, alpha)).collect();
        self.prediction_type.over(levels)
    }

    /// Signal-to-noise ratio ᾱ/(1−ᾱ) at a timestep.
    pub fn snr(&self, timestep: usize) -> f64 {
        let alpha = self.alphas_cumprod[timestep.min(self.alphas_cumprod.len() - 1)];
        alpha / (1.0 - alpha)
    }
}

fn betas_of(schedule: BetaSchedule, start: f64, end: f64, n: usize) -> Vec<f64> {
    let linspace = |a: f64, b: f64| {
        let stride = if n > 1 { (b - a) / (n - 1) as f64 } else { 0.0 };
        (0..n).map(move |i| a + stride * i as f64)
    };
    match schedule {
        BetaSchedule::Linear => linspace(start, end).collect(),
        BetaSchedule::ScaledLinear => linspace(start.sqrt(), end.sqrt()).map(|b| b * b).collect(),
        BetaSchedule::SquaredcosCapV2 => {
            let alpha_bar =
                |t: f64| libm::cos((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).powi(2);
            (0..n)
                .map(|i| {
                    let (now, next) = (i as f64 / n as f64, (i + 1) as f64 / n as f64);
                    (1.0 - alpha_bar(next) / alpha_bar(now)).min(0.999)
                })
                .collect()
        }
    }
}

fn cumprod(betas: &[f64]) -> Vec<f64> {
    betas
        .iter()
        .scan(1.0, |product, beta| {
            *product *= 1.0 - beta;
            Some(*product)
        })
        .collect()
}

/// Shifts and scales √ᾱ so that its last value is 0 and its first is kept.
fn rescale_zero_terminal_snr(betas: &[f64]) -> Vec<f64> {
    let roots: Vec<f64> = cumprod(betas).into_iter().map(f64::sqrt).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else {
        return Vec::new();
    };
    if first == last {
        return betas.to_vec();
    }
    let scale = first / (first - last);
    let bars: Vec<f64> = roots.iter().map(|r| ((r - last) * scale).powi(2)).collect();
    let before = std::iter::once(1.0).chain(bars.iter().copied());
    bars.iter().zip(before).map(|(bar, before)| 1.0 - bar / before).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
