//! DPM-Solver++ of order 2, multistep (Lu et al. 2022, algorithm 2;
//! `diffusers/schedulers/scheduling_dpmsolver_multistep.py` with `dpmsolver++`, `midpoint`).

use craft_core::schedule::{NoiseSchedule, PredictionType, SamplerKind, ScheduleError};

use crate::sampler::{Sampler, split};

/// The DPM++ 2M sampler.
#[derive(Clone, Debug)]
pub struct DpmPlusPlus2M {
    timesteps: Vec<f64>,
    /// σ of the variance-exploding form at each step, and behind the last one.
    sigmas: Vec<f64>,
    prediction: PredictionType,
    previous: Option<Vec<f64>>,
}

impl DpmPlusPlus2M {
    /// The sampler of `steps` steps over a schedule, down to σ = 0.
    ///
    /// # Errors
    /// When the schedule has no such number of steps.
    pub fn new(schedule: &NoiseSchedule, steps: usize) -> Result<Self, ScheduleError> {
        let timesteps = schedule.timesteps(SamplerKind::DpmSolverPp2M, steps)?;
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| schedule.sigma_at(t)).collect();
        sigmas.push(0.0);
        Ok(Self { timesteps, sigmas, prediction: schedule.prediction_type, previous: None })
    }

    /// (α, σ, λ) of the variance-preserving form.
    fn at(&self, i: usize) -> (f64, f64, f64) {
        let sigma = self.sigmas[i];
        let alpha = 1.0 / (1.0 + sigma * sigma).sqrt();
        (alpha, sigma * alpha, -sigma.ln())
    }
}

impl Sampler for DpmPlusPlus2M {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, i: usize, output: &[f32], latents: &mut [f32]) {
        let (alpha_s, sigma_s, lambda_s) = self.at(i);
        let (alpha_t, sigma_t, lambda_t) = self.at(i + 1);
        let clean: Vec<f64> = latents
            .iter()
            .zip(output)
            .map(|(&x, &out)| {
                split(self.prediction, alpha_s * alpha_s, f64::from(x), f64::from(out)).0
            })
            .collect();
        let last = i + 1 == self.timesteps.len();
        // The last of few steps is of first order, and so is any step to σ = 0.
        let first_order = last && (self.timesteps.len() < 15 || sigma_t == 0.0);
        let ratio = sigma_t / sigma_s;
        let factor = alpha_t * (-(lambda_t - lambda_s)).exp_m1();
        let second = match (&self.previous, first_order) {
            (Some(previous), false) => {
                let (_, _, lambda_p) = self.at(i - 1);
                let r = (lambda_s - lambda_p) / (lambda_t - lambda_s);
                Some((previous, 0.5 / r))
            }
            _ => None,
        };
        for (j, (x, &d0)) in latents.iter_mut().zip(&clean).enumerate() {
            let mut value = ratio * f64::from(*x) - factor * d0;
            if let Some((previous, weight)) = second {
                value -= factor * weight * (d0 - previous[j]);
            }
            *x = value as f32;
        }
        self.previous = Some(clean);
    }
}
