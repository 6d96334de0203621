//! MaPO, preference tuning without a reference (Hong et al. 2024; `mapo-t2i/mapo:utils.py`).

use super::{Data, LONGER, Method, method};
use crate::error::Result;
use crate::objective::{Objective, Predicted};
use crate::pool::{Pool, Units, best_and_worst};
use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;
use craft_core::recipe::TrainSection;

/// Constants of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MapoConfig {
    /// Weight of the margin beside the plain loss on preferred pictures.
    pub beta: f64,
    /// Signal-to-noise ratio that scales errors inside of the odds.
    pub snr: f64,
    /// Timesteps of the diffusion process, which scale the margin.
    pub timesteps: f64,
}

impl Default for MapoConfig {
    fn default() -> Self {
        Self { beta: 0.1, snr: 0.5, timesteps: 1000.0 }
    }
}

/// `Σ_p (m_w − β log σ(T · (o(m_w) − o(m_l)))) / pairs` with `o(m) = s m / (exp(s m) − 1)`.
///
/// `errors` `[2P]`: squared errors of the preferred and the rejected picture of each pair in turn.
pub fn mapo(errors: Tensor<1>, config: MapoConfig, pairs: usize) -> Tensor<1> {
    let errors = errors.reshape([-1, 2]);
    let [p, _] = errors.dims();
    let preferred = errors.clone().slice([0..p, 0..1]);
    let rejected = errors.slice([0..p, 1..2]);
    // An error of exactly 0 would make 0/0 of the odds, whose limit is 1.
    let odds = |m: Tensor<2>| {
        let scaled = m.mul_scalar(config.snr).clamp_min(1e-4);
        scaled.clone() / (scaled.exp().sub_scalar(1.0))
    };
    let margin = (odds(preferred.clone()) - odds(rejected)).mul_scalar(config.timesteps);
    (preferred - log_sigmoid(margin).mul_scalar(config.beta)).sum().div_scalar(pairs as f64)
}

struct Mapo;

impl Objective for Mapo {
    fn compares(&self) -> bool {
        true
    }

    fn loss(&self, at: &Predicted<'_>) -> Tensor<1> {
        let config = MapoConfig { timesteps: at.timesteps as f64, ..MapoConfig::default() };
        mapo(at.errors(), config, at.units)
    }
}

fn objective(_: &TrainSection) -> Box<dyn Objective> {
    Box::new(Mapo)
}

fn units(pool: &Pool<'_>) -> Result<Units> {
    Ok(best_and_worst(pool)?.into_iter().map(Vec::from).collect())
}

pub(super) const METHODS: &[Method] = &[
    method("mapo", "MaPO, annotators", Data::Annotated { labels: false }, objective, LONGER),
    method(
        "mapo-rewards",
        "MaPO, best against worst by CRAFT's rewards",
        Data::Candidates { units, scored: true, within_prompt: false },
        objective,
        LONGER,
    ),
];
