//! What rewards with a text and an image encoder have in common.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use craft_nn::clip::ClipModel;
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::weights::to_vec;

use crate::preprocess::Preprocess;
use crate::reward::{MissingReason, RgbImageRef, Score};

/// Pictures or texts that go through a network at once. Bounds memory; changes no score.
const BATCH: usize = 32;

/// A CLIP model with what leads up to it.
#[derive(Debug)]
pub(crate) struct DualEncoder {
    pub(crate) model: ClipModel,
    pub(crate) tokenizer: ClipTokenizer,
    pub(crate) preprocess: Preprocess,
    pub(crate) device: Device,
}

impl DualEncoder {
    /// `scale` · cosine of picture and text.
    pub(crate) fn score(
        &self,
        images: &[RgbImageRef<'_>],
        prompts: &[&str],
        scale: f64,
    ) -> Vec<Result<Score, MissingReason>> {
        let texts = self.embed_texts(prompts);
        let embed = |pixels| self.model.image_features(pixels);
        score_images(images, &self.preprocess, &self.device, embed, |index, image| {
            let text = prompts.get(index).and_then(|p| texts.get(p));
            Score::new(scale * cosine(image, text.ok_or(MissingReason::NoPrompt)?))
        })
    }

    /// Each different text once.
    fn embed_texts<'a>(&self, prompts: &[&'a str]) -> BTreeMap<&'a str, Vec<f32>> {
        let mut texts: BTreeMap<&str, Vec<f32>> =
            prompts.iter().map(|p| (*p, Vec::new())).collect();
        let unique: Vec<&str> = texts.keys().copied().collect();
        let length = self.tokenizer.length();
        for batch in unique.chunks(BATCH) {
            let ids: Vec<i32> = batch
                .iter()
                .flat_map(|text| self.tokenizer.encode(text).ids)
                .map(|id| id as i32)
                .collect();
            let ids = TensorData::new(ids, [batch.len(), length]);
            let ids = Tensor::<2, Int>::from_data(ids, &self.device);
            let rows = to_vec(self.model.text_features(ids));
            for (text, row) in batch.iter().zip(rows.chunks_exact(rows.len() / batch.len())) {
                texts.insert(text, row.to_vec());
            }
        }
        texts
    }
}

/// Embeds pictures in batches and scores each embedding by itself.
pub(crate) fn score_images(
    images: &[RgbImageRef<'_>],
    preprocess: &Preprocess,
    device: &Device,
    embed: impl Fn(Tensor<4>) -> Tensor<2>,
    score: impl Fn(usize, &[f32]) -> Result<Score, MissingReason>,
) -> Vec<Result<Score, MissingReason>> {
    let mut scores = Vec::with_capacity(images.len());
    let size = preprocess.size;
    for batch in images.chunks(BATCH) {
        let first = scores.len();
        let mut good = Vec::new();
        let mut pixels = Vec::with_capacity(batch.len() * 3 * size * size);
        for (i, image) in batch.iter().enumerate() {
            match preprocess.apply(*image) {
                Ok(planes) => {
                    good.push(first + i);
                    pixels.extend(planes);
                    scores.push(Err(MissingReason::NoPrompt)); // Replaced below.
                }
                Err(reason) => scores.push(Err(reason)),
            }
        }
        if good.is_empty() {
            continue;
        }
        let data = TensorData::new(pixels, [good.len(), 3, size, size]);
        let rows = to_vec(embed(Tensor::from_data(data, device)));
        let width = rows.len() / good.len();
        for (index, row) in good.into_iter().zip(rows.chunks_exact(width)) {
            scores[index] = score(index, row);
        }
    }
    scores
}

/// Cosine of two vectors in f64; NaN where one has no length.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
