//! What every sampler shares: the uniform interface and the conversion of predictions.
//!
//! Samplers work on the latents of one image on the host: a step is a few thousand multiplications,
//! nothing beside the denoiser, and it makes an image's bytes independent of its batch.

use craft_core::recipe::SchedulerName;
use craft_core::schedule::{NoiseSchedule, PredictionType, SamplerKind, ScheduleError};

use crate::ddim::Ddim;
use crate::dpm::DpmPlusPlus2M;
use crate::euler::{Euler, EulerAncestral};

/// The samplers by the names of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// `ddim`
    Ddim,
    /// `euler`
    Euler,
    /// `euler-a`
    EulerAncestral,
    /// `dpm++2m`
    DpmPlusPlus2M,
}

impl Scheduler {
    /// All names, for messages.
    pub const NAMES: [&str; 4] = ["ddim", "euler", "euler-a", "dpm++2m"];

    /// By name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "ddim" => Some(Self::Ddim),
            "euler" => Some(Self::Euler),
            "euler-a" => Some(Self::EulerAncestral),
            "dpm++2m" => Some(Self::DpmPlusPlus2M),
            _ => None,
        }
    }

    /// The name on the command line and in recipes.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// By the family whose timesteps it uses.
    pub fn of_kind(kind: SamplerKind) -> Self {
        match kind {
            SamplerKind::Ddim => Self::Ddim,
            SamplerKind::Euler => Self::Euler,
            SamplerKind::EulerAncestral => Self::EulerAncestral,
            SamplerKind::DpmSolverPp2M => Self::DpmPlusPlus2M,
        }
    }

    /// The family whose timesteps it uses.
    pub fn kind(self) -> SamplerKind {
        match self {
            Self::Ddim => SamplerKind::Ddim,
            Self::Euler => SamplerKind::Euler,
            Self::EulerAncestral => SamplerKind::EulerAncestral,
            Self::DpmPlusPlus2M => SamplerKind::DpmSolverPp2M,
        }
    }

    /// A sampler for one image.
    ///
    /// # Errors
    /// When the schedule has no such number of steps, or asks for what this sampler cannot do.
    pub fn sampler(
        self,
        schedule: &NoiseSchedule,
        steps: usize,
    ) -> Result<Box<dyn Sampler>, ScheduleError> {
        Ok(match self {
            Self::Ddim => Box::new(Ddim::new(schedule, steps)?),
            Self::Euler => Box::new(Euler::new(schedule, steps)?),
            Self::EulerAncestral => Box::new(EulerAncestral::new(schedule, steps)?),
            Self::DpmPlusPlus2M => Box::new(DpmPlusPlus2M::new(schedule, steps)?),
        })
    }
}

impl From<SchedulerName> for Scheduler {
    fn from(name: SchedulerName) -> Self {
        match name {
            SchedulerName::Ddim => Self::Ddim,
            SchedulerName::Euler => Self::Euler,
            SchedulerName::EulerA => Self::EulerAncestral,
            SchedulerName::DpmPp2M => Self::DpmPlusPlus2M,
        }
    }
}

/// A sampler over a fixed list of timesteps. One instance serves one image.
pub trait Sampler: Send {
    /// Timesteps at which the denoiser is asked, in order.
    fn timesteps(&self) -> &[f64];

    /// Factor from unit normals to the first latents.
    fn init_scale(&self) -> f64 {
        1.0
    }

    /// Factor from the latents to the denoiser's input at step `i`.
    fn input_scale(&self, _i: usize) -> f64 {
        1.0
    }

    /// Whether every step adds noise.
    fn is_stochastic(&self) -> bool {
        false
    }

    /// Moves `latents` from step `i` to the next, given the denoiser's output there. `noise` holds unit
    /// normals of the same length for a stochastic sampler; others do not look at it.
    fn step(&mut self, i: usize, output: &[f32], latents: &mut [f32], noise: &[f32]);
}

/// Predicted clean latents and noise at cumulative `alpha`, from the denoiser's output.
pub(crate) fn split(kind: PredictionType, alpha: f64, x: f64, output: f64) -> (f64, f64) {
    let (a, s) = (alpha.sqrt(), (1.0 - alpha).sqrt());
    match kind {
        PredictionType::Epsilon => ((x - s * output) / a, output),
        PredictionType::VPrediction => (a * x - s * output, a * output + s * x),
    }
}

/// Classifier-free guidance: `uncond + scale · (cond − uncond)`.
pub fn guide(uncond: &[f32], cond: &[f32], scale: f32) -> Vec<f32> {
    uncond.iter().zip(cond).map(|(&u, &c)| u + scale * (c - u)).collect()
}
