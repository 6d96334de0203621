//! Ancestral Euler (`diffusers/schedulers/scheduling_euler_ancestral_discrete.py`): a step goes below its σ, and
//! fresh noise brings it back.

use super::euler::Way;
use super::{Call, Entry, Sampler, SamplerKind};
use crate::schedule::{NoiseSchedule, Rules, ScheduleError};

/// Ancestral Euler.
pub const KIND: SamplerKind = SamplerKind::new(ENTRY);

const ENTRY: &Entry = &Entry {
    name: "euler-a",
    label: "Euler a",
    help: "ancestral Euler, with noise at each step",
    stochastic: true,
    turbo: true,
    rules: Rules { fractional: true, ..Rules::of("EulerAncestralDiscrete") },
    new: |schedule, steps| Ok(Box::new(EulerAncestral::new(schedule, steps)?)),
};

/// The ancestral Euler sampler.
#[derive(Clone, Debug)]
pub struct EulerAncestral(Way);

impl EulerAncestral {
    /// The sampler of `steps` steps over a schedule.
    ///
    /// # Errors
    /// When the schedule has no such number of steps.
    pub fn new(schedule: &NoiseSchedule, steps: usize) -> Result<Self, ScheduleError> {
        Way::new(schedule, &KIND.rules, steps).map(Self)
    }
}

impl Sampler for EulerAncestral {
    fn calls(&self) -> usize {
        self.0.steps.timesteps.len()
    }

    fn call(&self, i: usize) -> Call {
        self.0.call(i)
    }

    fn init_scale(&self) -> f64 {
        self.0.init_scale
    }

    fn step(&mut self, i: usize, clean: &[f64], latents: &mut [f32], noise: &[f32]) {
        let (from, to) = (self.0.steps.sigmas[i], self.0.steps.sigmas[i + 1]);
        let up = (to * to * (from * from - to * to)).max(0.0).sqrt() / from;
        let down = (to * to - up * up).max(0.0).sqrt();
        for ((x, &clean), &noise) in latents.iter_mut().zip(clean).zip(noise) {
            let now = f64::from(*x);
            let moved = now + (down - from) * self.0.slope(i, now, clean);
            *x = (moved + up * f64::from(noise)) as f32;
        }
    }
}
