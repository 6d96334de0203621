//! Advantage-weighted matching (Xue et al. 2025) on candidates that were drawn once.

use burn::tensor::Tensor;
use craft_core::recipe::TrainSection;
use craft_diffusion::awm::{AwmConfig, awm};
use craft_diffusion::objective::squared_errors;

use super::{ADVANTAGE_LIMIT, Data, LONGER, Method, advantages, method};
use crate::error::Result;
use crate::objective::{Objective, Predicted, Reference};
use crate::pool::{Pool, Units, singles};

struct Awm;

impl Objective for Awm {
    fn reference(&self) -> Reference {
        Reference::Prediction
    }

    fn loss(&self, at: &Predicted<'_>) -> Tensor<1> {
        let distances = squared_errors(at.prediction.clone(), at.like(at.reference));
        let config = AwmConfig::default();
        awm(at.errors(), at.reference_errors, distances, at.values, config, at.samples)
    }
}

fn objective(_: &TrainSection) -> Box<dyn Objective> {
    Box::new(Awm)
}

fn units(pool: &Pool<'_>) -> Result<Units> {
    let number = |a: f64| a.clamp(-ADVANTAGE_LIMIT, ADVANTAGE_LIMIT);
    Ok(singles(advantages(pool, number)?))
}

const DATA: Data = Data::Candidates { units, scored: true, within_prompt: false };

pub(super) const METHODS: &[Method] =
    &[method("awm", "advantage-weighted matching, offline", DATA, objective, LONGER)];
