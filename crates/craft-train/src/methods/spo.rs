//! Step-aware preference optimisation (Liang et al. 2024, equations 5 to 7; `RockeyCoss/SPO`): at each step of
//! the sampler several continuations of the same latents are compared, and the policy of that one step learns
//! to prefer the best to the worst.

use super::{Data, Drawing, LONGER, Method, common, method};
use crate::loss::beside;
use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

/// Constants of the loss; the defaults are those of the reference for SD 1.5.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpoConfig {
    /// β, the sharpness of a preference.
    pub beta: f64,
    /// How far a ratio to the reference counts on either side of 1.
    pub clip: f64,
}

impl Default for SpoConfig {
    fn default() -> Self {
        Self { beta: 10.0, clip: 0.1 }
    }
}

/// `−Σ_p log σ(β log ρ_w − β log ρ_l) / pairs` with `ρ = clip(exp(s (m^ref − m)), 1 ± c)`.
///
/// `errors` and `reference` `[2P]`: squared errors of the model and of the frozen one to
/// [`StochasticStep::target`](crate::online::stochastic::StochasticStep::target) of the preferred and the rejected next
/// latents of each pair in turn; `scales` `[P]`: [`StochasticStep::scale`](crate::online::stochastic::StochasticStep::scale)
/// of each pair's step. Log-probabilities are means over the latents, as in the reference. `pairs`: pairs of
/// the whole batch.
pub fn spo(
    errors: Tensor<1>,
    reference: &[f32],
    scales: &[f32],
    config: SpoConfig,
    pairs: usize,
) -> Tensor<1> {
    let scales: Vec<f32> = scales.iter().flat_map(|s| [*s; 2]).collect();
    let log_ratio = (beside(&errors, reference) - errors.clone()) * beside(&errors, &scales);
    // The logarithm of the clipped ratio, without going through exp.
    let log_ratio = log_ratio.clamp((1.0 - config.clip).ln(), (1.0 + config.clip).ln());
    let log_ratio = log_ratio.reshape([-1, 2]);
    let [p, _] = log_ratio.dims();
    let margin = log_ratio.clone().slice([0..p, 0..1]) - log_ratio.slice([0..p, 1..2]);
    log_sigmoid(margin.mul_scalar(config.beta)).sum().neg().div_scalar(pairs as f64)
}

/// Best and worst of some scores, where one is better beyond doubt: where the shares that a softmax gives the
/// two differ by more than `threshold`.
pub fn clear_pair(scores: &[f64], threshold: f64) -> Option<[usize; 2]> {
    let finite = |i: &usize| scores[*i].is_finite();
    let best = (0..scores.len()).filter(finite).max_by(|a, b| scores[*a].total_cmp(&scores[*b]))?;
    let worst =
        (0..scores.len()).filter(finite).min_by(|a, b| scores[*a].total_cmp(&scores[*b]))?;
    // σ(d) − σ(−d) = tanh(d/2)
    (((scores[best] - scores[worst]) / 2.0).tanh() > threshold).then_some([best, worst])
}

const DATA: Data = Data::Prompts(Drawing::Continuations);

pub(super) const METHODS: &[Method] =
    &[method("spo", "SPO, online, step-aware pairs", DATA, common, LONGER)];
