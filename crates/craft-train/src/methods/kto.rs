//! Diffusion-KTO (Li et al. 2024; `jacklishufan/diffusion-kto:train_kto_sd_v1.5.py`, sigmoid utility).

use super::{Data, LONGER, Method, method};
use crate::error::Result;
use crate::loss::beside;
use crate::objective::{Objective, Predicted, Reference};
use crate::pool::{Pool, Units, best_and_worst, singles};
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use craft_core::recipe::TrainSection;
use craft_core::select::worst;

/// β of the paper.
pub const BETA: f64 = 1000.0;

/// `Σ_b (1 − σ(±β (g_b − z))) / batch` with `g = m^ref − m`, the sign + for liked pictures and − for others,
/// and the reference point `z = max(mean g, 0)` of the micro-batch, through which no gradient flows.
///
/// `errors` and `reference` `[B]`: squared errors of the model and of the frozen one.
pub fn kto(
    errors: Tensor<1>,
    reference: &[f32],
    liked: &[bool],
    beta: f64,
    batch: usize,
) -> Tensor<1> {
    let gain = beside(&errors, reference) - errors;
    let origin = gain.clone().detach().mean().clamp_min(0.0);
    let sign: Vec<f32> = liked.iter().map(|l| if *l { 1.0 } else { -1.0 }).collect();
    let sign = beside(&gain, &sign);
    let utility = sigmoid((gain - origin) * sign.mul_scalar(beta));
    utility.neg().add_scalar(1.0).sum().div_scalar(batch as f64)
}

struct Kto;

impl Objective for Kto {
    fn reference(&self) -> Reference {
        Reference::Errors
    }

    fn loss(&self, at: &Predicted<'_>) -> Tensor<1> {
        let liked: Vec<bool> = at.values.iter().map(|v| *v > 0.5).collect();
        kto(at.errors(), at.reference_errors, &liked, BETA, at.samples)
    }
}

fn objective(_: &TrainSection) -> Box<dyn Objective> {
    Box::new(Kto)
}

fn best_or_worst(pool: &Pool<'_>) -> Result<Units> {
    Ok(singles(best_and_worst(pool)?.into_iter().flatten()))
}

fn liked(pool: &Pool<'_>) -> Result<Units> {
    Ok(singles(pool.selected()?.into_iter().map(|(id, _)| (id, 1.0))))
}

fn labels(pool: &Pool<'_>) -> Result<Units> {
    let rows = pool.selection()?;
    let liked = rows.iter().filter(|row| row.selected).map(|row| (row, 1.0));
    let labels = liked.chain(worst(rows).into_iter().map(|row| (row, 0.0)));
    Ok(singles(labels.map(|(row, label)| (row.id.clone(), label))))
}

const fn candidates(units: fn(&Pool<'_>) -> Result<Units>) -> Data {
    Data::Candidates { units, scored: true, within_prompt: false }
}

pub(super) const METHODS: &[Method] = &[
    method("kto", "Diffusion-KTO, annotators", Data::Annotated { labels: true }, objective, LONGER),
    method(
        "kto-rewards",
        "Diffusion-KTO, best and worst by CRAFT's rewards",
        candidates(best_or_worst),
        objective,
        LONGER,
    ),
    method(
        "kto-liked",
        "Diffusion-KTO on what CRAFT selects, liked",
        candidates(liked),
        objective,
        LONGER,
    ),
    method(
        "kto-selected",
        "Diffusion-KTO on what CRAFT selects, liked, and as many of the worst, disliked",
        candidates(labels),
        objective,
        LONGER,
    ),
];
