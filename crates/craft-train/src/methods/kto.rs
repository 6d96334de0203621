//! Diffusion-KTO (Li et al. 2024): pictures liked or not, against the frozen reference.

use burn::tensor::Tensor;
use craft_core::recipe::TrainSection;
use craft_core::select::worst;
use craft_diffusion::kto::{BETA, kto};

use super::{Data, LONGER, Method, method};
use crate::error::Result;
use crate::objective::{Objective, Predicted, Reference};
use crate::pool::{Pool, Units, best_and_worst, singles};

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
