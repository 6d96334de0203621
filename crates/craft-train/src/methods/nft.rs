//! DiffusionNFT (Zheng et al. 2025; `NVlabs/DiffusionNFT:scripts/train_nft_sd3.py`), for a network that
//! predicts noise: the good direction is learned from all samples at once, from bad ones by mirroring.

use super::{ADVANTAGE_LIMIT, Data, LONGER, Method, advantages, method};
use crate::error::Result;
use crate::objective::{Objective, Predicted, Reference};
use crate::pool::{Pool, Units, singles};
use burn::tensor::{Tensor, TensorData};
use craft_core::recipe::TrainSection;

/// Share of a sample that counts as good: `clamp(Â / (2 limit) + ½, 0, 1)`.
pub fn optimality(advantage: f64, limit: f64) -> f64 {
    (advantage / (2.0 * limit) + 0.5).clamp(0.0, 1.0)
}

/// `Σ_b (r_b L⁺_b + (1 − r_b) L⁻_b) / (β batch)`, where L± are the errors of the mixtures
/// `ε⁺ = β ε_θ + (1 − β) ε_old` and `ε⁻ = (1 + β) ε_old − β ε_θ`, each a mean square divided by its own
/// mean absolute error, through which no gradient flows.
///
/// `prediction`, `target` `[B, C, H, W]`; `old`: predictions of the model that drew the samples, flat;
/// `good` `[B]`: [`optimality`] of each sample.
pub fn nft(
    prediction: Tensor<4>,
    target: Tensor<4>,
    old: &[f32],
    good: &[f32],
    beta: f64,
    batch: usize,
) -> Tensor<1> {
    let [b, c, h, w] = prediction.dims();
    let device = prediction.device();
    let old = Tensor::<4>::from_data(TensorData::new(old.to_vec(), [b, c, h, w]), &device);
    let branch = |mixture: Tensor<4>| {
        let error = (mixture - target.clone()).reshape([b, c * h * w]);
        let scale = error.clone().detach().abs().mean_dim(1).clamp_min(1e-5);
        error.powi_scalar(2).mean_dim(1) / scale
    };
    let plus = branch(prediction.clone().mul_scalar(beta) + old.clone().mul_scalar(1.0 - beta));
    let minus = branch(old.mul_scalar(1.0 + beta) - prediction.mul_scalar(beta));
    let good = Tensor::<2>::from_data(TensorData::new(good.to_vec(), [b, 1]), &device);
    let bad = good.clone().neg().add_scalar(1.0);
    (plus * good + minus * bad).sum().div_scalar(beta * batch as f64)
}

const BETA: f64 = 1.0;

struct Nft;

impl Objective for Nft {
    fn reference(&self) -> Reference {
        Reference::Prediction
    }

    fn loss(&self, at: &Predicted<'_>) -> Tensor<1> {
        let (prediction, target) = (at.prediction.clone(), at.target.clone());
        nft(prediction, target, at.reference, at.values, BETA, at.samples)
    }
}

fn objective(_: &TrainSection) -> Box<dyn Objective> {
    Box::new(Nft)
}

fn units(pool: &Pool<'_>) -> Result<Units> {
    Ok(singles(advantages(pool, |a| optimality(a, ADVANTAGE_LIMIT))?))
}

const DATA: Data = Data::Candidates { units, scored: true, within_prompt: false };

pub(super) const METHODS: &[Method] =
    &[method("nft", "DiffusionNFT, offline", DATA, objective, LONGER)];
