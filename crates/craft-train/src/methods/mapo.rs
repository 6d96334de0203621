//! MaPO (Hong et al. 2024): pairs, without a reference.

use burn::tensor::Tensor;
use craft_core::recipe::TrainSection;
use craft_diffusion::mapo::{MapoConfig, mapo};

use super::{Data, LONGER, Method, method};
use crate::error::Result;
use crate::objective::{Objective, Predicted};
use crate::pool::{Pool, Units, best_and_worst};

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
