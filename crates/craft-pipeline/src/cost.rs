//! What a run costs: memory before it is spent, disk, and time from one measured step.

use std::time::Instant;

use burn::tensor::{Tensor, TensorData};
use craft_core::recipe::{Precision, Recipe, TrainMode};
use craft_nn::lora::Pair;
use craft_nn::weights;

use crate::error::Result;
use crate::run::cpu_seconds;
use crate::stages::generate;
use craft_model::denoiser::Input;
use craft_model::model::Model;
use craft_train::methods;
use craft_train::networks::{Shapes, fresh_factors};
use craft_train::objective::Reference;
use craft_train::probe::Probe;

const FLOAT: u64 = 4;

/// How much of what a recipe does.
pub(crate) struct Work {
    train_prompts: usize,
    eval_prompts: usize,
    /// Pictures drawn to choose from.
    pub(crate) candidates: usize,
    /// Pictures drawn to compare models.
    evaluated: usize,
    /// Trainings: the recipe's in each round, and the random control.
    arms: usize,
}

impl Work {
    pub(crate) fn of(recipe: &Recipe, train_prompts: usize, eval_prompts: usize) -> Self {
        let models = 2 + usize::from(recipe.control.enabled);
        let swept = recipe.sweep.factors.len() * recipe.sweep.prompts.min(eval_prompts);
        let swept = if recipe.sweep.enabled { swept } else { 0 };
        let evaluated = eval_prompts * recipe.evaluate.samples_per_prompt * models + swept;
        let rounds = if recipe.rounds.same_budget { 1 } else { recipe.rounds.count };
        let candidates = rounds * recipe.candidate_count(train_prompts);
        let arms = rounds + models - 2;
        Self { train_prompts, eval_prompts, candidates, evaluated, arms }
    }

    pub(crate) fn line(&self, recipe: &Recipe) -> String {
        format!(
            "{} training prompts, {} evaluation prompts, {} candidates, {} steps of {} samples, {} evaluation pictures",
            self.train_prompts,
            self.eval_prompts,
            self.candidates,
            recipe.train.steps,
            recipe.train.batch,
            self.evaluated
        )
    }
}

/// Memory of a training in bytes, by part.
pub(crate) struct Cost {
    /// Parameters of the denoiser, the text encoders and the autoencoder.
    parameters: [u64; 3],
    trainable: u64,
    weights: u64,
    gradients: u64,
    optimizer: u64,
    activations: u64,
    micro_batch: usize,
    data: u64,
    /// Of drawing: 32-bit weights of all parts, and at most so much of feature maps.
    drawing: [u64; 2],
    /// Pictures drawn at once.
    drawn: usize,
    /// What training leaves on the disk.
    checkpoints: u64,
    available: Option<u64>,
}

fn count(shapes: &Shapes) -> u64 {
    shapes.values().map(|shape| shape.iter().product::<usize>() as u64).sum()
}

fn gib(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib >= 1.0 { format!("{gib:.1} GiB") } else { format!("{:.0} MiB", gib * 1024.0) }
}

fn million(n: u64) -> String {
    format!("{:.3} M", n as f64 / 1e6)
}

/// Seconds for people.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

impl Cost {
    /// # Errors
    /// See [`fresh_factors`].
    pub(crate) fn of(recipe: &Recipe, model: &Model, work: &Work) -> Result<Self> {
        let section = &recipe.train;
        let options = generate::options(&recipe.generate, model)?;
        let [c, h, w] = model.latent_shape(options.height, options.width);
        let parts = craft_model::lora::parts(model);
        let text = parts[1..].iter().map(|(_, shapes)| count(shapes)).sum();
        let parameters = [count(&parts[0].1), text, count(&weights::shapes(&model.vae))];
        let full = section.mode == TrainMode::Full;
        let (trainable, trains_text) = if full {
            (parameters[0], false)
        } else {
            let adapter = fresh_factors(&section.lora, recipe.seed, &parts)?;
            let pairs = adapter.components.values().flat_map(|pairs| pairs.values());
            let size = |pair: &Pair| (pair.down.data.len() + pair.up.data.len()) as u64;
            (pairs.map(size).sum(), section.lora.text_encoders)
        };
        let narrow = section.precision == Precision::Bf16;
        let base = parameters[0] * if narrow { FLOAT / 2 } else { FLOAT };
        let factors = if full { 0 } else { trainable * FLOAT };
        let text_weights = if trains_text { parameters[1] * FLOAT } else { 0 };
        // Factors lie beside the frozen reference, all parameters do not.
        let objective = methods::of_recipe(recipe)?.objective(section);
        let compares = full && objective.reference() != Reference::None;
        let reference = if compares { parameters[0] * FLOAT } else { 0 };
        // Two moments; the average and the master copies where there are some.
        let copies = 2 + u64::from(section.ema_decay.is_some()) + u64::from(full && narrow);
        let kept = model.denoiser.kept_values(h, w);
        let rows = if options.guidance_scale > 1.0 { 2 } else { 1 };
        let maps = (kept.by_block * options.batch * rows) as u64 * FLOAT;
        let kept = if section.gradient_checkpointing { kept.by_block } else { kept.whole };
        let micro_batch = recipe.micro_batch(h * w);
        let samples = recipe.select.max_samples.min(work.candidates);
        let embedding = model.tokenizer.length() * context_width(model);
        let state = trainable * FLOAT * (1 + copies);
        Ok(Self {
            parameters,
            trainable,
            weights: base + factors + text_weights + reference,
            gradients: trainable * FLOAT,
            optimizer: trainable * FLOAT * copies,
            activations: (kept * micro_batch) as u64 * FLOAT,
            micro_batch,
            data: (samples * (c * h * w + 2 * embedding)) as u64 * FLOAT,
            checkpoints: work.arms as u64 * (state + if full { base } else { factors }),
            drawing: [parameters.iter().sum::<u64>() * FLOAT, maps],
            drawn: options.batch,
            available: craft_store::space::available_memory(),
        })
    }

    fn total(&self) -> u64 {
        self.weights + self.gradients + self.optimizer + self.activations + self.data
    }

    /// What is wrong with the plan on this machine.
    pub(crate) fn warning(&self) -> Option<String> {
        let available = self.available?;
        let drawing = self.drawing.iter().sum();
        if drawing > available && drawing > self.total() {
            return Some(format!(
                "drawing needs up to {}, and {} are available: lower generate.batch, generate.height or generate.width",
                gib(drawing),
                gib(available)
            ));
        }
        Some(available).filter(|available| self.total() > *available)?;
        Some(format!(
            "training needs about {}, and {} are available: lower train.micro_batch, or set train.gradient_checkpointing = true, train.mode = \"lora\" or train.precision = \"bf16\"",
            gib(self.total()),
            gib(available)
        ))
    }

    pub(crate) fn lines(&self, disk: u64) -> String {
        let [unet, text, vae] = self.parameters.map(million);
        let available = self.available.map(gib).unwrap_or_else(|| "an unknown amount".to_owned());
        format!(
            "parameters: {unet} in the denoiser, {text} in text encoders, {vae} in the autoencoder; {} are trained\n\
             memory of training: {} = weights {}, gradients {}, optimizer {}, activations {} ({} pictures at a time), latents and texts {}; {available} available\n\
             memory of drawing: up to {} = weights {} (32 bits, whatever training takes), feature maps up to {} ({} pictures at a time); decoding on top\n\
             disk: {} of pictures and tables, {} of checkpoints and results",
            million(self.trainable),
            gib(self.total()),
            gib(self.weights),
            gib(self.gradients),
            gib(self.optimizer),
            gib(self.activations),
            self.micro_batch,
            gib(self.data),
            gib(self.drawing.iter().sum()),
            gib(self.drawing[0]),
            gib(self.drawing[1]),
            self.drawn,
            gib(disk),
            gib(self.checkpoints),
        )
    }

    /// Measures one prediction and one training pass and says what they come to.
    ///
    /// # Errors
    /// See [`Probe::new`].
    pub(crate) fn time(&self, recipe: &Recipe, model: Model, work: &Work) -> Result<String> {
        let prediction = prediction_seconds(recipe, &model)?.clock;
        let pass = training_pass(recipe, model)?.clock;
        let rows = |scale: f64| if scale > 1.0 { 2.0 } else { 1.0 };
        let drawing = |pictures: usize, steps: usize, scale: f64| {
            (pictures * steps) as f64 * rows(scale) * prediction
        };
        let g = &recipe.generate;
        let candidates = drawing(work.candidates, g.steps, g.guidance_scale);
        let evaluation =
            drawing(work.evaluated, recipe.evaluate_steps(), recipe.evaluate_guidance_scale());
        let training = (work.arms * recipe.train.steps * recipe.train.batch) as f64 * pass;
        Ok(format!(
            "time: about {} = candidates {}, training {}, evaluation {}, from one prediction of {prediction:.3} s and one training pass of {pass:.3} s a picture; decoding and scoring come on top",
            duration(candidates + training + evaluation),
            duration(candidates),
            duration(training),
            duration(evaluation)
        ))
    }
}

/// Width of the denoiser's text embeddings.
fn context_width(model: &Model) -> usize {
    (0..model.unet_config.block_out_channels.len())
        .find_map(|level| model.unet_config.context(level))
        .unwrap_or(0)
}

/// What a forward and backward pass takes for one picture.
pub(crate) fn training_pass(recipe: &Recipe, model: Model) -> Result<Spent> {
    let probe = Probe::new(recipe, model)?;
    Ok(Spent::on(|| Ok(probe.pass()?))?.each(probe.samples()))
}

/// What one prediction takes for one picture.
pub(crate) fn prediction_seconds(recipe: &Recipe, model: &Model) -> Result<Spent> {
    let options = generate::options(&recipe.generate, model)?;
    let [c, h, w] = model.latent_shape(options.height, options.width);
    let n = options.batch.min((4096 / (h * w).max(1)).max(1));
    let texts = model.encode_texts(&[""]);
    let pixels = [options.height, options.width];
    let condition = model.condition(&vec![&texts[0]; n], pixels, &model.device);
    let zeros = TensorData::new(vec![0f32; n * c * h * w], [n, c, h, w]);
    let input = Tensor::<4>::from_data(zeros, &model.device);
    let times = vec![500.0; n];
    let spent = Spent::on(|| {
        weights::to_vec(model.denoiser.predict(Input {
            latents: input.clone(),
            times: &times,
            condition: &condition,
        }));
        Ok(())
    })?;
    Ok(spent.each(n))
}

/// Time of some work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Seconds of the clock, which other work on the machine lengthens.
    pub clock: f64,
    /// Seconds of all processors together.
    pub processors: f64,
}

impl Spent {
    /// Measures a pass. A short one is done twice and the second counts: the first finds memory cold.
    ///
    /// # Errors
    /// Those of the pass.
    pub fn on(mut pass: impl FnMut() -> Result<()>) -> Result<Self> {
        let mut once = || {
            let (start, worked) = (Instant::now(), cpu_seconds());
            pass()?;
            let processors = cpu_seconds() - worked;
            Ok(Self { clock: start.elapsed().as_secs_f64(), processors })
        };
        let first: Self = once()?;
        if first.clock < 1.0 { once() } else { Ok(first) }
    }

    /// Its share for one of `n`.
    pub fn each(self, n: usize) -> Self {
        self.times(1.0 / n.max(1) as f64)
    }

    /// So many times as much.
    pub fn times(self, factor: f64) -> Self {
        Self { clock: self.clock * factor, processors: self.processors * factor }
    }
}

impl std::iter::Sum for Spent {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            clock: a.clock + b.clock,
            processors: a.processors + b.processors,
        })
    }
}
