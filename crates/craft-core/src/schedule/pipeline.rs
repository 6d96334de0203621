//! A scheduler's file as diffusers' pipelines leave it.
//!
//! `StableDiffusionPipeline` corrects its own scheduler's config when it is built: `steps_offset` other
//! than 1 becomes 1, `clip_sample` true becomes false. `StableDiffusionXLPipeline` corrects nothing.
//! `from_config` to another class passes on only keys that the file has, so that a corrected default
//! reaches the scheduler's own class alone. Source: diffusers
//! `pipelines/stable_diffusion/pipeline_stable_diffusion.py`, `configuration_utils.py`.

use serde_json::{Map, Value};

use super::{Class, NoiseSchedule, Rules, ScheduleError};

/// The pipeline that a scheduler belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipeline {
    /// `StableDiffusionPipeline`.
    StableDiffusion,
    /// `StableDiffusionXLPipeline`.
    StableDiffusionXl,
}

/// What a file comes to.
pub(super) struct Settings {
    /// The keys that samplers of other classes are given.
    pub(super) keys: Map<String, Value>,
    /// The class that the pipeline builds.
    pub(super) class: Option<String>,
    /// The class of few steps that the file or the index names.
    pub(super) distilled: Option<String>,
    /// That class, if the pipeline corrects what its file lacks.
    pub(super) corrected: Option<String>,
}

impl Settings {
    /// Reads the text of a `scheduler_config.json`. `class`: the one that `model_index.json` names,
    /// which wins over the file's own `_class_name`.
    ///
    /// # Errors
    /// When it is not a JSON object, or of a class that no sampler here can stand in for.
    pub(super) fn read(
        text: &str,
        pipeline: Pipeline,
        class: Option<&str>,
    ) -> Result<Self, ScheduleError> {
        let mut keys: Map<String, Value> = serde_json::from_str(&without_infinities(text))
            .map_err(|e| ScheduleError::Json(e.to_string()))?;
        // Defaults that were written down beside what was chosen; `from_config` leaves them out.
        if let Some(Value::Array(defaults)) = keys.remove("_use_default_values") {
            keys.retain(|key, _| !defaults.iter().any(|name| name == key.as_str()));
        }
        let named = keys.get("_class_name").and_then(Value::as_str).map(str::to_owned);
        let mut distilled = None;
        for name in class.into_iter().chain(named.as_deref()) {
            if Class::of(name) == Class::FewSteps {
                distilled = distilled.or(Some(name.to_owned()));
            }
            if Class::of(name) == Class::Foreign {
                return Err(ScheduleError::Value {
                    key: "_class_name",
                    value: format!("`{name}`"),
                    expected: "a scheduler of a model with betas, such as `DDIMScheduler` or `EulerDiscreteScheduler`".to_owned(),
                });
            }
        }
        let class = class.map(str::to_owned).or(named);
        let mut corrected = None;
        if pipeline == Pipeline::StableDiffusion {
            if let Some(offset) = keys.get_mut("steps_offset").filter(|v| v.as_f64() != Some(1.0)) {
                *offset = Value::from(1);
            }
            if let Some(clip) = keys.get_mut("clip_sample").filter(|v| **v == Value::Bool(true)) {
                *clip = Value::Bool(false);
            }
            corrected.clone_from(&class);
        }
        let starts = |start: &str| class.as_deref().is_some_and(|class| class.starts_with(start));
        if starts("UniPC") || starts("DEIS") {
            // These classes replace words of DPM-Solver by their own, which it then takes for its default.
            keys.remove("solver_type");
        }
        if starts("DEIS") {
            keys.remove("algorithm_type");
        }
        Ok(Self { keys, class, distilled, corrected })
    }
}

impl NoiseSchedule {
    /// Added by a sampler to timesteps of leading spacing.
    pub(super) fn offset(&self, rules: &Rules) -> usize {
        self.steps_offset.unwrap_or(usize::from(self.corrects(rules)))
    }

    /// To which range a sampler that reads `clip_sample` (DDIM) clips the predicted x₀, if it does.
    pub fn clip(&self, rules: &Rules) -> Option<f64> {
        self.clip_sample.unwrap_or(!self.corrects(rules)).then_some(self.clip_sample_range)
    }

    /// Whether the pipeline corrects what the file lacks for a sampler.
    fn corrects(&self, rules: &Rules) -> bool {
        self.corrected.as_deref().is_some_and(|class| rules.are_of(class))
    }
}

/// Python writes `-Infinity` (the usual `lambda_min_clipped`), which JSON does not have: taken as null,
/// that is, as the default.
fn without_infinities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, part) in text.split('"').enumerate() {
        if i > 0 {
            out.push('"');
        }
        // Keys and words of these files hold no escaped quotes; even parts are outside of strings.
        if i % 2 == 0 {
            out.push_str(&part.replace("-Infinity", "null").replace("Infinity", "null"));
        } else {
            out.push_str(part);
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sampler::{ddim, euler};

    fn read(text: &str, pipeline: Pipeline, class: Option<&str>) -> NoiseSchedule {
        NoiseSchedule::of_pipeline(&format!("{{{text}}}"), pipeline, class).unwrap()
    }

    const DDIM: &str = r#""_class_name":"DDIMScheduler""#;

    #[test]
    fn stable_diffusion_corrects_keys_of_the_file_and_its_own_class() {
        use Pipeline::{StableDiffusion as Sd, StableDiffusionXl as Xl};
        let (ddim, euler) = (&ddim::KIND.rules, &euler::KIND.rules);
        for offset in ["0", "2", "null"] {
            let text = format!(r#""steps_offset":{offset},"clip_sample":true"#);
            let s = read(&text, Sd, None);
            assert_eq!((s.offset(ddim), s.offset(euler), s.clip(ddim)), (1, 1, None));
        }
        // What the file lacks keeps each class's default, but for the pipeline's own scheduler.
        let s = read(DDIM, Sd, None);
        assert_eq!((s.offset(ddim), s.offset(euler), s.clip(ddim)), (1, 0, None));
        let s = read(DDIM, Sd, Some("EulerDiscreteScheduler"));
        assert_eq!((s.offset(ddim), s.offset(euler), s.clip(ddim)), (0, 1, Some(1.0)));
        let s = read("", Sd, Some("PNDMScheduler"));
        assert_eq!((s.offset(ddim), s.offset(euler), s.clip(ddim)), (0, 0, Some(1.0)));
        // SDXL's pipeline follows the file.
        let s = read(&format!(r#"{DDIM},"steps_offset":0,"clip_sample":true"#), Xl, None);
        assert_eq!((s.offset(ddim), s.clip(ddim)), (0, Some(1.0)));
        assert_eq!(read(DDIM, Xl, None).clip(ddim), Some(1.0));
    }

    #[test]
    fn null_switches_are_off_and_written_defaults_are_left_out() {
        let xl = Pipeline::StableDiffusionXl;
        let ddim = &ddim::KIND.rules;
        let s = read(r#""clip_sample":null,"set_alpha_to_one":null"#, xl, None);
        assert_eq!((s.clip(ddim), s.set_alpha_to_one), (None, false));
        let text = r#""steps_offset":1,"clip_sample":false,"_use_default_values":["clip_sample"]"#;
        let s = read(text, xl, None);
        assert_eq!((s.offset(ddim), s.clip(ddim)), (1, Some(1.0)));
    }

    #[test]
    fn solvers_words_are_their_own() {
        use super::super::SolverType;
        let solver = |class| {
            let text = r#""solver_type":"heun""#;
            read(text, Pipeline::StableDiffusionXl, Some(class)).sampling.solver_type
        };
        assert_eq!(solver("DPMSolverSinglestepScheduler"), SolverType::Heun);
        assert_eq!(solver("UniPCMultistepScheduler"), SolverType::Midpoint);
        assert_eq!(solver("DEISMultistepScheduler"), SolverType::Midpoint);
    }
}
