//! What a model's scheduler file says of how it wants to be drawn.

use super::{SAMPLERS, SamplerKind};
use crate::process::PredictionType;
use crate::schedule::{Class, NoiseSchedule, TimestepSpacing};

/// What a model's scheduler file was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MadeFor {
    /// A sampler that is offered, or none in particular.
    Any,
    /// Another solver of the same equation, which the offered samplers replace.
    Solver,
    /// A sampler of few steps with little or no guidance, as for distilled models. The sampler that is
    /// offered for it, if there is one.
    FewSteps(Option<SamplerKind>),
    /// A scheduler class that is not known.
    Unknown,
}

/// Most steps that a distilled model is made for.
pub const FEW_STEPS: usize = 8;
/// Largest guidance scale that a distilled model is made for.
pub const LITTLE_GUIDANCE: f64 = 2.0;

/// What the model's scheduler file was made for.
///
/// Turbo models come with Euler's samplers, of which only they place timesteps from the last one on
/// (`trailing`) while they predict ε.
pub fn made_for(schedule: &NoiseSchedule) -> MadeFor {
    if schedule.distilled.is_some() {
        return MadeFor::FewSteps(None);
    }
    let Some(class) = schedule.class_name.as_deref() else { return MadeFor::Any };
    let offered = SAMPLERS.iter().find(|kind| kind.rules.are_of(class));
    let turbo = schedule.timestep_spacing == Some(TimestepSpacing::Trailing)
        && schedule.prediction_type == PredictionType::Epsilon;
    match (offered, Class::of(class)) {
        (Some(kind), _) if kind.turbo && turbo => MadeFor::FewSteps(Some(*kind)),
        (Some(_), _) => MadeFor::Any,
        (None, Class::Solver) => MadeFor::Solver,
        // Foreign ones are refused where the file is read.
        (None, Class::FewSteps | Class::Foreign | Class::Unknown) => MadeFor::Unknown,
    }
}
