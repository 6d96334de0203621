//! The samplers: what they share, and the table of them.
//!
//! A sampler sees clean predictions and levels; it never asks what the network predicts. It works on the latents of
//! one picture on the host: a step is a few thousand multiplications, nothing beside the denoiser, and it makes a
//! picture's bytes independent of its batch.
//!
//! A new sampler is a file with its [`Entry`] and a line in [`SAMPLERS`], beside its `mod`: the recipe, the command
//! line, its help, the pictures' texts and the reading of scheduler files follow.

pub mod ddim;
pub mod dpm;
pub mod euler;
pub mod euler_ancestral;
mod kind;
mod made_for;

pub use kind::{Entry, Made, SamplerKind};
pub use made_for::{FEW_STEPS, LITTLE_GUIDANCE, MadeFor, made_for};

use crate::process::{Level, Process};

/// Every sampler, in the order in which they are listed. The first is the default.
#[rustfmt::skip]
pub const SAMPLERS: &[SamplerKind] = &[
    ddim::KIND,
    euler::KIND,
    euler_ancestral::KIND,
    dpm::KIND,
];

/// A call of the denoiser: where its input lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Call {
    /// Factor from the latents to the denoiser's input.
    pub scale: f64,
    /// The level of that input.
    pub level: Level,
}

/// A sampler over a fixed list of calls of the denoiser. One instance serves one picture.
pub trait Sampler: Send {
    /// How often the denoiser is called.
    fn calls(&self) -> usize;

    /// What the denoiser is given at call `i`.
    fn call(&self, i: usize) -> Call;

    /// Factor from unit normals to the first latents.
    fn init_scale(&self) -> f64 {
        1.0
    }

    /// Moves `latents` behind call `i`, given the clean latents that the denoiser predicts there. `noise` holds unit
    /// normals of the same length for a sampler with noise at each step; others do not look at it.
    fn step(&mut self, i: usize, clean: &[f64], latents: &mut [f32], noise: &[f32]);
}

/// Moves `latents` behind call `i`, given the denoiser's output there.
pub fn advance(
    sampler: &mut dyn Sampler,
    process: &dyn Process,
    i: usize,
    output: &[f32],
    latents: &mut [f32],
    noise: &[f32],
) {
    let Call { scale, level } = sampler.call(i);
    let clean: Vec<f64> = latents
        .iter()
        .zip(output)
        .map(|(&x, &output)| process.clean(level, scale * f64::from(x), f64::from(output)))
        .collect();
    sampler.step(i, &clean, latents, noise);
}

/// Classifier-free guidance: `uncond + scale · (cond − uncond)`.
pub fn guide(uncond: &[f32], cond: &[f32], scale: f32) -> Vec<f32> {
    uncond.iter().zip(cond).map(|(&u, &c)| u + scale * (c - u)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
