//! What is known of diffusers' scheduler classes: whose settings a sampler shares, and what a model with
//! such a scheduler was made for. The one table of it.

use super::{NoiseSchedule, PredictionType, SamplerKind, TimestepSpacing};

/// What a scheduler class is to the samplers that are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A sampler that is offered.
    Offered(SamplerKind),
    /// Another solver of the same equation: any sampler goes the same way.
    Solver,
    /// Of distilled models, drawn in few steps with little or no guidance.
    FewSteps,
    /// Of another kind of model or of another task: nothing here can draw with its file.
    Foreign,
    /// Not known.
    Unknown,
}

use Class::{FewSteps, Foreign, Offered, Solver};

/// Classes by name, as of diffusers 0.42; the first row whose name begins the class's wins.
const CLASSES: &[(&str, Class)] = &[
    ("DDIMInverse", Foreign),
    ("DDIMParallel", Solver),
    ("DDIM", Offered(SamplerKind::Ddim)),
    ("EulerAncestralDiscrete", Offered(SamplerKind::EulerAncestral)),
    ("EulerDiscrete", Offered(SamplerKind::Euler)),
    ("DPMSolverMultistepInverse", Foreign),
    ("DPMSolverMultistep", Offered(SamplerKind::DpmSolverPp2M)),
    ("DPMSolverSinglestep", Solver),
    ("DPMSolverSDE", Solver),
    ("DDPMWuerstchen", Foreign),
    ("DDPM", Solver),
    ("PNDM", Solver),
    ("LMSDiscrete", Solver),
    ("HeunDiscrete", Solver),
    ("KDPM2", Solver),
    ("DEISMultistep", Solver),
    ("UniPCMultistep", Solver),
    ("SASolver", Solver),
    ("LCM", FewSteps),
    ("TCD", FewSteps),
    ("FlowMatch", Foreign),
    ("EDM", Foreign),
    ("CosineDPM", Foreign),
    ("CogVideoX", Foreign),
    ("CMStochasticIterative", Foreign),
    ("IPNDM", Foreign),
    ("KarrasVe", Foreign),
    ("ScoreSde", Foreign),
    ("UnCLIP", Foreign),
    ("VQDiffusion", Foreign),
    ("Amused", Foreign),
    ("RePaint", Foreign),
    ("SCM", Foreign),
    ("LTX", Foreign),
];

pub(super) fn of(name: &str) -> Class {
    CLASSES.iter().find(|(start, _)| name.starts_with(start)).map_or(Class::Unknown, |row| row.1)
}

/// What a model's scheduler file says of how it wants to be drawn.
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

impl NoiseSchedule {
    /// What the model's scheduler file was made for.
    ///
    /// Turbo models come with Euler's samplers, of which only they place timesteps from the last one on
    /// (`trailing`) while they predict ε.
    pub fn made_for(&self) -> MadeFor {
        if self.distilled.is_some() {
            return MadeFor::FewSteps(None);
        }
        let Some(class) = self.class_name.as_deref().map(of) else { return MadeFor::Any };
        let turbo = self.timestep_spacing == Some(TimestepSpacing::Trailing)
            && self.prediction_type == PredictionType::Epsilon;
        match class {
            Offered(kind @ (SamplerKind::Euler | SamplerKind::EulerAncestral)) if turbo => {
                MadeFor::FewSteps(Some(kind))
            }
            Offered(_) => MadeFor::Any,
            Solver => MadeFor::Solver,
            // Foreign ones are refused where the file is read.
            FewSteps | Foreign | Class::Unknown => MadeFor::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_told_apart() {
        for (name, class) in [
            ("DDIMScheduler", Offered(SamplerKind::Ddim)),
            ("DDIMInverseScheduler", Foreign),
            ("EulerDiscreteScheduler", Offered(SamplerKind::Euler)),
            ("EulerAncestralDiscreteScheduler", Offered(SamplerKind::EulerAncestral)),
            ("DPMSolverMultistepScheduler", Offered(SamplerKind::DpmSolverPp2M)),
            ("DPMSolverSDEScheduler", Solver),
            ("EDMEulerScheduler", Foreign),
            ("KDPM2AncestralDiscreteScheduler", Solver),
            ("LCMScheduler", FewSteps),
            ("TCDScheduler", FewSteps),
            ("MyScheduler", Class::Unknown),
        ] {
            assert_eq!(of(name), class, "{name}");
        }
    }
}
