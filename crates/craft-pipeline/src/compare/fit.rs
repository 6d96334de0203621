//! One trainer for all methods: they differ in their training sets and in their losses only.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use craft_core::Recipe;
use craft_core::recipe::LrSchedule;
use craft_diffusion::awm::{AwmConfig, awm};
use craft_diffusion::ddpo::StochasticStep;
use craft_diffusion::dpo::dpo;
use craft_diffusion::guard::NanGuard;
use craft_diffusion::kto::kto;
use craft_diffusion::lair::lair;
use craft_diffusion::mapo::{MapoConfig, mapo};
use craft_diffusion::nft::nft;
use craft_diffusion::objective::{diffuse, host_errors, min_snr, squared_errors, weighted_mse};
use craft_diffusion::optimizer::{self, AdamW, AdamWConfig, GradMap};
use craft_diffusion::schedule::{LrShape, learning_rate};
use craft_model::Denoiser;
use craft_model::denoiser::Input;
use craft_nn::weights;

use super::data::TrainingSet;
use super::methods::Loss;
use super::network;
use super::online::{self, Drawn, Online};
use super::shelf::Shelf;
use super::state::{self, Position};
use super::step_aware;
use crate::error::{PipelineError, Result};
use crate::run::cpu_seconds;
use crate::stages::draws::{Draws, Wording};
use crate::stages::{Run, generate};
use craft_model::model::Model;
use craft_model::text::TextEmbedding;

/// A training.
pub(super) struct Fit<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) name: &'a str,
    /// The method's own recipe.
    pub(super) recipe: &'a Recipe,
    /// The base model, which is the frozen reference as well.
    pub(super) model: &'a Model,
    /// The model that training begins with: the base model, or that of an earlier round.
    pub(super) start: &'a Model,
    pub(super) set: &'a TrainingSet,
    pub(super) loss: Loss,
    pub(super) learning_rate: f64,
    pub(super) steps: usize,
    /// For methods that draw as they go.
    pub(super) online: Option<Online<'a>>,
    /// Where the state is kept while it trains.
    pub(super) state: &'a Path,
    /// What trainings that differ in nothing but the learning rate share.
    pub(super) reference: Option<&'a References>,
}

/// Errors of the frozen reference by step and place of the micro-batch: they depend on the draws alone.
#[derive(Default)]
pub(super) struct References(Mutex<BTreeMap<(usize, usize), Vec<f32>>>);

impl References {
    fn get_or(&self, place: (usize, usize), compute: impl FnOnce() -> Vec<f32>) -> Vec<f32> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(place).or_insert_with(compute).clone()
    }
}

/// What a training cost.
#[derive(Clone, Debug, Default)]
pub(super) struct Cost {
    pub(super) seconds: f64,
    /// Seconds of all processors together.
    pub(super) cpu_seconds: f64,
    pub(super) skipped: usize,
    pub(super) sample_passes: usize,
    /// Pictures that it drew itself.
    pub(super) images: usize,
    /// Where it diverged, if it did.
    pub(super) diverged: Option<String>,
}

/// One micro-batch.
struct Batch<'a> {
    noisy: Vec<f32>,
    target: Vec<f32>,
    times: Vec<f32>,
    texts: Vec<&'a TextEmbedding>,
    /// Its step, and its first unit.
    place: (usize, usize),
    /// The set's number of each sample, times the weight of its timestep for the weighted loss.
    values: Vec<f32>,
}

impl Fit<'_> {
    /// Samples that a step sends through the network.
    fn passes_a_step(&self) -> usize {
        // With guidance, and that is how they draw, DDPO and SPO ask twice for each.
        let guided = self.online.is_some() && self.recipe.generate.guidance_scale > 1.0;
        let rows = match self.loss {
            // One prediction for both of a pair.
            Loss::Spo => step_aware::pairs_a_step(self.recipe.train.batch),
            _ => self.units_a_step() * self.set.unit_length(),
        };
        rows * if guided { 2 } else { 1 }
    }

    fn units_a_step(&self) -> usize {
        (self.recipe.train.batch / self.set.unit_length()).max(1)
    }

    /// Samples of a pass.
    fn micro_batch(&self) -> Result<usize> {
        let options = generate::options(&self.recipe.generate, self.model)?;
        let [_, h, w] = self.model.latent_shape(options.height, options.width);
        Ok(self.recipe.micro_batch(h * w))
    }

    /// Trains from the base model, or from where it was stopped, and shows the denoiser after each of
    /// `points` steps. A training that diverges ends there, and its cost says so.
    ///
    /// A look that was stopped, or came just before a stop, is asked for again.
    ///
    /// # Errors
    /// When it is interrupted, or `look` fails; the state is kept then.
    pub(super) fn fit(
        &self,
        points: &[usize],
        look: &mut dyn FnMut(usize, &Denoiser, &Cost) -> Result<()>,
    ) -> Result<Cost> {
        let section = &self.recipe.train;
        let device = Device::flex().autodiff();
        let config = AdamWConfig {
            beta1: section.beta1,
            beta2: section.beta2,
            eps: section.eps,
            weight_decay: section.weight_decay,
        };
        let mut adam = AdamW::new(config, section.ema_decay);
        let sampler = if self.online.is_some() { online::iteration(self)? } else { Vec::new() };
        let (mut position, mut saved) = state::restore(self.state, &mut adam)?;
        if !self.can_go_on(position.step, sampler.len())? {
            (position, saved) = Default::default();
            adam = AdamW::new(config, section.ema_decay);
        }
        let saved = saved.map(|tensors| (self.state, tensors));
        let mut unet = network::start(self.recipe, self.start, saved)?;
        let mut guard = NanGuard::new(section.max_nonfinite_steps);
        (guard.skipped, guard.consecutive) = (position.skipped, position.consecutive);
        let progress = self.run.context.progress;
        progress.start(self.name, self.steps as u64, "steps");
        progress.advance(position.step as u64);
        let mut cost = Cost {
            seconds: position.seconds,
            cpu_seconds: position.cpu_seconds,
            images: position.images,
            ..Cost::default()
        };
        let a_step = self.passes_a_step();
        let mut rollout: Option<Drawn> = None;
        // It may have been stopped while it was looked at; who looks knows what was seen.
        if position.step > 0 && points.contains(&position.step) {
            (cost.skipped, cost.sample_passes) = (guard.skipped, position.step * a_step);
            look(position.step, &network::snapshot(self.recipe, self.start, &unet, &adam)?, &cost)?;
        }
        let mut on_disk = position.step;
        for step in position.step..self.steps {
            let begins = sampler.is_empty() || step.is_multiple_of(sampler.len());
            // What is drawn from here on belongs to these weights.
            if !sampler.is_empty() && begins && step > on_disk {
                self.save(step, &cost, &guard, &unet, &adam)?;
                on_disk = step;
            }
            let before = cost.clone();
            let (start, worked) = (Instant::now(), cpu_seconds());
            let drawn = match self.online.as_ref().filter(|_| begins || rollout.is_none()) {
                None => Ok(()),
                Some(online) => {
                    online.draw(self, &sampler, step / sampler.len(), &unet).map(|drawn| {
                        // Those of an iteration that was begun before were counted then.
                        cost.images += if begins { drawn.images() } else { 0 };
                        rollout = Some(drawn);
                    })
                }
            };
            let updated = drawn.and_then(|()| {
                let drawn = self.online.as_ref().zip(rollout.as_ref());
                let drawn = drawn.map(|(online, drawn)| (online, drawn, sampler.as_slice()));
                self.update(step, &device, drawn, &mut unet, &mut adam, &mut guard)
            });
            cost.seconds += start.elapsed().as_secs_f64();
            cost.cpu_seconds += cpu_seconds() - worked;
            cost.skipped = guard.skipped;
            cost.sample_passes = (step + 1) * a_step;
            match updated {
                Err(PipelineError::Nan(stop)) => {
                    let why = format!("diverged at step {}", stop.step);
                    let name = self.name;
                    progress.note(&format!("{name}: {why}; the comparison goes on without it"));
                    cost.diverged = Some(why);
                    Shelf::beside(self.state).clear();
                    return Ok(cost);
                }
                Err(PipelineError::Interrupted) => {
                    if step > on_disk {
                        self.save(step, &before, &guard, &unet, &adam)?;
                    }
                    return Err(PipelineError::Interrupted);
                }
                other => other?,
            }
            progress.advance(1);
            if points.contains(&(step + 1)) {
                // First, since a look may take as long as the training and be stopped.
                self.save(step + 1, &cost, &guard, &unet, &adam)?;
                on_disk = step + 1;
                let now = network::snapshot(self.recipe, self.start, &unet, &adam)?;
                look(step + 1, &now, &cost)?;
            }
        }
        cost.sample_passes = self.steps * a_step;
        Shelf::beside(self.state).clear();
        Ok(cost)
    }

    /// Whether a state goes with what is on disk: within an iteration of `length` steps it needs the
    /// pictures that were drawn by the weights at its beginning.
    fn can_go_on(&self, step: usize, length: usize) -> Result<bool> {
        match &self.online {
            Some(online) if !step.is_multiple_of(length) => online.has_drawn(self, step / length),
            _ => Ok(true),
        }
    }

    fn save(
        &self,
        step: usize,
        cost: &Cost,
        guard: &NanGuard,
        unet: &Denoiser,
        adam: &AdamW,
    ) -> Result<()> {
        let position = Position {
            step,
            updates: adam.steps,
            seconds: cost.seconds,
            cpu_seconds: cost.cpu_seconds,
            skipped: guard.skipped,
            consecutive: guard.consecutive,
            images: cost.images,
            ..Position::default()
        };
        state::save(self.state, position, &network::tensors(self.recipe, unet), adam)
    }

    fn update(
        &self,
        step: usize,
        device: &Device,
        drawn: Option<(&Online<'_>, &Drawn, &[StochasticStep])>,
        unet: &mut Denoiser,
        adam: &mut AdamW,
        guard: &mut NanGuard,
    ) -> Result<()> {
        let section = &self.recipe.train;
        let mut grads = GradMap::new();
        let mut loss = 0.0;
        let mut add = |value: Tensor<1>, unet: &Denoiser| {
            loss += f64::from(weights::to_vec(value.clone())[0]);
            optimizer::collect(unet, value.backward(), &mut grads);
        };
        let mut picks = Vec::new();
        if let Some((online, drawn, sampler)) = drawn {
            let phase = step % sampler.len();
            let n = drawn.rows(section.batch);
            let micro = (self.micro_batch()? / 2).max(1);
            for from in (0..n).step_by(micro) {
                self.run.context.check()?;
                let range = from..(from + micro).min(n);
                let network = (&*unet, device);
                add(drawn.loss(online, self, sampler, phase, range, network)?, unet);
            }
        } else {
            let units = self.units_a_step();
            picks = self.draws().picks(step, units, self.set.units.len());
            let micro = (self.micro_batch()? / self.set.unit_length()).max(1);
            for from in (0..units).step_by(micro) {
                self.run.context.check()?;
                let batch = self.batch(step, &picks, from..(from + micro).min(units));
                add(self.loss(&batch, units, unet, device)?, unet);
            }
        }
        let shape = match section.lr_schedule {
            LrSchedule::Constant => LrShape::Constant,
            LrSchedule::Cosine => LrShape::Cosine,
        };
        let lr = learning_rate(self.learning_rate, shape, section.warmup_steps, step, self.steps);
        let norm = optimizer::norm(&grads);
        let ids: Vec<String> = picks
            .iter()
            .flat_map(|&unit| &self.set.units[unit].samples)
            .map(|&place| self.set.samples[place].id.clone())
            .collect();
        if guard.admit(step, loss, norm, &ids)? {
            let scale = (section.max_grad_norm / (norm + 1e-6)).min(1.0);
            *unet = adam.step(unet.clone(), &grads, lr, scale);
        }
        Ok(())
    }

    /// All methods see the same draws of timesteps and noise.
    fn draws(&self) -> Draws {
        Draws::new(self.run.recipe.seed)
    }

    /// Draws `range` of a step's units; the samples of a unit share timestep, noise and dropout.
    fn batch(&self, step: usize, picks: &[usize], range: std::ops::Range<usize>) -> Batch<'_> {
        let section = &self.recipe.train;
        let schedule = &self.model.schedule;
        let kind = schedule.prediction_type;
        let mut batch = Batch {
            place: (step, range.start),
            noisy: Vec::new(),
            target: Vec::new(),
            times: Vec::new(),
            texts: Vec::new(),
            values: Vec::new(),
        };
        let draws = self.draws();
        for i in range {
            let unit = &self.set.units[picks[i]];
            let size = self.set.samples[unit.samples[0]].latents.len();
            let draw = draws.sample(section, schedule, (step, i), size);
            let alpha = schedule.alpha_cumprod(draw.timestep as i64);
            let factor = match (self.loss, section.min_snr_gamma) {
                (Loss::Weighted, Some(gamma)) => min_snr(kind, alpha, gamma),
                _ => 1.0,
            };
            for (&place, value) in unit.samples.iter().zip(&unit.values) {
                let sample = &self.set.samples[place];
                diffuse(
                    kind,
                    alpha,
                    &sample.latents,
                    &draw.noise,
                    &mut batch.noisy,
                    &mut batch.target,
                );
                batch.times.push(draw.timestep as f32);
                let text = match draw.wording {
                    Wording::Empty => "",
                    Wording::Expanded => &sample.expanded,
                    Wording::Original => &sample.original,
                };
                batch.texts.push(&self.set.texts[text]);
                batch.values.push(value * factor);
            }
        }
        batch
    }

    /// The loss of a micro-batch as its share of a step of `units` units.
    fn loss(
        &self,
        batch: &Batch<'_>,
        units: usize,
        unet: &Denoiser,
        device: &Device,
    ) -> Result<Tensor<1>> {
        let options = generate::options(&self.recipe.generate, self.model)?;
        let [c, h, w] = self.model.latent_shape(options.height, options.width);
        let b = batch.times.len();
        let latents = |data: &[f32], device: &Device| {
            Tensor::<4>::from_data(TensorData::new(data.to_vec(), [b, c, h, w]), device)
        };
        let predict = |unet: &Denoiser, device: &Device| {
            let size = [options.height, options.width];
            let condition = self.model.condition(&batch.texts, size, device);
            let latents = latents(&batch.noisy, device);
            unet.predict(Input { latents, times: &batch.times, condition: &condition })
        };
        let reference = || weights::to_vec(predict(&self.model.denoiser, &self.model.device));
        let compute = || host_errors(&reference(), &batch.target, b);
        let before = || match self.reference {
            Some(known) => known.get_or(batch.place, compute),
            None => compute(),
        };
        let prediction = predict(unet, device);
        let target = latents(&batch.target, device);
        let samples = units * self.set.unit_length();
        let values = batch.values.as_slice();
        Ok(match self.loss {
            Loss::Weighted => weighted_mse(prediction, target, values, samples),
            Loss::Dpo(beta) => dpo(squared_errors(prediction, target), &before(), beta, units),
            Loss::Kto(beta) => {
                let liked: Vec<bool> = values.iter().map(|v| *v > 0.5).collect();
                kto(squared_errors(prediction, target), &before(), &liked, beta, samples)
            }
            Loss::Mapo => {
                let timesteps = self.model.schedule.num_train_timesteps() as f64;
                let config = MapoConfig { timesteps, ..MapoConfig::default() };
                mapo(squared_errors(prediction, target), config, units)
            }
            Loss::Lair(beta) => {
                lair(squared_errors(prediction, target), &before(), values, beta, samples)
            }
            Loss::Nft(beta) => nft(prediction, target, &reference(), values, beta, samples),
            Loss::Awm => {
                let reference = reference();
                let before = host_errors(&reference, &batch.target, b);
                let distances = squared_errors(prediction.clone(), latents(&reference, device));
                let errors = squared_errors(prediction, target);
                awm(errors, &before, distances, values, AwmConfig::default(), samples)
            }
            // Learned from what it draws, in `update`.
            Loss::Ddpo | Loss::Spo => squared_errors(prediction, target).sum(),
        })
    }
}
