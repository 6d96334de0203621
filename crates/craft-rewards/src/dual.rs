//! What rewards with a text and an image encoder have in common.

use std::sync::Arc;

use burn::tensor::Device;
use craft_nn::ops::Act;

use crate::clip::{ClipSizes, ClipWeights};
use crate::error::RewardError;
use crate::files::RewardFiles;
use crate::preprocess::{Fit, Preprocess};
use crate::reward::{MissingReason, RgbImageRef, Score};
use crate::tower::{ImageTower, TextTower, Towers};

/// How a reward reads pictures and texts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DualRules {
    /// How a picture becomes a square.
    pub(crate) fit: Fit,
    /// Whether texts are cleaned and padded as open_clip does it, rather than as transformers does.
    pub(crate) open_clip_text: bool,
    /// The activation, where no config says it.
    pub(crate) act: Act,
}

/// A CLIP model with what leads up to it.
#[derive(Debug)]
pub(crate) struct DualEncoder {
    image: Arc<ImageTower>,
    text: Arc<TextTower>,
    /// `exp(logit_scale)`, where the weights have one.
    pub(crate) scale: Option<f64>,
}

impl DualEncoder {
    pub(crate) fn new(
        name: &str,
        mut files: RewardFiles,
        rules: DualRules,
        device: &Device,
        towers: &mut Towers,
    ) -> Result<Self, RewardError> {
        let device = device.clone().without_autodiff();
        let weights = ClipWeights::take(name, &mut files)?;
        let sizes = ClipSizes::of(name, &files, &weights, rules.act)?;
        let mut preprocess = Preprocess::clip(rules.fit, sizes.vision.image_size);
        preprocess.mean = sizes.mean.unwrap_or(preprocess.mean);
        preprocess.std = sizes.std.unwrap_or(preprocess.std);
        let preprocess = preprocess.configured(name, &files)?;
        let mut tokenizer = files.tokenizer(name, &sizes.text)?;
        if rules.open_clip_text {
            tokenizer = tokenizer.with_open_clip_rules();
        }
        let ClipWeights { text, vision, logit_scale } = weights;
        Ok(Self {
            image: towers.image(name, &sizes.vision, preprocess, vision, &device)?,
            text: towers.text(name, &sizes.text, tokenizer, text, &device)?,
            scale: logit_scale.map(|scale| f64::from(scale).exp()),
        })
    }

    /// `scale` · cosine of picture and text.
    pub(crate) fn score(
        &self,
        images: &[RgbImageRef<'_>],
        prompts: &[&str],
        scale: f64,
    ) -> Vec<Result<Score, MissingReason>> {
        let texts = self.text.embed(prompts);
        let rows = self.image.embed(images).into_iter().enumerate();
        rows.map(|(index, row)| {
            let text = prompts.get(index).and_then(|p| texts.get(p));
            Score::new(scale * cosine(&row?, text.ok_or(MissingReason::NoPrompt)?))
        })
        .collect()
    }

    /// How many tokens of a prompt do not fit.
    pub(crate) fn tokens_cut(&self, prompt: &str) -> usize {
        self.text.tokens_cut(prompt)
    }
}

/// Cosine of two vectors in f64; NaN where one has no length.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
