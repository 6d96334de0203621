//! Listwise preference tuning on the implicit reward, after Diffusion LAIR (arXiv 2605.26491): the whole
//! group pulls, each sample by how far its share of the group's reward lies above an even one.

use super::{Data, LONGER, Method, method};
use crate::error::Result;
use crate::loss::beside;
use crate::objective::{Objective, Predicted, Reference};
use crate::pool::{Pool, Units};
use burn::tensor::Tensor;
use craft_core::recipe::TrainSection;
use craft_core::stats::mean_std;

/// Weights of a group: `softmax(total / temperature) − 1/G`. They sum to 0.
pub fn centred_weights(totals: &[f64], temperature: f64) -> Vec<f64> {
    let top = totals.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = totals.iter().map(|t| ((t - top) / temperature).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum - 1.0 / totals.len().max(1) as f64).collect()
}

/// `Σ_b (−w_b s_b + s_b² / 2) / batch` with the implicit reward `s = β (m^ref − m)`. The square holds
/// implicit rewards at the size of the weights, so that pushing a bad sample away ends somewhere.
///
/// `errors` and `reference` `[B]`: squared errors of the model and of the frozen one; `weights` `[B]`:
/// [`centred_weights`] of each sample's group.
pub fn lair(
    errors: Tensor<1>,
    reference: &[f32],
    weights: &[f32],
    beta: f64,
    batch: usize,
) -> Tensor<1> {
    let weights = beside(&errors, weights);
    let implicit = (beside(&errors, reference) - errors).mul_scalar(beta);
    let square = implicit.clone().powi_scalar(2).mul_scalar(0.5);
    (square - weights * implicit).sum().div_scalar(batch as f64)
}

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
