//! The denoising objective: noisy latents, targets, and the weighted squared error.

use burn::tensor::{Tensor, TensorData};
use craft_core::schedule::PredictionType;

/// Forward diffusion `x_t = √ᾱ x₀ + √(1 − ᾱ) ε` (Ho et al. 2020, equation 4) and the target that the
/// denoiser is to predict: ε, or v = √ᾱ ε − √(1 − ᾱ) x₀ (Salimans & Ho 2022).
pub fn diffuse(
    kind: PredictionType,
    alpha: f64,
    clean: &[f32],
    noise: &[f32],
    noisy: &mut Vec<f32>,
    target: &mut Vec<f32>,
) {
    let (a, s) = (alpha.sqrt() as f32, (1.0 - alpha).sqrt() as f32);
    noisy.extend(clean.iter().zip(noise).map(|(x, e)| a * x + s * e));
    match kind {
        PredictionType::Epsilon => target.extend_from_slice(noise),
        PredictionType::VPrediction => {
            target.extend(clean.iter().zip(noise).map(|(x, e)| a * e - s * x));
        }
    }
}

/// `Σ_b w_b · mean_CHW((prediction − target)²) / B` with B = `batch`, which is the whole batch's size
/// when this is one of several micro-batches.
pub fn weighted_mse(
    prediction: Tensor<4>,
    target: Tensor<4>,
    weights: &[f32],
    batch: usize,
) -> Tensor<1> {
    let [b, c, h, w] = prediction.dims();
    let device = prediction.device();
    let weights = Tensor::<2>::from_data(TensorData::new(weights.to_vec(), [b, 1]), &device);
    let squares = (prediction - target).powi_scalar(2).reshape([b, c * h * w]);
    (squares.mean_dim(1) * weights).sum().div_scalar(batch as f32)
}
