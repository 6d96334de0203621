//! Euler (Karras et al. 2022, algorithm 1 without churn; `diffusers/schedulers/scheduling_euler_discrete.py`).
//!
//! Latents are in the variance-exploding form, x = x₀ + σ ε; the denoiser sees x / √(σ² + 1).

use super::{Call, Entry, Sampler, SamplerKind};
use crate::process::Level;
use crate::schedule::{Ends, NoiseSchedule, Rules, ScheduleError, Steps, TimestepSpacing};

/// Euler.
pub const KIND: SamplerKind = SamplerKind::new(ENTRY);

const ENTRY: &Entry = &Entry {
    name: "euler",
    label: "Euler",
    help: "deterministic, along the slope at each step",
    stochastic: false,
    turbo: true,
    rules: Rules {
        fractional: true,
        sigma_spacing: Some(Ends::Timesteps),
        continuous: true,
        final_sigma: true,
        refuses: &["use_beta_sigmas", "interpolation_type"],
        ..Rules::of("EulerDiscrete")
    },
    new: |schedule, steps| Ok(Box::new(Euler::new(schedule, steps)?)),
};

/// What samplers of the variance-exploding form share: the way, and the slope along it.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) steps: Steps,
    pub(super) init_scale: f64,
}

impl Way {
    pub(super) fn new(
        schedule: &NoiseSchedule,
        rules: &Rules,
        steps: usize,
    ) -> Result<Self, ScheduleError> {
        let steps = schedule.steps(rules, steps)?;
        let most = steps.sigmas.iter().copied().fold(0.0, f64::max);
        let init_scale = match schedule.spacing(rules) {
            TimestepSpacing::Leading => most.hypot(1.0),
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => most,
        };
        Ok(Self { steps, init_scale })
    }

    /// What the denoiser is given at step `i`.
    pub(super) fn call(&self, i: usize) -> Call {
        let sigma = self.steps.sigmas[i];
        let scale = 1.0 / sigma.hypot(1.0);
        let level = Level { time: self.steps.timesteps[i], signal: scale, noise: sigma * scale };
        Call { scale, level }
    }

    /// dx/dσ at step `i`, that is, the noise in `x`.
    pub(super) fn slope(&self, i: usize, x: f64, clean: f64) -> f64 {
        let sigma = self.steps.sigmas[i];
        if sigma == 0.0 { 0.0 } else { (x - clean) / sigma }
    }
}

/// The Euler sampler.
#[derive(Clone, Debug)]
pub struct Euler(Way);

impl Euler {
    /// The sampler of `steps` steps over a schedule.
    ///
    /// # Errors
    /// When the schedule has no such number of steps, or asks for what Euler cannot do.
    pub fn new(schedule: &NoiseSchedule, steps: usize) -> Result<Self, ScheduleError> {
        Way::new(schedule, &KIND.rules, steps).map(Self)
    }
}

impl Sampler for Euler {
    fn calls(&self) -> usize {
        self.0.steps.timesteps.len()
    }

    fn call(&self, i: usize) -> Call {
        self.0.call(i)
    }

    fn init_scale(&self) -> f64 {
        self.0.init_scale
    }

    fn step(&mut self, i: usize, clean: &[f64], latents: &mut [f32], _noise: &[f32]) {
        let sigmas = &self.0.steps.sigmas;
        let way = sigmas[i + 1] - sigmas[i];
        for (x, &clean) in latents.iter_mut().zip(clean) {
            let now = f64::from(*x);
            *x = (now + way * self.0.slope(i, now, clean)) as f32;
        }
    }
}
