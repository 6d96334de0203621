//! What is known of diffusers' scheduler classes that no sampler here has.

/// What a scheduler class is to the samplers that are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Another solver of the same equation: any sampler goes the same way.
    Solver,
    /// Of distilled models, drawn in few steps with little or no guidance.
    FewSteps,
    /// Of another kind of model or of another task: nothing here can draw with its file.
    Foreign,
    /// Not in this list: a sampler's own class, or not known.
    Unknown,
}

use Class::{FewSteps, Foreign, Solver};

/// Classes by name, as of diffusers 0.42; the first row whose name begins the class's wins.
const CLASSES: &[(&str, Class)] = &[
    ("DDIMInverse", Foreign),
    ("DDIMParallel", Solver),
    ("DPMSolverMultistepInverse", Foreign),
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

impl Class {
    /// By the name of the class.
    pub fn of(name: &str) -> Self {
        let row = CLASSES.iter().find(|(start, _)| name.starts_with(start));
        row.map_or(Class::Unknown, |row| row.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_told_apart() {
        for (name, class) in [
            ("DDIMInverseScheduler", Foreign),
            ("DPMSolverSDEScheduler", Solver),
            ("EDMEulerScheduler", Foreign),
            ("KDPM2AncestralDiscreteScheduler", Solver),
            ("LCMScheduler", FewSteps),
            ("TCDScheduler", FewSteps),
            ("MyScheduler", Class::Unknown),
        ] {
            assert_eq!(Class::of(name), class, "{name}");
        }
    }
}
