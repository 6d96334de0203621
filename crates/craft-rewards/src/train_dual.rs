//! The loss that dual encoders learn preferences with.

use burn::tensor::{Int, Tensor, TensorData, activation};
use craft_nn::clip::ClipModel;

/// Added to the similarity with a text that is the same as the right one.
const HIDDEN: f32 = -1e9;

/// Mean over the pairs of the Bradley-Terry loss, plus `contrastive_weight` times InfoNCE.
///
/// `img_a`, `img_b`: `[B, 3, size, size]`, two pictures for the texts `ids` `[B, L]`; `preferred` `[B]` is
/// the probability that a is better (1, 0, or between). With s = exp(logit_scale) · cosine, the first
/// part is the cross entropy of σ(s_a − s_b) against `preferred`. The second tells the preferred picture
/// of each text from those of the other texts of the batch and the other way round (mean of both
/// directions, as CLIP); equal texts are not told apart. Gives `[1]`.
///
/// CLIP keeps `logit_scale` below ln 100; the trainer has to see to that.
pub fn bradley_terry_contrastive_loss(
    model: &ClipModel,
    img_a: Tensor<4>,
    img_b: Tensor<4>,
    ids: Tensor<2, Int>,
    preferred: Tensor<1>,
    contrastive_weight: f64,
) -> Tensor<1> {
    let n = img_a.dims()[0];
    let same = same_texts(&ids);
    let images = model.image_embeds(Tensor::cat(vec![img_a, img_b], 0));
    let (a, b) = (images.clone().narrow(0, 0, n), images.narrow(0, n, n));
    let texts = model.text_embeds(ids);
    let scale = model.scale();
    let margin = ((a.clone() - b.clone()) * texts.clone()).sum_dim(1).reshape([n]) * scale.clone();
    let won = preferred.clone() * activation::log_sigmoid(margin.clone());
    let lost = (preferred.clone() * -1.0 + 1.0) * activation::log_sigmoid(-margin);
    let preference = -(won + lost).mean();
    if contrastive_weight == 0.0 {
        return preference;
    }
    let device = texts.device();
    let first = preferred.greater_equal_elem(0.5).float().reshape([n, 1]);
    let chosen = a * first.clone() + b * (first * -1.0 + 1.0);
    let logits = chosen.matmul(texts.transpose()) * scale.unsqueeze::<2>()
        + Tensor::from_data(TensorData::new(same, [n, n]), &device);
    let diagonal = Tensor::<2>::eye(n, &device);
    let right = |axis: usize| {
        (activation::log_softmax(logits.clone(), axis) * diagonal.clone()).sum() / (n as f64)
    };
    preference - (right(1) + right(0)) * (0.5 * contrastive_weight)
}

/// `[B, B]`: 0, and where two different rows have the same text a large negative number.
fn same_texts(ids: &Tensor<2, Int>) -> Vec<f32> {
    let [n, length] = ids.dims();
    let ids: Vec<i64> = ids.to_data().iter::<i64>().collect();
    let row = |i: usize| &ids[i * length..(i + 1) * length];
    let hide = |i: usize, j: usize| {
        if i != j && row(i) == row(j) { HIDDEN } else { 0.0 }
    };
    (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| hide(i, j)).collect()
}
