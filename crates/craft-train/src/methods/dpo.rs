//! Diffusion-DPO (Wallace et al. 2023, equation 14; `SalesforceAIResearch/DiffusionDPO:train.py`).

use super::{Data, LONGER, Method, method};
use crate::error::Result;
use crate::loss::beside;
use crate::objective::{Objective, Predicted, Reference};
use crate::pool::{Pool, Units, best_and_worst};
use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;
use craft_core::recipe::TrainSection;

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

/// β for SD 1.5 in the paper (the reference's launchers use 5000).
const BETA: f64 = 2000.0;

struct Dpo;

impl Objective for Dpo {
    fn reference(&self) -> Reference {
        Reference::Errors
    }

    fn compares(&self) -> bool {
        true
    }

    fn loss(&self, at: &Predicted<'_>) -> Tensor<1> {
        dpo(at.errors(), at.reference_errors, BETA, at.units)
    }
}

fn objective(_: &TrainSection) -> Box<dyn Objective> {
    Box::new(Dpo)
}

fn units(pool: &Pool<'_>) -> Result<Units> {
    Ok(best_and_worst(pool)?.into_iter().map(Vec::from).collect())
}

pub(super) const METHODS: &[Method] = &[
    method(
        "dpo",
        "Diffusion-DPO, annotators",
        Data::Annotated { labels: false },
        objective,
        LONGER,
    ),
    method(
        "dpo-rewards",
        "Diffusion-DPO, best against worst by CRAFT's rewards",
        Data::Candidates { units, scored: true, within_prompt: false },
        objective,
        LONGER,
    ),
];
