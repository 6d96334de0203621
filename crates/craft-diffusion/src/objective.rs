//! The denoising objective: noisy latents, targets, and the weighted squared error.

use burn::tensor::{Tensor, TensorData};
use craft_core::process::{Level, PredictionType};

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
    let (process, level) = (kind.over(Vec::new()), Level::of_alpha(0.0, alpha));
    process.noised(level, clean, noise, noisy);
    process.target(level, clean, noise, target);
}

/// Factor on the loss at a timestep that makes its weight on x₀ min(SNR, γ) (Hang et al. 2023), with
/// SNR = ᾱ / (1 − ᾱ): min(SNR, γ) / SNR for ε, min(SNR, γ) / (SNR + 1) for v.
pub fn min_snr(kind: PredictionType, alpha: f64, gamma: f64) -> f32 {
    kind.over(Vec::new()).min_snr(Level::of_alpha(0.0, alpha), gamma)
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

/// `mean_CHW((prediction − target)²)` of each sample, `[B]`: what losses over preferences are made of.
pub fn squared_errors(prediction: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
    let [b, c, h, w] = prediction.dims();
    (prediction - target).powi_scalar(2).reshape([b, c * h * w]).mean_dim(1).reshape([b])
}

/// [`squared_errors`] of `samples` predictions that lie on the host, such as those of a frozen reference.
pub fn host_errors(prediction: &[f32], target: &[f32], samples: usize) -> Vec<f32> {
    let size = (prediction.len() / samples.max(1)).max(1);
    prediction
        .chunks_exact(size)
        .zip(target.chunks_exact(size))
        .map(|(p, t)| {
            let sum: f64 = p.iter().zip(t).map(|(p, t)| f64::from(p - t).powi(2)).sum();
            (sum / size as f64) as f32
        })
        .collect()
}

/// Numbers by sample as a tensor `[B]` beside another one.
pub(crate) fn beside(like: &Tensor<1>, values: &[f32]) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &like.device())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn min_snr_is_the_paper_s_at_every_signal() {
        use PredictionType::{Epsilon, VPrediction};
        // ᾱ = 0.5: SNR 1; ᾱ = 0.95: SNR 19.
        assert_eq!(min_snr(Epsilon, 0.5, 5.0), 1.0);
        assert_eq!(min_snr(VPrediction, 0.5, 5.0), 0.5);
        assert!((min_snr(Epsilon, 0.95, 5.0) - 5.0 / 19.0).abs() < 1e-6);
        assert!((min_snr(VPrediction, 0.95, 5.0) - 5.0 / 20.0).abs() < 1e-6);
        // No signal, and no noise.
        assert_eq!((min_snr(Epsilon, 0.0, 5.0), min_snr(VPrediction, 0.0, 5.0)), (1.0, 0.0));
        assert_eq!((min_snr(Epsilon, 1.0, 5.0), min_snr(VPrediction, 1.0, 5.0)), (0.0, 0.0));
    }
}
