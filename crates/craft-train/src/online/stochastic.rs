//! DDPO (Black et al. 2023; `kvablack/ddpo-pytorch`): the sampler's steps as actions of a policy. Stochastic
//! DDIM gives each step a Gaussian, whose log-probability PPO pushes up or down.

use burn::tensor::Tensor;
use craft_core::process::Level;
use craft_core::sampler::ddim;
use craft_core::schedule::{NoiseSchedule, ScheduleError};

use crate::loss::beside;
use crate::methods::awm::surrogate;

/// One step of stochastic DDIM: `x' ~ N(a x + b output, σ²)` (Song et al. 2021, equations 12 and 16).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StochasticStep {
    /// Timestep that the denoiser is asked at.
    pub timestep: f64,
    /// Factor a on the latents.
    pub state: f64,
    /// Factor b on the denoiser's output.
    pub output: f64,
    /// σ; 0 where the step has no noise.
    pub std: f64,
    /// The clean latents as factors on latents and output.
    clean: [f64; 2],
}

impl StochasticStep {
    /// The mean of the next latents.
    pub fn mean(&self, latents: &[f32], output: &[f32]) -> Vec<f32> {
        let (a, b) = (self.state as f32, self.output as f32);
        latents.iter().zip(output).map(|(x, o)| a * x + b * o).collect()
    }

    /// The clean latents that an output predicts.
    pub fn clean(&self, latents: &[f32], output: &[f32]) -> Vec<f32> {
        let [a, b] = self.clean;
        let clean = |x: &f32, o: &f32| (a * f64::from(*x) + b * f64::from(*o)) as f32;
        latents.iter().zip(output).map(|(x, o)| clean(x, o)).collect()
    }

    /// What the denoiser would have had to say for `next` to be the mean.
    pub fn target(&self, latents: &[f32], next: &[f32]) -> Vec<f32> {
        let (a, b) = (self.state as f32, self.output as f32);
        latents.iter().zip(next).map(|(x, n)| (n - a * x) / b).collect()
    }

    /// Factor `b² / (2σ²)` from a squared error of the output to a negative log-probability, but for what
    /// does not depend on the output.
    pub fn scale(&self) -> f64 {
        self.output.powi(2) / (2.0 * self.std.powi(2))
    }
}

/// The steps of a schedule with `eta` times the noise of the reverse process. Predictions are not clipped.
///
/// # Errors
/// When the schedule has no such number of steps.
pub fn stochastic_steps(
    schedule: &NoiseSchedule,
    steps: usize,
    eta: f64,
) -> Result<Vec<StochasticStep>, ScheduleError> {
    let stride = (schedule.num_train_timesteps() / steps) as i64;
    let timesteps = schedule.steps(&ddim::KIND.rules, steps)?.timesteps;
    let process = schedule.process();
    let step = |timestep: f64| {
        let t = timestep as i64;
        let (now, next) = (schedule.alpha_cumprod(t), schedule.alpha_cumprod(t - stride));
        let std = eta * ((1.0 - next) / (1.0 - now) * (1.0 - now / next)).max(0.0).sqrt();
        let level = Level::of_alpha(timestep, now);
        let (signal, noise) = (next.sqrt(), (1.0 - next - std * std).max(0.0).sqrt());
        // signal · x₀ + noise · ε, with x₀ linear in latents and output, and ε what is left of the latents.
        let clean = process.linear(level);
        let (of_clean, of_noise) =
            (signal - noise * level.signal / level.noise, noise / level.noise);
        let (state, output) = (of_clean * clean[0] + of_noise, of_clean * clean[1]);
        StochasticStep { timestep, state, output, std, clean }
    };
    Ok(timesteps.into_iter().map(step).collect())
}

/// `Σ_b max(−Â ρ, −Â clip(ρ, 1 ± c)) / batch` with `ρ = exp(s (m^old − m))`.
///
/// `errors` and `before` `[B]`: squared errors to [`StochasticStep::target`] of the model and of the one
/// that drew; `scales` `[B]`: [`StochasticStep::scale`] of each row's step; `advantages` `[B]`. The
/// log-probability is a mean over the latents, as in the reference.
pub fn ddpo(
    errors: Tensor<1>,
    before: &[f32],
    scales: &[f32],
    advantages: &[f32],
    clip: f64,
    batch: usize,
) -> Tensor<1> {
    let ratio = ((beside(&errors, before) - errors.clone()) * beside(&errors, scales)).exp();
    surrogate(ratio, advantages, clip).sum().div_scalar(batch as f64)
}
