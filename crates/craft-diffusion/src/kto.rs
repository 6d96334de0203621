//! Diffusion-KTO (Li et al. 2024; `jacklishufan/diffusion-kto:train_kto_sd_v1.5.py`, sigmoid utility).

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use crate::objective::beside;

/// β of the paper.
pub const BETA: f64 = 1000.0;

/// `Σ_b (1 − σ(±β (g_b − z))) / batch` with `g = m^ref − m`, the sign + for liked pictures and − for others,
/// and the reference point `z = max(mean g, 0)` of the micro-batch, through which no gradient flows.
///
/// `errors` and `reference` `[B]`: squared errors of the model and of the frozen one.
pub fn kto(
    errors: Tensor<1>,
    reference: &[f32],
    liked: &[bool],
    beta: f64,
    batch: usize,
) -> Tensor<1> {
    let gain = beside(&errors, reference) - errors;
    let origin = gain.clone().detach().mean().clamp_min(0.0);
    let sign: Vec<f32> = liked.iter().map(|l| if *l { 1.0 } else { -1.0 }).collect();
    let sign = beside(&gain, &sign);
    let utility = sigmoid((gain - origin) * sign.mul_scalar(beta));
    utility.neg().add_scalar(1.0).sum().div_scalar(batch as f64)
}
