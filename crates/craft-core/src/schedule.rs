//! Noise schedules as diffusers defines them, in f64.
//!
//! Read from `scheduler/scheduler_config.json` of a model folder. What a sampler does with the
//! schedule is not known here, except at which timesteps it calls the network.
//! Sources: diffusers `scheduling_ddim.py`, `scheduling_euler_discrete.py`,
//! `scheduling_dpmsolver_multistep.py`; zero terminal SNR: arXiv 2305.08891, algorithm 1.

use serde::Deserialize;
use serde_json::Value;

/// A scheduler configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// Not JSON, or a value of the wrong kind.
    #[error("scheduler configuration is not readable: {0}")]
    Json(String),
    /// A value that is not known.
    #[error("scheduler configuration: `{key}` is {value}: expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value as JSON.
        value: String,
        /// What is supported.
        expected: String,
    },
    /// A number of steps that cannot be taken.
    #[error(
        "{steps} inference steps: expected 1 to {most} ({num_train_timesteps} training timesteps)"
    )]
    Steps {
        /// What was asked for.
        steps: usize,
        /// The most there can be.
        most: usize,
        /// Timesteps of training.
        num_train_timesteps: usize,
    },
}

/// How the noise grows over the timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BetaSchedule {
    /// β from `beta_start` to `beta_end` in equal steps.
    Linear,
    /// √β in equal steps: Stable Diffusion.
    ScaledLinear,
    /// ᾱ follows a squared cosine, β at most 0.999.
    SquaredcosCapV2,
}

/// What the network predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredictionType {
    /// The noise ε.
    Epsilon,
    /// v = √ᾱ ε − √(1−ᾱ) x₀.
    VPrediction,
}

/// How the timesteps of sampling are placed among those of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestepSpacing {
    /// Equal whole strides from 0, plus `steps_offset`.
    Leading,
    /// Equal strides back from the last timestep.
    Trailing,
    /// Both ends included.
    Linspace,
}

/// A family of samplers, as far as timesteps depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SamplerKind {
    /// `DDIMScheduler`.
    Ddim,
    /// `EulerDiscreteScheduler` and `EulerAncestralDiscreteScheduler`.
    Euler,
    /// `DPMSolverMultistepScheduler` of order 2 with `dpmsolver++`.
    DpmSolverPp2M,
}

impl SamplerKind {
    /// The spacing that diffusers takes where the configuration has none.
    fn default_spacing(self) -> TimestepSpacing {
        match self {
            SamplerKind::Ddim => TimestepSpacing::Leading,
            SamplerKind::Euler | SamplerKind::DpmSolverPp2M => TimestepSpacing::Linspace,
        }
    }
}

/// The noise schedule of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    /// Noise added per timestep of training; f64.
    pub betas: Vec<f64>,
    /// ᾱ_t = Π (1 − β), t = 0 … T−1; f64.
    pub alphas_cumprod: Vec<f64>,
    /// How the noise grows.
    pub beta_schedule: BetaSchedule,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// Whether ᾱ before the first timestep is 1 instead of ᾱ_0 (DDIM's last step).
    pub set_alpha_to_one: bool,
    /// Added to timesteps of leading spacing.
    pub steps_offset: usize,
    /// Spacing; `None`: the sampler's own default.
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Whether DDIM clips the predicted x₀ to ± `clip_sample_range`; `None`: not given (diffusers'
    /// DDIM would clip).
    pub clip_sample: Option<bool>,
    /// Bound of the clipping.
    pub clip_sample_range: f64,
    /// Whether betas were rescaled to a terminal signal-to-noise ratio of zero.
    pub rescale_betas_zero_snr: bool,
    /// Class named by the file, such as `PNDMScheduler`.
    pub class_name: Option<String>,
}

/// The keys that matter; others belong to schedulers that are not offered and are ignored.
#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "_class_name")]
    class_name: Option<String>,
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
    set_alpha_to_one: Option<bool>,
    #[serde(default)]
    steps_offset: usize,
    clip_sample: Option<bool>,
    clip_sample_range: Option<f64>,
    #[serde(default)]
    rescale_betas_zero_snr: bool,
    #[serde(default)]
    thresholding: bool,
    use_karras_sigmas: Option<bool>,
    use_exponential_sigmas: Option<bool>,
    use_beta_sigmas: Option<bool>,
    use_lu_lambdas: Option<bool>,
    use_flow_sigmas: Option<bool>,
    interpolation_type: Option<Value>,
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

impl NoiseSchedule {
    /// Parses the text of a `scheduler_config.json`. Missing keys take diffusers' defaults.
    pub fn from_json(text: &str) -> Result<Self, ScheduleError> {
        let raw: Raw =
            serde_json::from_str(text).map_err(|e| ScheduleError::Json(e.to_string()))?;
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
        one_of("interpolation_type", raw.interpolation_type.as_ref(), (), &[("linear", ())])?;
        if let Some(class) = raw.class_name.as_deref().filter(|c| c.contains("FlowMatch")) {
            return value_error("_class_name", class, "a scheduler of a model with betas");
        }
        for (key, on) in [
            ("thresholding", Some(raw.thresholding)),
            ("use_karras_sigmas", raw.use_karras_sigmas),
            ("use_exponential_sigmas", raw.use_exponential_sigmas),
            ("use_beta_sigmas", raw.use_beta_sigmas),
            ("use_lu_lambdas", raw.use_lu_lambdas),
            ("use_flow_sigmas", raw.use_flow_sigmas),
        ] {
            if on == Some(true) {
                return value_error(key, true, "false (it is not supported)");
            }
        }
        if !(1..=1_000_000).contains(&raw.num_train_timesteps) {
            return value_error("num_train_timesteps", raw.num_train_timesteps, "1 to 1000000");
        }
        if raw.steps_offset >= raw.num_train_timesteps {
            return value_error("steps_offset", raw.steps_offset, "less than num_train_timesteps");
        }
        let mut betas = match &raw.trained_betas {
            Some(betas) if betas.len() != raw.num_train_timesteps => {
                let expected =
                    format!("{} numbers, as num_train_timesteps says", raw.num_train_timesteps);
                return value_error(
                    "trained_betas",
                    format!("of length {}", betas.len()),
                    &expected,
                );
            }
            Some(betas) => betas.clone(),
            None => {
                for (key, beta) in [("beta_start", raw.beta_start), ("beta_end", raw.beta_end)] {
                    if !(beta > 0.0 && beta < 1.0) {
                        return value_error(key, beta, "a number between 0 and 1");
                    }
                }
                betas_of(beta_schedule, raw.beta_start, raw.beta_end, raw.num_train_timesteps)
            }
        };
        if let Some(beta) = betas.iter().find(|b| !(**b > 0.0 && **b < 1.0)) {
            return value_error("trained_betas", beta, "numbers between 0 and 1");
        }
        let clip_sample_range = raw.clip_sample_range.unwrap_or(1.0);
        if !(clip_sample_range > 0.0 && clip_sample_range.is_finite()) {
            return value_error("clip_sample_range", clip_sample_range, "a finite number above 0");
        }
        if raw.rescale_betas_zero_snr {
            betas = rescale_zero_terminal_snr(&betas);
        }
        let alphas_cumprod = cumprod(&betas);
        Ok(Self {
            betas,
            alphas_cumprod,
            beta_schedule,
            prediction_type,
            set_alpha_to_one: raw.set_alpha_to_one.unwrap_or(true),
            steps_offset: raw.steps_offset,
            timestep_spacing,
            clip_sample: raw.clip_sample,
            clip_sample_range,
            rescale_betas_zero_snr: raw.rescale_betas_zero_snr,
            class_name: raw.class_name,
        })
    }

    /// The schedule of Stable Diffusion 1 and 2 and SDXL: scaled linear, 0.00085 to 0.012, 1000
    /// timesteps, offset 1, ε.
    pub fn stable_diffusion() -> Self {
        let betas = betas_of(BetaSchedule::ScaledLinear, 0.00085, 0.012, 1000);
        Self {
            alphas_cumprod: cumprod(&betas),
            betas,
            beta_schedule: BetaSchedule::ScaledLinear,
            prediction_type: PredictionType::Epsilon,
            set_alpha_to_one: false,
            steps_offset: 1,
            timestep_spacing: None,
            clip_sample: Some(false),
            clip_sample_range: 1.0,
            rescale_betas_zero_snr: false,
            class_name: None,
        }
    }

    /// Number of timesteps of training, T.
    pub fn num_train_timesteps(&self) -> usize {
        self.betas.len()
    }

    /// ᾱ at a timestep; before the first one (negative), 1 or ᾱ_0 as `set_alpha_to_one` says.
    /// Timesteps past the last take the last.
    pub fn alpha_cumprod(&self, timestep: i64) -> f64 {
        match usize::try_from(timestep) {
            Ok(t) => self.alphas_cumprod[t.min(self.alphas_cumprod.len() - 1)],
            Err(_) if self.set_alpha_to_one => 1.0,
            Err(_) => self.alphas_cumprod[0],
        }
    }

    /// σ = √((1−ᾱ)/ᾱ) of each timestep. With zero terminal SNR the last ᾱ is taken as 2⁻²⁴, as
    /// diffusers does, so that σ stays finite.
    pub fn sigmas(&self) -> Vec<f64> {
        let mut alphas = self.alphas_cumprod.clone();
        if let (true, Some(last)) = (self.rescale_betas_zero_snr, alphas.last_mut()) {
            *last = (2.0f64).powi(-24);
        }
        alphas.iter().map(|a| ((1.0 - a) / a).sqrt()).collect()
    }

    /// σ at a fractional timestep by linear interpolation, the ends held.
    pub fn sigma_at(&self, timestep: f64) -> f64 {
        interpolate(&self.sigmas(), timestep)
    }

    /// Signal-to-noise ratio ᾱ/(1−ᾱ) at a timestep.
    pub fn snr(&self, timestep: usize) -> f64 {
        let alpha = self.alphas_cumprod[timestep.min(self.alphas_cumprod.len() - 1)];
        alpha / (1.0 - alpha)
    }

    /// The spacing that a sampler uses with this schedule.
    pub fn spacing(&self, sampler: SamplerKind) -> TimestepSpacing {
        self.timestep_spacing.unwrap_or(sampler.default_spacing())
    }

    /// Timesteps at which a sampler calls the network, from noise to image, as diffusers computes
    /// them. Whole numbers except for Euler with linspace spacing. Always `steps` of them, except
    /// that repeated ones are possible where `steps` is near T.
    pub fn timesteps(&self, sampler: SamplerKind, steps: usize) -> Result<Vec<f64>, ScheduleError> {
        let total = self.num_train_timesteps();
        let spacing = self.spacing(sampler);
        let dpm = sampler == SamplerKind::DpmSolverPp2M;
        let most = match (dpm, spacing) {
            (true, TimestepSpacing::Leading) => total.saturating_sub(1).max(1),
            _ => total,
        };
        if steps == 0 || steps > most {
            return Err(ScheduleError::Steps { steps, most, num_train_timesteps: total });
        }
        let last = (total - 1) as f64;
        let values: Vec<f64> = match spacing {
            // DPM-Solver++ places one more point and leaves out the one at the image.
            TimestepSpacing::Linspace => {
                let points = if dpm { steps + 1 } else { steps };
                let stride = if points > 1 { last / (points - 1) as f64 } else { 0.0 };
                let place = |i: usize| {
                    if i + 1 == points && points > 1 { last } else { i as f64 * stride }
                };
                let placed = (points - steps..points).rev().map(place);
                match sampler {
                    SamplerKind::Euler => placed.map(|t| f64::from(t as f32)).collect(),
                    _ => placed.map(f64::round_ties_even).collect(),
                }
            }
            TimestepSpacing::Leading => {
                let first = usize::from(dpm);
                let stride = (total / (steps + first)).max(1);
                (first..steps + first)
                    .rev()
                    .map(|i| ((i * stride + self.steps_offset) as f64).min(last))
                    .collect()
            }
            TimestepSpacing::Trailing => {
                let stride = total as f64 / steps as f64;
                (0..steps)
                    .map(|i| (total as f64 - i as f64 * stride).round_ties_even() - 1.0)
                    .map(|t| t.max(0.0))
                    .collect()
            }
        };
        Ok(values)
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

fn betas_of(schedule: BetaSchedule, start: f64, end: f64, n: usize) -> Vec<f64> {
    let linspace = |a: f64, b: f64| {
        let stride = if n > 1 { (b - a) / (n - 1) as f64 } else { 0.0 };
        (0..n).map(move |i| a + stride * i as f64)
    };
    match schedule {
        BetaSchedule::Linear => linspace(start, end).collect(),
        BetaSchedule::ScaledLinear => linspace(start.sqrt(), end.sqrt()).map(|b| b * b).collect(),
        BetaSchedule::SquaredcosCapV2 => {
            let alpha_bar =
                |t: f64| libm::cos((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).powi(2);
            (0..n)
                .map(|i| {
                    let (now, next) = (i as f64 / n as f64, (i + 1) as f64 / n as f64);
                    (1.0 - alpha_bar(next) / alpha_bar(now)).min(0.999)
                })
                .collect()
        }
    }
}

fn cumprod(betas: &[f64]) -> Vec<f64> {
    betas
        .iter()
        .scan(1.0, |product, beta| {
            *product *= 1.0 - beta;
            Some(*product)
        })
        .collect()
}

/// Shifts and scales √ᾱ so that its last value is 0 and its first is kept.
fn rescale_zero_terminal_snr(betas: &[f64]) -> Vec<f64> {
    let roots: Vec<f64> = cumprod(betas).into_iter().map(f64::sqrt).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else {
        return Vec::new();
    };
    if first == last {
        return betas.to_vec();
    }
    let scale = first / (first - last);
    let bars: Vec<f64> = roots.iter().map(|r| ((r - last) * scale).powi(2)).collect();
    let before = std::iter::once(1.0).chain(bars.iter().copied());
    bars.iter().zip(before).map(|(bar, before)| 1.0 - bar / before).collect()
}

fn interpolate(values: &[f64], place: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else {
        return 0.0;
    };
    let place = place.clamp(0.0, last as f64);
    let low = place.floor() as usize;
    let high = (low + 1).min(last);
    values[low] + (values[high] - values[low]) * (place - low as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
