//! DDIM with η = 0 (Song et al. 2021, equation 12; `diffusers/schedulers/scheduling_ddim.py`).

use super::{Call, Entry, Sampler, SamplerKind};
use crate::process::Level;
use crate::schedule::{NoiseSchedule, Rules, ScheduleError, TimestepSpacing};

/// DDIM.
pub const KIND: SamplerKind = SamplerKind::new(ENTRY);

const ENTRY: &Entry = &Entry {
    name: "ddim",
    label: "DDIM",
    help: "deterministic",
    stochastic: false,
    turbo: false,
    rules: Rules {
        default_spacing: TimestepSpacing::Leading,
        exact_last: true,
        refuses: &["thresholding"],
        ..Rules::of("DDIM")
    },
    new: |schedule, steps| Ok(Box::new(Ddim::new(schedule, steps)?)),
};

/// The deterministic DDIM sampler.
#[derive(Clone, Debug)]
pub struct Ddim {
    /// The level of each step and the one that it leads to.
    way: Vec<[Level; 2]>,
    /// Clamp of the predicted clean latents.
    clip: Option<f64>,
}

impl Ddim {
    /// The sampler of `steps` steps over a schedule.
    ///
    /// # Errors
    /// When the schedule has no such number of steps, or asks for what DDIM cannot do.
    pub fn new(schedule: &NoiseSchedule, steps: usize) -> Result<Self, ScheduleError> {
        let timesteps = schedule.steps(&KIND.rules, steps)?.timesteps;
        let stride = (schedule.num_train_timesteps() / steps) as i64;
        let level = |t: i64| Level::of_alpha(t as f64, schedule.alpha_cumprod(t));
        let way = timesteps.iter().map(|&t| [level(t as i64), level(t as i64 - stride)]).collect();
        Ok(Self { way, clip: schedule.clip(&KIND.rules) })
    }

    /// The sampler from level to level of any process, the first of noise, the last of the picture.
    pub fn over(levels: &[Level]) -> Self {
        Self { way: levels.windows(2).map(|pair| [pair[0], pair[1]]).collect(), clip: None }
    }
}

impl Sampler for Ddim {
    fn calls(&self) -> usize {
        self.way.len()
    }

    fn call(&self, i: usize) -> Call {
        Call { scale: 1.0, level: self.way[i][0] }
    }

    fn step(&mut self, i: usize, clean: &[f64], latents: &mut [f32], _noise: &[f32]) {
        let [now, next] = self.way[i];
        for (x, &clean) in latents.iter_mut().zip(clean) {
            let noise = now.noise_in(f64::from(*x), clean);
            // diffusers keeps the noise of the unclipped prediction (`use_clipped_model_output`).
            let clean = self.clip.map_or(clean, |limit| clean.clamp(-limit, limit));
            *x = (next.signal * clean + next.noise * noise) as f32;
        }
    }
}
