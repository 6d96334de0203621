//! Diffusion-DPO (Wallace et al. 2023, equation 14; `SalesforceAIResearch/DiffusionDPO:train.py`).

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

use crate::objective::beside;

/// `−Σ_p log σ(−β/2 · ((m_w − m_l) − (m_w^ref − m_l^ref))) / pairs`.
///
/// `errors` `[2P]`: squared errors of the preferred and the rejected picture of each pair in turn, both
/// noised with the same timestep and noise. `reference` `[2P]`: those of the frozen model. `pairs`: pairs
/// of the whole batch, when this is one of several micro-batches.
pub fn dpo(errors: Tensor<1>, reference: &[f32], beta: f64, pairs: usize) -> Tensor<1> {
    let reference = beside(&errors, reference);
    let change = (errors - reference).reshape([-1, 2]);
    let [p, _] = change.dims();
    let margin = change.clone().slice([0..p, 0..1]) - change.slice([0..p, 1..2]);
    log_sigmoid(margin.mul_scalar(-0.5 * beta)).sum().neg().div_scalar(pairs as f64)
}
