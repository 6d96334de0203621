//! DiffusionNFT (Zheng et al. 2025) on candidates that were drawn once.

use burn::tensor::Tensor;
use craft_core::recipe::TrainSection;
use craft_diffusion::nft::{nft, optimality};

use super::{ADVANTAGE_LIMIT, Data, LONGER, Method, advantages, method};
use crate::error::Result;
use crate::objective::{Objective, Predicted, Reference};
use crate::pool::{Pool, Units, singles};

const BETA: f64 = 1.0;

struct Nft;

impl Objective for Nft {
    fn reference(&self) -> Reference {
        Reference::Prediction
    }

    fn loss(&self, at: &Predicted<'_>) -> Tensor<1> {
        let (prediction, target) = (at.prediction.clone(), at.target.clone());
        nft(prediction, target, at.reference, at.values, BETA, at.samples)
    }
}

fn objective(_: &TrainSection) -> Box<dyn Objective> {
    Box::new(Nft)
}

fn units(pool: &Pool<'_>) -> Result<Units> {
    Ok(singles(advantages(pool, |a| optimality(a, ADVANTAGE_LIMIT))?))
}

const DATA: Data = Data::Candidates { units, scored: true, within_prompt: false };

pub(super) const METHODS: &[Method] =
    &[method("nft", "DiffusionNFT, offline", DATA, objective, LONGER)];
