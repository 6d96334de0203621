//! Euler and ancestral Euler (Karras et al. 2022, algorithm 1 without churn;
//! `diffusers/schedulers/scheduling_euler_discrete.py`, `scheduling_euler_ancestral_discrete.py`).
//!
//! Latents are in the variance-exploding form, x = x₀ + σ ε; the denoiser sees x / √(σ² + 1).

use craft_core::schedule::{
    NoiseSchedule, PredictionType, SamplerKind, ScheduleError, Steps, TimestepSpacing,
};

use crate::sampler::Sampler;

/// What both share: the way, and the slope along it.
#[derive(Clone, Debug)]
struct Way {
    steps: Steps,
    prediction: PredictionType,
    init_scale: f64,
}

impl Way {
    fn new(
        schedule: &NoiseSchedule,
        kind: SamplerKind,
        steps: usize,
    ) -> Result<Self, ScheduleError> {
        let steps = schedule.steps(kind, steps)?;
        let most = steps.sigmas.iter().copied().fold(0.0, f64::max);
        let init_scale = match schedule.spacing(kind) {
            TimestepSpacing::Leading => most.hypot(1.0),
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => most,
        };
        Ok(Self { steps, prediction: schedule.prediction_type, init_scale })
    }

    fn input_scale(&self, i: usize) -> f64 {
        1.0 / self.steps.sigmas[i].hypot(1.0)
    }

    /// dx/dσ at step `i`, that is, the noise in `x`.
    fn slope(&self, i: usize, x: f64, output: f64) -> f64 {
        let sigma = self.steps.sigmas[i];
        match self.prediction {
            PredictionType::Epsilon => output,
            PredictionType::VPrediction => {
                let square = sigma * sigma + 1.0;
                let clean = x / square - output * sigma / square.sqrt();
                (x - clean) / sigma
            }
        }
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
        Way::new(schedule, SamplerKind::Euler, steps).map(Self)
    }
}

impl Sampler for Euler {
    fn timesteps(&self) -> &[f64] {
        &self.0.steps.timesteps
    }

    fn init_scale(&self) -> f64 {
        self.0.init_scale
    }

    fn input_scale(&self, i: usize) -> f64 {
        self.0.input_scale(i)
    }

    fn step(&mut self, i: usize, output: &[f32], latents: &mut [f32], _noise: &[f32]) {
        let sigmas = &self.0.steps.sigmas;
        let way = sigmas[i + 1] - sigmas[i];
        for (x, &out) in latents.iter_mut().zip(output) {
            let now = f64::from(*x);
            *x = (now + way * self.0.slope(i, now, f64::from(out))) as f32;
        }
    }
}

/// The ancestral Euler sampler: a step goes below its σ, and fresh noise brings it back.
#[derive(Clone, Debug)]
pub struct EulerAncestral(Way);

impl EulerAncestral {
    /// The sampler of `steps` steps over a schedule.
    ///
    /// # Errors
    /// When the schedule has no such number of steps.
    pub fn new(schedule: &NoiseSchedule, steps: usize) -> Result<Self, ScheduleError> {
        Way::new(schedule, SamplerKind::EulerAncestral, steps).map(Self)
    }
}

impl Sampler for EulerAncestral {
    fn timesteps(&self) -> &[f64] {
        &self.0.steps.timesteps
    }

    fn init_scale(&self) -> f64 {
        self.0.init_scale
    }

    fn input_scale(&self, i: usize) -> f64 {
        self.0.input_scale(i)
    }

    fn is_stochastic(&self) -> bool {
        true
    }

    fn step(&mut self, i: usize, output: &[f32], latents: &mut [f32], noise: &[f32]) {
        let (from, to) = (self.0.steps.sigmas[i], self.0.steps.sigmas[i + 1]);
        let up = (to * to * (from * from - to * to)).max(0.0).sqrt() / from;
        let down = (to * to - up * up).max(0.0).sqrt();
        for ((x, &out), &noise) in latents.iter_mut().zip(output).zip(noise) {
            let now = f64::from(*x);
            let moved = now + (down - from) * self.0.slope(i, now, f64::from(out));
            *x = (moved + up * f64::from(noise)) as f32;
        }
    }
}
