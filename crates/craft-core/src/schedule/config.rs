//! `scheduler_config.json`: every key that the offered samplers read is followed or refused by name.

use serde::Deserialize;
use serde_json::Value;

use super::pipeline::{Pipeline, Settings};
use super::{
    BetaSchedule, NoiseSchedule, PredictionType, Rules, ScheduleError, TimestepSpacing, betas_of,
    cumprod, rescale_zero_terminal_snr,
};

/// How σ falls between the first and the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SigmaSpacing {
    /// As the timesteps say.
    #[default]
    Timesteps,
    /// Karras et al. 2022, equation 5, with ρ = 7 (`use_karras_sigmas`).
    Karras,
    /// Equal steps of log σ (`use_exponential_sigmas`).
    Exponential,
}

/// σ behind the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FinalSigma {
    /// 0: the clean image.
    #[default]
    Zero,
    /// The smallest of the schedule.
    SigmaMin,
}

/// Second-order step of DPM-Solver++.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SolverType {
    /// `midpoint`.
    #[default]
    Midpoint,
    /// `heun`.
    Heun,
}

/// A setting that some samplers would need and that none here has.
#[derive(Debug, Clone, PartialEq)]
struct Refused {
    key: &'static str,
    value: String,
    expected: &'static str,
}

/// What samplers read beside the schedule itself. A key is read by the samplers whose diffusers class
/// has it, and by no other.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// How σ falls; Euler and (not exponential) DPM++ 2M.
    pub sigma_spacing: SigmaSpacing,
    /// σ behind the last step; Euler and DPM++ 2M.
    pub final_sigma: FinalSigma,
    /// Smallest σ of Karras and exponential spacing, if not the schedule's.
    pub sigma_min: Option<f64>,
    /// Largest σ of Karras and exponential spacing, if not the schedule's.
    pub sigma_max: Option<f64>,
    /// Whether the network is told ln σ / 4 in place of the timestep; Euler with v-prediction.
    pub continuous_timesteps: bool,
    /// 1 or 2; DPM++ 2M.
    pub solver_order: usize,
    /// DPM++ 2M.
    pub solver_type: SolverType,
    /// Whether the last of fewer than 15 steps is of first order; DPM++ 2M.
    pub lower_order_final: bool,
    /// Whether the last step is of first order; DPM++ 2M.
    pub euler_at_final: bool,
    /// Timesteps whose log(α/σ) is below are left out; DPM++ 2M.
    pub lambda_min_clipped: f64,
    refused: Vec<Refused>,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            sigma_spacing: SigmaSpacing::default(),
            final_sigma: FinalSigma::default(),
            sigma_min: None,
            sigma_max: None,
            continuous_timesteps: false,
            solver_order: 2,
            solver_type: SolverType::default(),
            lower_order_final: true,
            euler_at_final: false,
            lambda_min_clipped: f64::NEG_INFINITY,
            refused: Vec::new(),
        }
    }
}

impl SamplingOptions {
    /// Whether a sampler can do all that the file asks of it.
    ///
    /// # Errors
    /// Names the first setting that it cannot follow.
    pub fn check(&self, rules: &Rules) -> Result<(), ScheduleError> {
        match self.refused.iter().find(|r| rules.refuses.contains(&r.key)) {
            Some(r) => value_error(r.key, &r.value, r.expected),
            None => Ok(()),
        }
    }
}

/// The keys that matter; others belong to schedulers that are not offered.
#[derive(Deserialize)]
struct Raw {
    #[serde(default = "default_timesteps")]
    num_train_timesteps: usize,
    #[serde(default = "default_beta_start")]
    beta_start: f64,
    #[serde(default = "default_beta_end")]
    beta_end: f64,
    beta_schedule: Option<Value>,
    trained_betas: Option<Vec<f64>>,
    prediction_type: Option<Value>,
    timestep_spacing: Option<Value>,
    #[serde(default, deserialize_with = "flag")]
    set_alpha_to_one: Option<bool>,
    steps_offset: Option<usize>,
    #[serde(default, deserialize_with = "flag")]
    clip_sample: Option<bool>,
    clip_sample_range: Option<f64>,
    #[serde(default, deserialize_with = "flag")]
    rescale_betas_zero_snr: Option<bool>,
    #[serde(default, deserialize_with = "flag")]
    use_karras_sigmas: Option<bool>,
    final_sigmas_type: Option<Value>,
    sigma_min: Option<f64>,
    sigma_max: Option<f64>,
    timestep_type: Option<Value>,
    solver_order: Option<usize>,
    solver_type: Option<Value>,
    #[serde(default, deserialize_with = "flag")]
    lower_order_final: Option<bool>,
    #[serde(default, deserialize_with = "flag")]
    euler_at_final: Option<bool>,
    lambda_min_clipped: Option<f64>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

/// A switch that is there: null is off, as in Python.
fn flag<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<bool>, D::Error> {
    Option::<bool>::deserialize(value).map(|found| Some(found.unwrap_or(false)))
}

fn default_timesteps() -> usize {
    1000
}
fn default_beta_start() -> f64 {
    1e-4
}
fn default_beta_end() -> f64 {
    0.02
}

impl Rules {
    /// Keys with a value that changes the picture and that is not offered: the key, the values that change nothing,
    /// and what is expected. They concern the samplers that have the key in [`Self::refuses`].
    pub const REFUSED: &'static [(&'static str, &'static [&'static str], &'static str)] = &[
        ("thresholding", &["false"], "false"),
        ("use_beta_sigmas", &["false"], "false"),
        ("use_exponential_sigmas", &["false"], "false"),
        ("use_lu_lambdas", &["false"], "false"),
        ("use_flow_sigmas", &["false"], "false"),
        ("use_dynamic_shifting", &["false"], "false"),
        ("interpolation_type", &["\"linear\""], "`linear`"),
        (
            "algorithm_type",
            &["\"dpmsolver++\"", "\"deis\""],
            "`dpmsolver++` (choose another sampler)",
        ),
        ("variance_type", &[], "none: a network that predicts variances is not supported"),
        ("solver_order", &["1", "2"], "1 or 2"),
    ];
}

impl NoiseSchedule {
    /// [`Self::of_pipeline`] without corrections.
    ///
    /// # Errors
    /// The same.
    pub fn from_json(text: &str) -> Result<Self, ScheduleError> {
        Self::of_pipeline(text, Pipeline::StableDiffusionXl, None)
    }

    /// Parses the text of a `scheduler_config.json` as a pipeline reads it; `class`: the scheduler's
    /// class in `model_index.json`. Missing keys take diffusers' defaults. Settings that only concern
    /// a sampler are judged when that sampler is asked for ([`SamplingOptions::check`]).
    ///
    /// # Errors
    /// Names the key whose value cannot be used.
    pub fn of_pipeline(
        text: &str,
        pipeline: Pipeline,
        class: Option<&str>,
    ) -> Result<Self, ScheduleError> {
        let Settings { keys, class, distilled, corrected } = Settings::read(text, pipeline, class)?;
        let raw: Raw = serde_json::from_value(Value::Object(keys))
            .map_err(|e| ScheduleError::Json(e.to_string()))?;
        let beta_schedule = one_of(
            "beta_schedule",
            raw.beta_schedule.as_ref(),
            BetaSchedule::Linear,
            &[
                ("linear", BetaSchedule::Linear),
                ("scaled_linear", BetaSchedule::ScaledLinear),
                ("squaredcos_cap_v2", BetaSchedule::SquaredcosCapV2),
            ],
        )?;
        let prediction_type = one_of(
            "prediction_type",
            raw.prediction_type.as_ref(),
            PredictionType::Epsilon,
            &[("epsilon", PredictionType::Epsilon), ("v_prediction", PredictionType::VPrediction)],
        )?;
        let timestep_spacing = one_of(
            "timestep_spacing",
            raw.timestep_spacing.as_ref(),
            None,
            &[
                ("leading", Some(TimestepSpacing::Leading)),
                ("trailing", Some(TimestepSpacing::Trailing)),
                ("linspace", Some(TimestepSpacing::Linspace)),
            ],
        )?;
        if !(1..=1_000_000).contains(&raw.num_train_timesteps) {
            return value_error("num_train_timesteps", raw.num_train_timesteps, "1 to 1000000");
        }
        if let Some(offset) = raw.steps_offset.filter(|n| *n >= raw.num_train_timesteps) {
            return value_error("steps_offset", offset, "less than num_train_timesteps");
        }
        let clip_sample_range = raw.clip_sample_range.unwrap_or(1.0);
        if !(clip_sample_range > 0.0 && clip_sample_range.is_finite()) {
            return value_error("clip_sample_range", clip_sample_range, "a finite number above 0");
        }
        let mut betas = raw.betas(beta_schedule)?;
        let zero_snr = raw.rescale_betas_zero_snr.unwrap_or(false);
        if zero_snr {
            betas = rescale_zero_terminal_snr(&betas);
        }
        Ok(Self {
            alphas_cumprod: cumprod(&betas),
            betas,
            beta_schedule,
            prediction_type,
            set_alpha_to_one: raw.set_alpha_to_one.unwrap_or(true),
            steps_offset: raw.steps_offset,
            timestep_spacing,
            clip_sample: raw.clip_sample,
            clip_sample_range,
            rescale_betas_zero_snr: zero_snr,
            sampling: raw.sampling(prediction_type)?,
            class_name: class,
            distilled,
            corrected,
        })
    }
}

impl Raw {
    fn betas(&self, schedule: BetaSchedule) -> Result<Vec<f64>, ScheduleError> {
        let Some(betas) = &self.trained_betas else {
            for (key, beta) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
                if !(beta > 0.0 && beta < 1.0) {
                    return value_error(key, beta, "a number between 0 and 1");
                }
            }
            return Ok(betas_of(
                schedule,
                self.beta_start,
                self.beta_end,
                self.num_train_timesteps,
            ));
        };
        if betas.len() != self.num_train_timesteps {
            let found = format!("of length {}", betas.len());
            let expected =
                format!("{} numbers, as num_train_timesteps says", self.num_train_timesteps);
            return value_error("trained_betas", found, &expected);
        }
        match betas.iter().find(|b| !(**b > 0.0 && **b < 1.0)) {
            Some(beta) => value_error("trained_betas", beta, "numbers between 0 and 1"),
            None => Ok(betas.clone()),
        }
    }

    fn sampling(&self, prediction: PredictionType) -> Result<SamplingOptions, ScheduleError> {
        let exponential = self.rest.get("use_exponential_sigmas") == Some(&Value::Bool(true));
        let sigma_spacing = match (self.use_karras_sigmas.unwrap_or(false), exponential) {
            (false, false) => SigmaSpacing::Timesteps,
            (true, false) => SigmaSpacing::Karras,
            (false, true) => SigmaSpacing::Exponential,
            (true, true) => {
                let expected = "false beside `use_karras_sigmas`: only one of the two";
                return value_error("use_exponential_sigmas", true, expected);
            }
        };
        for (key, sigma) in [("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)] {
            if let Some(sigma) = sigma.filter(|s| !(*s > 0.0 && s.is_finite())) {
                return value_error(key, sigma, "a finite number above 0");
            }
        }
        let continuous = one_of(
            "timestep_type",
            self.timestep_type.as_ref(),
            false,
            &[("discrete", false), ("continuous", true)],
        )?;
        let mut refused = Vec::new();
        let order = self.solver_order.map(Value::from);
        for &(key, harmless, expected) in Rules::REFUSED {
            let value = self.rest.get(key).or(order.as_ref().filter(|_| key == "solver_order"));
            let value = value.filter(|value| !value.is_null()).map(Value::to_string);
            if let Some(value) = value.filter(|v| !harmless.contains(&&**v)) {
                refused.push(Refused { key, value, expected });
            }
        }
        Ok(SamplingOptions {
            sigma_spacing,
            final_sigma: one_of(
                "final_sigmas_type",
                self.final_sigmas_type.as_ref(),
                FinalSigma::Zero,
                &[("zero", FinalSigma::Zero), ("sigma_min", FinalSigma::SigmaMin)],
            )?,
            sigma_min: self.sigma_min,
            sigma_max: self.sigma_max,
            continuous_timesteps: continuous && prediction == PredictionType::VPrediction,
            solver_order: self.solver_order.unwrap_or(2),
            solver_type: one_of(
                "solver_type",
                self.solver_type.as_ref(),
                SolverType::Midpoint,
                &[
                    ("midpoint", SolverType::Midpoint),
                    ("heun", SolverType::Heun),
                    // Of UniPC and DEIS; diffusers' DPM-Solver++ takes them for midpoint.
                    ("bh1", SolverType::Midpoint),
                    ("bh2", SolverType::Midpoint),
                    ("logrho", SolverType::Midpoint),
                ],
            )?,
            lower_order_final: self.lower_order_final.unwrap_or(true),
            euler_at_final: self.euler_at_final.unwrap_or(false),
            lambda_min_clipped: self.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY),
            refused,
        })
    }
}

fn value_error<T>(
    key: &'static str,
    value: impl std::fmt::Display,
    expected: &str,
) -> Result<T, ScheduleError> {
    Err(ScheduleError::Value { key, value: format!("`{value}`"), expected: expected.to_owned() })
}

/// A word of a list, or the default where it is missing or null.
fn one_of<T: Copy>(
    key: &'static str,
    value: Option<&Value>,
    default: T,
    known: &[(&str, T)],
) -> Result<T, ScheduleError> {
    let value = match value {
        None | Some(Value::Null) => return Ok(default),
        Some(value) => value,
    };
    if let Some((_, found)) = known.iter().find(|(word, _)| value.as_str() == Some(word)) {
        return Ok(*found);
    }
    let words: Vec<String> = known.iter().map(|(word, _)| format!("`{word}`")).collect();
    Err(ScheduleError::Value {
        key,
        value: format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        expected: words.join(" or "),
    })
}
