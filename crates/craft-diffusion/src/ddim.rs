//! DDIM with η = 0 (Song et al. 2021, equation 12; `diffusers/schedulers/scheduling_ddim.py`).

use craft_core::schedule::{NoiseSchedule, PredictionType, SamplerKind, ScheduleError};

use crate::sampler::{Sampler, split};

/// The deterministic DDIM sampler.
#[derive(Clone, Debug)]
pub struct Ddim {
    timesteps: Vec<f64>,
    /// ᾱ at each step and at the one that it leads to.
    alphas: Vec<f64>,
    prediction: PredictionType,
    /// Clamp of the predicted clean latents.
    clip: Option<f64>,
}

impl Ddim {
    /// The sampler of `steps` steps over a schedule.
    ///
    /// # Errors
    /// When the schedule has no such number of steps, or asks for what DDIM cannot do.
    pub fn new(schedule: &NoiseSchedule, steps: usize) -> Result<Self, ScheduleError> {
        let timesteps = schedule.steps(SamplerKind::Ddim, steps)?.timesteps;
        let stride = (schedule.num_train_timesteps() / steps) as i64;
        let alphas = timesteps
            .iter()
            .flat_map(|&t| {
                let t = t as i64;
                [schedule.alpha_cumprod(t), schedule.alpha_cumprod(t - stride)]
            })
            .collect();
        Ok(Self { timesteps, alphas, prediction: schedule.prediction_type, clip: schedule.clip() })
    }
}

impl Sampler for Ddim {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, i: usize, output: &[f32], latents: &mut [f32], _noise: &[f32]) {
        let (alpha, next) = (self.alphas[2 * i], self.alphas[2 * i + 1]);
        let (next_a, next_s) = (next.sqrt(), (1.0 - next).sqrt());
        for (x, &out) in latents.iter_mut().zip(output) {
            let (mut clean, noise) = split(self.prediction, alpha, f64::from(*x), f64::from(out));
            if let Some(limit) = self.clip {
                // diffusers keeps the noise of the unclipped prediction (`use_clipped_model_output`).
                clean = clean.clamp(-limit, limit);
            }
            *x = (next_a * clean + next_s * noise) as f32;
        }
    }
}
