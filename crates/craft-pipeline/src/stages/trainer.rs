//! One pass of training: which samples, at which timesteps, with which noise, and their gradients.

use burn::tensor::{Device, Tensor, TensorData};
use craft_core::Key;
use craft_core::recipe::{Method, Recipe};
use craft_core::schedule::NoiseSchedule;
use craft_diffusion::kto;
use craft_diffusion::objective::{diffuse, host_errors, min_snr, squared_errors, weighted_mse};
use craft_diffusion::optimizer::{self, AdamW, GradMap};
use craft_model::Denoiser;
use craft_nn::weights;

use crate::cost::Spent;
use crate::error::Result;
use crate::networks::Networks;
use crate::stages::draws::{Draws, Wording};
use craft_model::denoiser::Input;
use craft_model::model::Model;
use craft_model::text::{Condition, TextEmbedding, Tokens, encode};

/// A text for the denoiser.
#[derive(Default)]
pub(super) struct Text {
    /// For text encoders that are trained.
    pub(super) tokens: Tokens,
    /// By the base model's text encoders.
    pub(super) embedding: TextEmbedding,
}

impl Text {
    pub(super) fn of(model: &Model, texts: &[&str]) -> Vec<Self> {
        let tokens = texts.iter().map(|text| model.tokens(text));
        let each = tokens.zip(model.encode_texts(texts));
        each.map(|(tokens, embedding)| Self { tokens, embedding }).collect()
    }

    /// What stands for no text in training.
    pub(super) fn empty(model: &Model) -> Self {
        let embedding = model.encode_negatives(&[None]).remove(0);
        Self { tokens: model.tokens(""), embedding }
    }

    /// Whether the model reads zeros instead of this text.
    pub(super) fn is_zero(&self) -> bool {
        self.embedding.states.iter().all(|v| *v == 0.0)
    }
}

/// A candidate that is trained on.
pub(super) struct Sample {
    pub(super) id: String,
    pub(super) latents: Vec<f32>,
    pub(super) original: Text,
    pub(super) expanded: Text,
    /// Its weight in the loss; of KTO 1 if it is liked and 0 if not.
    pub(super) weight: f32,
}

/// One micro-batch, ready for the denoiser.
pub(super) struct Batch<'a> {
    pub(super) noisy: Tensor<4>,
    pub(super) target: Tensor<4>,
    pub(super) times: Vec<f32>,
    pub(super) texts: Vec<&'a Text>,
    pub(super) weights: Vec<f32>,
}

pub(super) struct Trainer<'a> {
    recipe: &'a Recipe,
    schedule: NoiseSchedule,
    pub(super) samples: &'a [Sample],
    empty: Text,
    pub(super) draws: Draws,
    device: Device,
    /// The model that training begins with, without factors, and its device: where the loss compares with it.
    reference: Option<(Denoiser, Device)>,
    /// Channels, rows and columns of latents.
    pub(super) shape: [usize; 3],
    /// Height and width of pictures.
    pixels: [usize; 2],
}

impl<'a> Trainer<'a> {
    /// # Errors
    /// When the recipe's pictures do not fit the model.
    pub(super) fn new(recipe: &'a Recipe, model: &Model, samples: &'a [Sample]) -> Result<Self> {
        let options = crate::stages::generate::options(&recipe.generate, model)?;
        Ok(Self {
            recipe,
            schedule: model.schedule.clone(),
            samples,
            empty: Text::empty(model),
            draws: Draws::new(recipe.seed),
            device: Device::flex().autodiff(),
            reference: (recipe.train.method == Method::Kto)
                .then(|| (model.denoiser.clone(), model.device.clone())),
            shape: model.latent_shape(options.height, options.width),
            pixels: [options.height, options.width],
        })
    }

    /// Draws `range` of a step's batch.
    pub(super) fn batch(
        &self,
        step: usize,
        picks: &[usize],
        range: std::ops::Range<usize>,
    ) -> Batch<'_> {
        let section = &self.recipe.train;
        let schedule = &self.schedule;
        let (mut noisy, mut target) = (Vec::new(), Vec::new());
        let (mut times, mut texts, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for i in range {
            let sample = &self.samples[picks[i]];
            let draw = self.draws.sample(section, schedule, (step, i), sample.latents.len());
            let alpha = schedule.alpha_cumprod(draw.timestep as i64);
            let kind = schedule.prediction_type;
            diffuse(kind, alpha, &sample.latents, &draw.noise, &mut noisy, &mut target);
            times.push(draw.timestep as f32);
            texts.push(match draw.wording {
                Wording::Empty => &self.empty,
                Wording::Expanded => &sample.expanded,
                Wording::Original => &sample.original,
            });
            let factor = section.min_snr_gamma.map_or(1.0, |gamma| min_snr(kind, alpha, gamma));
            weights.push(sample.weight * factor);
        }
        let [c, h, w] = self.shape;
        let tensor = |data: Vec<f32>| {
            Tensor::<4>::from_data(TensorData::new(data, [texts.len(), c, h, w]), &self.device)
        };
        let (noisy, target) = (tensor(noisy), tensor(target));
        Batch { noisy, target, times, texts, weights }
    }

    /// Texts for the denoiser: embeddings of the base model, or by the encoders that are trained.
    pub(super) fn condition(&self, networks: &Networks, texts: &[&Text]) -> Condition {
        let Some(first) = &networks.text_encoder else {
            let embeddings: Vec<&TextEmbedding> = texts.iter().map(|t| &t.embedding).collect();
            let length = texts.first().map_or(0, |text| text.tokens.first.len());
            return Condition::stack(&embeddings, length, self.pixels, &self.device);
        };
        let tokens: Vec<&Tokens> = texts.iter().map(|text| &text.tokens).collect();
        let second = networks.text_encoder_2.as_ref();
        let (states, pooled) = encode(first, second, &tokens, &self.device);
        if !texts.iter().any(|text| text.is_zero()) {
            return Condition::new(states, pooled, self.pixels);
        }
        let mask: Vec<f32> = texts.iter().map(|t| if t.is_zero() { 0.0 } else { 1.0 }).collect();
        let mask = Tensor::<1>::from_data(TensorData::new(mask, [texts.len()]), &self.device);
        let states = states * mask.clone().reshape([texts.len(), 1, 1]);
        let pooled = pooled.map(|pooled| pooled * mask.reshape([texts.len(), 1]));
        Condition::new(states, pooled, self.pixels)
    }

    /// Errors of the frozen reference, if there is one, for each sample of a micro-batch.
    fn reference_errors(&self, batch: &Batch<'_>) -> Option<Vec<f32>> {
        let (unet, device) = self.reference.as_ref()?;
        let embeddings: Vec<&TextEmbedding> = batch.texts.iter().map(|t| &t.embedding).collect();
        let length = batch.texts.first().map_or(0, |text| text.tokens.first.len());
        let condition = Condition::stack(&embeddings, length, self.pixels, device);
        let latents = batch.noisy.clone().without_autodiff();
        let prediction =
            unet.predict(Input { latents, times: &batch.times, condition: &condition });
        let target = weights::to_vec(batch.target.clone());
        Some(host_errors(&weights::to_vec(prediction), &target, batch.times.len()))
    }

    /// Adds the gradients of one micro-batch to `grads` and returns its part of the loss.
    pub(super) fn accumulate(
        &self,
        networks: &Networks,
        batch: Batch<'_>,
        grads: &mut GradMap,
    ) -> f64 {
        let section = &self.recipe.train;
        let condition = self.condition(networks, &batch.texts);
        let reference = self.reference_errors(&batch);
        let Batch { noisy, target, times, weights, .. } = batch;
        let loss = |prediction| match &reference {
            None => weighted_mse(prediction, target, &weights, section.batch),
            Some(reference) => {
                let liked: Vec<bool> = weights.iter().map(|w| *w > 0.5).collect();
                let errors = squared_errors(prediction, target);
                kto::kto(errors, reference, &liked, kto::BETA, section.batch)
            }
        };
        let mut take = |gradients| optimizer::collect(networks, gradients, grads);
        let input = Input { latents: noisy, times: &times, condition: &condition };
        if !section.gradient_checkpointing {
            let value = loss(networks.unet.predict(input));
            take(value.backward());
            return f64::from(weights::to_vec(value)[0]);
        }
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
}

/// What a forward and backward pass takes for one picture, measured on random latents.
///
/// # Errors
/// See [`Networks::start`].
pub(crate) fn measure(recipe: &Recipe, model: Model) -> Result<Spent> {
    let options = crate::stages::generate::options(&recipe.generate, &model)?;
    let shape = model.latent_shape(options.height, options.width);
    let [_, h, w] = shape;
    // Large pictures one at a time; small ones in numbers that are worth a measurement.
    let n = recipe.micro_batch(h * w).min((4096 / (h * w).max(1)).max(1));
    let mut stream = Key::new(recipe.seed).stage("measure").stream();
    let samples: Vec<Sample> = (0..n)
        .map(|i| {
            let mut texts = Text::of(&model, &["", ""]);
            Sample {
                id: i.to_string(),
                latents: stream.standard_normals(shape.iter().product()),
                original: texts.pop().unwrap_or_default(),
                expanded: texts.pop().unwrap_or_default(),
                weight: 1.0,
            }
        })
        .collect();
    let trainer = Trainer::new(recipe, &model, &samples)?;
    let networks = Networks::start(recipe, Networks::of(model), None, &mut AdamW::default())?;
    let picks: Vec<usize> = (0..n).collect();
    let spent = Spent::on(|| {
        trainer.accumulate(&networks, trainer.batch(0, &picks, 0..n), &mut GradMap::new());
        Ok(())
    })?;
    Ok(spent.each(n))
}
