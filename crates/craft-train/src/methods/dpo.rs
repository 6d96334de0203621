//! Diffusion-DPO (Wallace et al. 2023, equation 14): pairs, against the frozen reference.

use burn::tensor::Tensor;
use craft_core::recipe::TrainSection;
use craft_diffusion::dpo::dpo;

use super::{Data, LONGER, Method, method};
use crate::error::Result;
use crate::objective::{Objective, Predicted, Reference};
use crate::pool::{Pool, Units, best_and_worst};

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
