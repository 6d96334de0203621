//! Listwise implicit rewards, after Diffusion LAIR (arXiv 2605.26491): all pictures of a prompt at once.

use burn::tensor::Tensor;
use craft_core::recipe::TrainSection;
use craft_core::stats::mean_std;
use craft_diffusion::lair::{centred_weights, lair};

use super::{Data, LONGER, Method, method};
use crate::error::Result;
use crate::objective::{Objective, Predicted, Reference};
use crate::pool::{Pool, Units};

const BETA: f64 = 100.0;
/// Temperature of listwise weights, in standard deviations of the total.
const TEMPERATURE: f64 = 1.0;

struct Lair;

impl Objective for Lair {
    fn reference(&self) -> Reference {
        Reference::Errors
    }

    fn compares(&self) -> bool {
        true
    }

    fn loss(&self, at: &Predicted<'_>) -> Tensor<1> {
        lair(at.errors(), at.reference_errors, at.values, BETA, at.samples)
    }
}

fn objective(_: &TrainSection) -> Box<dyn Objective> {
    Box::new(Lair)
}

fn units(pool: &Pool<'_>) -> Result<Units> {
    let groups = pool.groups(true)?;
    let size = groups.iter().map(Vec::len).max().unwrap_or(0);
    let spread = mean_std(&pool.totals()?.values().copied().collect::<Vec<_>>()).1;
    // A group that lacks a picture would not fit beside the others.
    let whole = groups.into_iter().filter(|g| g.len() == size && size > 1);
    Ok(whole
        .map(|group| {
            let totals: Vec<f64> = group.iter().map(|c| c.1).collect();
            let weights = centred_weights(&totals, TEMPERATURE * spread.max(1e-12));
            group.into_iter().zip(weights).map(|((id, _), w)| (id, w)).collect()
        })
        .collect())
}

const DATA: Data = Data::Candidates { units, scored: true, within_prompt: false };

pub(super) const METHODS: &[Method] =
    &[method("lair", "listwise weights on implicit rewards", DATA, objective, LONGER)];
