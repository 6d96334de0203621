//! Rows through the networks: a prediction, or a forward and a backward pass.

use std::sync::Arc;

use crate::optimizer::{self, GradMap};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use craft_core::Recipe;
use craft_core::process::Process;
use craft_model::condition::{Condition, TextEmbedding};
use craft_model::denoiser::Input;
use craft_model::text::{Tokens, encode};
use craft_model::{Denoiser, Model};
use craft_nn::weights;

use crate::networks::Networks;
use crate::set::Text;

/// The pictures of a training and where it computes.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Channels, rows and columns of latents.
    pub shape: [usize; 3],
    /// Height and width of pictures.
    pub pixels: [usize; 2],
    /// How latents are noised, and what the networks predict.
    pub process: Arc<dyn Process>,
    /// Samples of a forward and backward pass.
    pub micro_batch: usize,
    /// A device with automatic differentiation.
    pub device: Device,
    /// The same without.
    pub plain: Device,
}

/// What networks are asked: latents, times and texts of each row.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Latents of all rows, flat.
    pub latents: &'a [f32],
    /// A timestep each.
    pub times: &'a [f32],
    /// A text each.
    pub texts: &'a [&'a Text],
    /// Classifier-free guidance: the text that stands for none, and the scale.
    pub guidance: Option<(&'a Text, f64)>,
}

impl Rows<'_> {
    /// All texts, those without guidance first.
    fn all_texts(&self) -> Vec<&Text> {
        let mut all: Vec<&Text> = Vec::new();
        if let Some((negative, _)) = self.guidance {
            all.resize(self.texts.len(), negative);
        }
        all.extend(self.texts);
        all
    }

    /// The guided prediction of both halves' `[2B, …]`; without guidance the prediction itself.
    fn guide(&self, output: Tensor<4>) -> Tensor<4> {
        let Some((_, scale)) = self.guidance else { return output };
        let n = self.times.len();
        let (without, with) = (output.clone().narrow(0, 0, n), output.narrow(0, n, n));
        without.clone() + (with - without).mul_scalar(scale)
    }
}

impl Frame {
    /// The pictures of a recipe's candidates by a model.
    pub fn of(recipe: &Recipe, model: &Model) -> Self {
        let pixels = model.pixels(&recipe.generate);
        let shape = model.latent_shape(pixels[0], pixels[1]);
        Self {
            shape,
            pixels,
            process: model.schedule.process().into(),
            micro_batch: recipe.micro_batch(shape[1] * shape[2]),
            device: model.device.clone().autodiff(),
            plain: model.device.clone(),
        }
    }

    fn latents(&self, rows: &Rows<'_>, device: &Device) -> Tensor<4> {
        let [c, h, w] = self.shape;
        let data = TensorData::new(rows.latents.to_vec(), [rows.times.len(), c, h, w]);
        Tensor::from_data(data, device)
    }

    /// The condition by the base model's embeddings.
    fn embedded(&self, texts: &[&Text], device: &Device) -> Condition {
        let embeddings: Vec<&TextEmbedding> = texts.iter().map(|t| &t.embedding).collect();
        let length = texts.first().map_or(0, |text| text.tokens.first.len());
        Condition::stack(&embeddings, length, self.pixels, device)
    }

    /// The condition for networks: by their own text encoders where those are trained. A text that the model reads as
    /// zeros stays zeros.
    fn condition(&self, networks: &Networks, texts: &[&Text], device: &Device) -> Condition {
        let Some(first) = &networks.text_encoder else { return self.embedded(texts, device) };
        let tokens: Vec<&Tokens> = texts.iter().map(|text| &text.tokens).collect();
        let (states, pooled) = encode(first, networks.text_encoder_2.as_ref(), &tokens, device);
        if !texts.iter().any(|text| text.is_zero()) {
            return Condition::new(states, pooled, self.pixels);
        }
        let mask: Vec<f32> = texts.iter().map(|t| if t.is_zero() { 0.0 } else { 1.0 }).collect();
        let mask = Tensor::<1>::from_data(TensorData::new(mask, [texts.len()]), device);
        let states = states * mask.clone().reshape([texts.len(), 1, 1]);
        let pooled = pooled.map(|pooled| pooled * mask.reshape([texts.len(), 1]));
        Condition::new(states, pooled, self.pixels)
    }

    /// The prediction of networks without gradients.
    pub fn predict(&self, networks: &Networks, rows: &Rows<'_>) -> Tensor<4> {
        let condition = self.condition(networks, &rows.all_texts(), &self.plain);
        self.ask(&networks.unet, rows, &condition)
    }

    /// The prediction of a frozen denoiser under the base model's embeddings, flat.
    pub fn predict_frozen(&self, denoiser: &Denoiser, rows: &Rows<'_>) -> Vec<f32> {
        let condition = self.embedded(&rows.all_texts(), &self.plain);
        weights::to_vec(self.ask(denoiser, rows, &condition))
    }

    fn ask(&self, denoiser: &Denoiser, rows: &Rows<'_>, condition: &Condition) -> Tensor<4> {
        let latents = self.latents(rows, &self.plain);
        rows.guide(denoiser.predict(Input { latents, times: rows.times, condition }))
    }

    /// Adds the gradients of a loss of the prediction to `grads` and returns the loss. With `recompute` the backward pass
    /// computes each block once more instead of keeping what is inside.
    pub fn backward(
        &self,
        networks: &Networks,
        rows: &Rows<'_>,
        recompute: bool,
        loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
        grads: &mut GradMap,
    ) -> f64 {
        let condition = self.condition(networks, &rows.all_texts(), &self.device);
        let loss = |output| loss(rows.guide(output));
        let mut take = |gradients| optimizer::collect(networks, gradients, grads);
        let latents = self.latents(rows, &self.device);
        if !recompute {
            let input = Input { latents, times: rows.times, condition: &condition };
            let value = loss(networks.unet.predict(input));
            take(value.backward());
            return f64::from(weights::to_vec(value)[0]);
        }
        // Blocks are recomputed row by row, so guidance sends its samples twice.
        let copies = if rows.guidance.is_some() { 2 } else { 1 };
        let latents = Tensor::cat(vec![latents; copies], 0);
        let times = rows.times.repeat(copies);
        let input = Input { latents, times: &times, condition: &condition };
        let wants = networks.text_encoder.is_some();
        let back = networks.unet.backward_by_block(input, wants, loss, &mut take);
        if let Some(incoming) = back.context {
            let mut root = (condition.states * incoming.autodiff()).sum();
            if let (Some(pooled), Some(incoming)) = (condition.pooled, back.pooled) {
                root = root + (pooled * incoming.autodiff()).sum();
            }
            take(root.backward());
        }
        f64::from(back.loss)
    }

    /// Latent values of one picture.
    pub fn size(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Networks without automatic differentiation, for drawing.
pub fn plain(networks: &Networks) -> Networks {
    networks.valid()
}
