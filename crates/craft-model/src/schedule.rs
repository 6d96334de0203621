//! The noise schedule of a model folder, and words on a model that wants another sampler.

use std::path::Path;

use craft_core::sampler::{FEW_STEPS, LITTLE_GUIDANCE, MadeFor, SamplerKind, made_for};
use craft_core::schedule::{NoiseSchedule, Pipeline};

use crate::architecture::{self, Architecture};
use crate::error::{ModelError, Result};
use crate::model::read_text;

/// Reads the schedule as the model's pipeline in diffusers has it after it was built.
pub(crate) fn load(dir: &Path, architecture: Architecture) -> Result<NoiseSchedule> {
    let path = dir.join("scheduler/scheduler_config.json");
    let pipeline = match architecture {
        Architecture::StableDiffusion => Pipeline::StableDiffusion,
        Architecture::StableDiffusionXl { .. } => Pipeline::StableDiffusionXl,
    };
    let class = architecture::scheduler_class(dir)?;
    NoiseSchedule::of_pipeline(&read_text(&path)?, pipeline, class.as_deref())
        .map_err(|source| ModelError::Schedule { path, source })
}

/// How pictures are about to be drawn.
#[derive(Clone, Copy, Debug)]
pub struct Intended {
    /// The sampler.
    pub scheduler: SamplerKind,
    /// Its steps.
    pub steps: usize,
    /// Scale of classifier-free guidance.
    pub guidance_scale: f64,
    /// Whether the user chose the sampler, its steps and the guidance scale; `false` where it is not
    /// known.
    pub chosen: [bool; 3],
}

/// What the user should know where a model was made for another way of drawing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The pictures will not be what the model can do.
    Warning(String),
    /// Nothing is lost.
    Note(String),
}

/// Compares what a model was made for with what is about to be done. `flags`: what the sampler, the
/// number of steps and the guidance scale are set by.
pub fn advice(schedule: &NoiseSchedule, now: Intended, flags: [&str; 3]) -> Option<Advice> {
    let class = schedule.distilled.as_ref().or(schedule.class_name.as_ref());
    let class = class.map_or("", String::as_str);
    let used = now.scheduler.name;
    let [sampler, steps, guidance] = flags;
    let few = format!(
        "few steps (1 to {FEW_STEPS}) with little or no guidance (a scale of at most {LITTLE_GUIDANCE})"
    );
    let fits = now.steps <= FEW_STEPS && now.guidance_scale <= LITTLE_GUIDANCE;
    let doing =
        format!("{used} with {} steps and a guidance scale of {}", now.steps, now.guidance_scale);
    match made_for(schedule) {
        MadeFor::Any => None,
        MadeFor::Solver if now.chosen[0] => None,
        MadeFor::Solver => Some(Advice::Note(format!(
            "the model's own sampler, {class}, is not offered; {used} is used, which solves the same equation"
        ))),
        MadeFor::Unknown if now.chosen[0] => None,
        MadeFor::Unknown => Some(Advice::Warning(format!(
            "the model was made for the sampler {class}, which is not known here; {used} is used, and pictures may differ from what the model can do: compare with {sampler} ({})",
            SamplerKind::NAMES.join(", ")
        ))),
        MadeFor::FewSteps(None) if now.chosen[0] => None,
        MadeFor::FewSteps(None) => Some(Advice::Warning(format!(
            "the model was made for the sampler {class}: {few}; that sampler is not offered, {doing} is used instead, and pictures will be worse than the model's own: use the model that it was distilled from, or try {steps} 4 to {FEW_STEPS} and {guidance} 1"
        ))),
        MadeFor::FewSteps(Some(_)) if now.chosen == [true; 3] => None,
        MadeFor::FewSteps(Some(kind)) if fits && now.scheduler == kind => None,
        MadeFor::FewSteps(Some(kind)) => {
            let own = kind.name;
            Some(Advice::Warning(format!(
                "the model was made for the sampler {class} with {few}, as turbo models are; {doing} is used: give {sampler} {own}, {steps} 1 to 4 and {guidance} 1"
            )))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use craft_core::sampler::{ddim, euler_ancestral};

    fn advised(scheduler: &str, now: Intended) -> Option<Advice> {
        let schedule = NoiseSchedule::from_json(&format!("{{{scheduler}}}")).unwrap();
        advice(&schedule, now, ["--scheduler", "--steps", "--guidance-scale"])
    }

    fn drawing(scheduler: SamplerKind, steps: usize, guidance_scale: f64) -> Intended {
        Intended { scheduler, steps, guidance_scale, chosen: [false; 3] }
    }

    #[test]
    fn distilled_models_say_what_they_were_made_for() {
        let usual = drawing(ddim::KIND, 25, 7.5);
        for class in ["LCMScheduler", "TCDScheduler", "MyScheduler"] {
            let file = format!(r#""_class_name":"{class}""#);
            let Some(Advice::Warning(text)) = advised(&file, usual) else { panic!("{class}") };
            assert!(
                text.contains(class) && text.contains("ddim is used")
                    || text.contains("ddim with 25 steps"),
                "{text}"
            );
            let chosen = Intended { chosen: [true, false, false], ..usual };
            assert_eq!(advised(&file, chosen), None);
        }
        let turbo =
            r#""_class_name":"EulerAncestralDiscreteScheduler","timestep_spacing":"trailing""#;
        let Some(Advice::Warning(text)) = advised(turbo, usual) else { panic!("{turbo}") };
        assert!(text.contains("--scheduler euler-a") && text.contains("turbo"), "{text}");
        assert_eq!(advised(turbo, drawing(euler_ancestral::KIND, 4, 1.0)), None);
        assert!(advised(turbo, drawing(euler_ancestral::KIND, 25, 7.5)).is_some());
        let v =
            format!(r#"{turbo},"prediction_type":"v_prediction","rescale_betas_zero_snr":true"#);
        assert_eq!(advised(&v, usual), None);
    }

    #[test]
    fn solvers_of_the_same_equation_are_replaced_without_a_warning() {
        let usual = drawing(ddim::KIND, 25, 7.5);
        let pndm = advised(r#""_class_name":"PNDMScheduler""#, usual);
        assert!(matches!(pndm, Some(Advice::Note(text)) if text.contains("PNDMScheduler")));
        for class in ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"] {
            assert_eq!(advised(&format!(r#""_class_name":"{class}""#), usual), None);
        }
    }
}
