//! Squared errors of predictions: what every loss is made of.

use burn::tensor::{Tensor, TensorData};

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
