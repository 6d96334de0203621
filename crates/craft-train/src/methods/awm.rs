//! Advantage-weighted matching (Xue et al. 2025; `scxue/advantage_weighted_matching`): policy gradient with
//! the denoising loss in the place of the log-likelihood, PPO's clip and a pull towards the reference.

use super::{ADVANTAGE_LIMIT, Data, LONGER, Method, advantages, method};
use crate::error::Result;
use crate::loss::beside;
use crate::loss::squared_errors;
use crate::objective::{Objective, Predicted, Reference};
use crate::pool::{Pool, Units, singles};
use burn::tensor::Tensor;
use craft_core::recipe::TrainSection;

/// Constants of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AwmConfig {
    /// How far the ratio counts on either side of 1.
    pub clip: f64,
    /// Weight of the squared distance to the reference's predictions.
    pub pull: f64,
}

impl Default for AwmConfig {
    fn default() -> Self {
        Self { clip: 1e-2, pull: 1e-3 }
    }
}

/// `Σ_b (max(−Â ρ, −Â clip(ρ, 1 ± c)) + λ d) / batch` with `ρ = exp(m^ref − m)` at the same timestep and
/// noise. At ρ = 1 its gradient is that of the advantage-weighted denoising loss.
///
/// `errors` and `reference` `[B]`: squared errors of the model and of the one that drew the samples;
/// `distances` `[B]`: mean squares of the difference of their predictions; `advantages` `[B]`, signed.
pub fn awm(
    errors: Tensor<1>,
    reference: &[f32],
    distances: Tensor<1>,
    advantages: &[f32],
    config: AwmConfig,
    batch: usize,
) -> Tensor<1> {
    let ratio = (beside(&errors, reference) - errors).exp();
    let surrogate = surrogate(ratio, advantages, config.clip);
    (surrogate + distances.mul_scalar(config.pull)).sum().div_scalar(batch as f64)
}

/// PPO's `max(−Â ρ, −Â clip(ρ, 1 ± c))` by sample (Schulman et al. 2017, equation 7).
pub(crate) fn surrogate(ratio: Tensor<1>, advantages: &[f32], clip: f64) -> Tensor<1> {
    let down = beside(&ratio, advantages).neg();
    let clipped = ratio.clone().clamp(1.0 - clip, 1.0 + clip);
    (down.clone() * ratio).max_pair(down * clipped)
}

struct Awm;

impl Objective for Awm {
    fn reference(&self) -> Reference {
        Reference::Prediction
    }

    fn loss(&self, at: &Predicted<'_>) -> Tensor<1> {
        let distances = squared_errors(at.prediction.clone(), at.like(at.reference));
        let config = AwmConfig::default();
        awm(at.errors(), at.reference_errors, distances, at.values, config, at.samples)
    }
}

fn objective(_: &TrainSection) -> Box<dyn Objective> {
    Box::new(Awm)
}

fn units(pool: &Pool<'_>) -> Result<Units> {
    let number = |a: f64| a.clamp(-ADVANTAGE_LIMIT, ADVANTAGE_LIMIT);
    Ok(singles(advantages(pool, number)?))
}

const DATA: Data = Data::Candidates { units, scored: true, within_prompt: false };

pub(super) const METHODS: &[Method] =
    &[method("awm", "advantage-weighted matching, offline", DATA, objective, LONGER)];
