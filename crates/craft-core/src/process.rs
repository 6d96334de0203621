//! The process that noises latents and that a denoiser undoes: what a denoiser is asked, and what its output means.
//!
//! A denoiser predicts the noise, a velocity, or another mixture of noise and clean latents. Each kind is one
//! implementation of [`Process`] and decides in one place; training and sampling ask the trait. The seam is that of
//! k-diffusion's wrappers (`external.py`).

use std::fmt;

/// How much of the clean latents and how much noise the denoiser's input holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// What the denoiser is told, such as the timestep.
    pub time: f64,
    /// Factor on the clean latents x₀.
    pub signal: f64,
    /// Factor on the noise ε: the input is `signal·x₀ + noise·ε`.
    pub noise: f64,
}

impl Level {
    /// The level of a variance-preserving process with this ᾱ: √ᾱ and √(1−ᾱ).
    pub fn of_alpha(time: f64, alpha: f64) -> Self {
        Self { time, signal: alpha.sqrt(), noise: (1.0 - alpha).sqrt() }
    }

    /// Signal-to-noise ratio; infinite without noise.
    pub fn snr(self) -> f64 {
        (self.signal * self.signal) / (self.noise * self.noise)
    }

    /// The noise in `x`, when these are the clean latents. 0 at a level without noise.
    pub fn noise_in(self, x: f64, clean: f64) -> f64 {
        if self.noise == 0.0 { 0.0 } else { (x - self.signal * clean) / self.noise }
    }
}

/// A process: its levels, and what the denoiser predicts at one.
///
/// Clean latents, noise and outputs are values of the same place; slices have one length.
pub trait Process: fmt::Debug + Send + Sync {
    /// Number of levels of training.
    fn levels(&self) -> usize;

    /// The level of a timestep of training, from 0. Timesteps past the last take the last.
    fn level(&self, timestep: usize) -> Level;

    /// Appends the noised latents to `out` (Ho et al. 2020, equation 4).
    fn noised(&self, level: Level, clean: &[f32], noise: &[f32], out: &mut Vec<f32>) {
        let (a, s) = (level.signal as f32, level.noise as f32);
        out.extend(clean.iter().zip(noise).map(|(x, e)| a * x + s * e));
    }

    /// Appends what the denoiser is to predict to `out`.
    fn target(&self, level: Level, clean: &[f32], noise: &[f32], out: &mut Vec<f32>);

    /// The clean latents that an output means, given the denoiser's input `x`.
    fn clean(&self, level: Level, x: f64, output: f64) -> f64;

    /// [`Self::clean`] as factors on `x` and on the output. Infinite where the output says nothing of the clean
    /// latents.
    fn linear(&self, level: Level) -> [f64; 2];

    /// Whether an output tells the clean latents at a level.
    fn tells_clean(&self, level: Level) -> bool {
        self.linear(level).iter().all(|factor| factor.is_finite())
    }

    /// Factor on the loss at a level that makes its weight on x₀ min(SNR, γ) (Hang et al. 2023).
    fn min_snr(&self, level: Level, gamma: f64) -> f32 {
        let [_, output] = self.linear(level);
        (level.snr().min(gamma) * output * output) as f32
    }
}

/// What the network of a model with betas predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredictionType {
    /// The noise ε.
    Epsilon,
    /// v = √ᾱ ε − √(1−ᾱ) x₀.
    VPrediction,
}

impl PredictionType {
    /// The process of such a network over the levels of its training.
    pub fn over(self, levels: Vec<Level>) -> Box<dyn Process> {
        match self {
            PredictionType::Epsilon => Box::new(Epsilon(levels)),
            PredictionType::VPrediction => Box::new(V(levels)),
        }
    }
}

/// The level of a timestep, the last one held; of an empty table, clean latents.
fn at(levels: &[Level], timestep: usize) -> Level {
    let found = levels.get(timestep).or(levels.last());
    found.copied().unwrap_or(Level { time: 0.0, signal: 1.0, noise: 0.0 })
}

/// The network predicts the noise (Ho et al. 2020).
#[derive(Debug, Clone)]
struct Epsilon(Vec<Level>);

impl Process for Epsilon {
    fn levels(&self) -> usize {
        self.0.len()
    }

    fn level(&self, timestep: usize) -> Level {
        at(&self.0, timestep)
    }

    fn target(&self, _level: Level, _clean: &[f32], noise: &[f32], out: &mut Vec<f32>) {
        out.extend_from_slice(noise);
    }

    fn clean(&self, level: Level, x: f64, output: f64) -> f64 {
        (x - level.noise * output) / level.signal
    }

    fn linear(&self, level: Level) -> [f64; 2] {
        [1.0 / level.signal, -level.noise / level.signal]
    }

    /// min(SNR, γ) / SNR, also where there is no signal.
    fn min_snr(&self, level: Level, gamma: f64) -> f32 {
        (gamma / level.snr()).min(1.0) as f32
    }
}

/// The network predicts v (Salimans & Ho 2022).
#[derive(Debug, Clone)]
struct V(Vec<Level>);

impl Process for V {
    fn levels(&self) -> usize {
        self.0.len()
    }

    fn level(&self, timestep: usize) -> Level {
        at(&self.0, timestep)
    }

    fn target(&self, level: Level, clean: &[f32], noise: &[f32], out: &mut Vec<f32>) {
        let (a, s) = (level.signal as f32, level.noise as f32);
        out.extend(clean.iter().zip(noise).map(|(x, e)| a * e - s * x));
    }

    fn clean(&self, level: Level, x: f64, output: f64) -> f64 {
        level.signal * x - level.noise * output
    }

    fn linear(&self, level: Level) -> [f64; 2] {
        [level.signal, -level.noise]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
