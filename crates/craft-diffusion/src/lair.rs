//! Listwise preference tuning on the implicit reward, after Diffusion LAIR (arXiv 2605.26491): the whole
//! group pulls, each sample by how far its share of the group's reward lies above an even one.

use burn::tensor::Tensor;

use crate::objective::beside;

/// Weights of a group: `softmax(total / temperature) − 1/G`. They sum to 0.
pub fn centred_weights(totals: &[f64], temperature: f64) -> Vec<f64> {
    let top = totals.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = totals.iter().map(|t| ((t - top) / temperature).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum - 1.0 / totals.len().max(1) as f64).collect()
}

/// `Σ_b (−w_b s_b + s_b² / 2) / batch` with the implicit reward `s = β (m^ref − m)`. The square holds
/// implicit rewards at the size of the weights, so that pushing a bad sample away ends somewhere.
///
/// `errors` and `reference` `[B]`: squared errors of the model and of the frozen one; `weights` `[B]`:
/// [`centred_weights`] of each sample's group.
pub fn lair(
    errors: Tensor<1>,
    reference: &[f32],
    weights: &[f32],
    beta: f64,
    batch: usize,
) -> Tensor<1> {
    let weights = beside(&errors, weights);
    let implicit = (beside(&errors, reference) - errors).mul_scalar(beta);
    let square = implicit.clone().powi_scalar(2).mul_scalar(0.5);
    (square - weights * implicit).sum().div_scalar(batch as f64)
}
