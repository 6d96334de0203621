//! Methods that draw as they go: the model draws, its pictures are scored, and it learns from its own steps,
//! again and again.
//!
//! An iteration is as many training steps as the sampler has. What it draws belongs to the weights at its beginning, so
//! these are put on disk, and what was drawn is kept batch by batch until the iteration is over.

mod continuations;
mod shelf;
pub mod stochastic;
mod trajectories;

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use self::stochastic::{StochasticStep, stochastic_steps};
use burn::tensor::{Tensor, TensorData};
use craft_core::{Key, Recipe};
use craft_model::Model;
use craft_model::sample::{DrawOptions, decode};
use craft_nn::weights;
use craft_store::RgbImage;

use crate::draws::picks;
use crate::error::{Result, TrainError};
use crate::fit::{Pass, State, Task};
use crate::methods::Drawing;
use crate::networks::Networks;
use crate::pass::{Frame, Rows, plain};
use crate::set::{Set, Text};
use continuations::Continuations;
use shelf::Shelf;
use trajectories::Trajectories;

pub use continuations::images as continuations_scored;

/// Who scores what is drawn.
pub trait Scorer {
    /// The weighted total of each picture under its prompt; NaN where a score is missing.
    ///
    /// # Errors
    /// Those of scoring.
    fn totals(&self, pictures: &[RgbImage], prompts: &[&str]) -> Result<Vec<f64>>;
}

/// What a training draws with and who scores it.
pub struct Online<'a> {
    drawing: Drawing,
    recipe: &'a Recipe,
    /// The base model, whose denoiser is the frozen reference.
    model: &'a Model,
    frame: &'a Frame,
    options: DrawOptions,
    /// The training prompts.
    set: &'a Set,
    scorer: &'a dyn Scorer,
    /// What the recipe steers away from.
    negative: Text,
    steps: Vec<StochasticStep>,
    shelf: Shelf,
    stop: &'a AtomicBool,
    drawn: Option<Drawn>,
    images: &'a Cell<usize>,
}

/// What was drawn in an iteration.
enum Drawn {
    Trajectories(Trajectories),
    Continuations(Continuations),
}

impl Drawn {
    /// Pictures that were scored.
    fn images(&self) -> usize {
        match self {
            Self::Trajectories(drawn) => drawn.images(),
            Self::Continuations(drawn) => drawn.images(),
        }
    }
}

/// What a training that draws needs beside its set.
pub struct Surroundings<'a> {
    /// The method's own recipe.
    pub recipe: &'a Recipe,
    /// The base model.
    pub model: &'a Model,
    /// Its pictures.
    pub frame: &'a Frame,
    /// How they are drawn.
    pub options: DrawOptions,
    /// Who scores them.
    pub scorer: &'a dyn Scorer,
    /// Where the state of the training is kept; what is drawn lies beside.
    pub state: &'a Path,
    /// Set to stop between two predictions.
    pub stop: &'a AtomicBool,
    /// Counts pictures that were drawn and scored.
    pub images: &'a Cell<usize>,
}

impl<'a> Online<'a> {
    /// A training over prompts.
    ///
    /// # Errors
    /// When the sampler has no step that can be learned from; `name` is the method's in the message.
    pub fn new(
        drawing: Drawing,
        name: &str,
        set: &'a Set,
        around: Surroundings<'a>,
    ) -> Result<Self> {
        let Surroundings { recipe, model, frame, options, scorer, state, stop, images } = around;
        let steps = stochastic_steps(&model.schedule, recipe.generate.steps, 1.0)
            .map_err(|error| TrainError::Usage(format!("{name}: generate.steps: {error}")))?;
        if steps.iter().all(|step| step.std == 0.0) {
            return Err(TrainError::Usage(format!(
                "{name}: no step of the sampler has noise with generate.steps = {}; take more steps",
                recipe.generate.steps
            )));
        }
        Ok(Self {
            drawing,
            recipe,
            model,
            frame,
            options,
            set,
            scorer,
            negative: Text::negative(model, recipe.generate.negative()),
            steps,
            shelf: Shelf::beside(state),
            stop,
            drawn: None,
            images,
        })
    }

    /// Rows that a step sends through the network; with guidance, and that is how they draw, each goes twice.
    pub fn passes_a_step(&self) -> usize {
        let rows = match self.drawing {
            // One prediction for both of a pair.
            Drawing::Continuations => continuations::pairs_a_step(self.recipe.train.batch),
            Drawing::Trajectories => self.recipe.train.batch.max(1),
        };
        rows * if self.guidance().is_some() { 2 } else { 1 }
    }

    /// What was drawn before, on disk.
    pub fn on_shelf(&self) -> OnShelf {
        let parts = match self.drawing {
            Drawing::Continuations => vec![continuations::PART.to_owned()],
            Drawing::Trajectories => trajectories::part_names(self).collect(),
        };
        OnShelf { shelf: self.shelf.clone(), length: self.steps.len(), parts }
    }

    fn guidance(&self) -> Option<(&Text, f64)> {
        let scale = self.options.guidance_scale;
        (scale > 1.0).then_some((&self.negative, scale))
    }

    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(TrainError::Interrupted) } else { Ok(()) }
    }

    /// The key of all that is drawn.
    fn key(&self) -> Key {
        Key::new(self.recipe.seed).stage("online")
    }

    /// The prompts of an iteration, by their places in the set.
    fn prompts(&self, iteration: usize, n: usize) -> Vec<usize> {
        picks(&self.key(), iteration, n, self.set.units.len())
    }

    /// The text of a prompt of the set.
    fn text(&self, prompt: usize) -> &Text {
        self.set.text(&self.set.samples[prompt].original)
    }

    /// Guided predictions of networks without gradients, flat.
    fn predict(
        &self,
        networks: &Networks,
        latents: &[&[f32]],
        time: f64,
        texts: &[&Text],
    ) -> Vec<f32> {
        let (latents, times) = (latents.concat(), vec![time as f32; latents.len()]);
        let guidance = self.guidance();
        let rows = Rows { latents: &latents, times: &times, texts, guidance };
        weights::to_vec(self.frame.predict(networks, &rows))
    }

    /// Those of the frozen reference.
    fn predict_frozen(&self, latents: &[&[f32]], time: f64, texts: &[&Text]) -> Vec<f32> {
        let (latents, times) = (latents.concat(), vec![time as f32; latents.len()]);
        let guidance = self.guidance();
        let rows = Rows { latents: &latents, times: &times, texts, guidance };
        self.frame.predict_frozen(&self.model.denoiser, &rows)
    }

    /// Totals of final latents under the prompts at these places.
    fn totals(&self, latents: Vec<Vec<f32>>, prompts: &[usize]) -> Result<Vec<f64>> {
        let mut pictures = Vec::with_capacity(latents.len());
        for part in latents.chunks(self.options.batch.max(1)) {
            self.check()?;
            let drawn = decode(self.model, part.to_vec(), &self.options);
            pictures.extend(drawn.into_iter().map(|d| d.image));
        }
        let texts: Vec<&str> =
            prompts.iter().map(|p| self.set.samples[*p].original.as_str()).collect();
        self.scorer.totals(&pictures, &texts)
    }
}

/// What a training that draws has on disk.
#[derive(Clone, Debug)]
pub struct OnShelf {
    shelf: Shelf,
    /// Steps of an iteration.
    length: usize,
    parts: Vec<String>,
}

impl OnShelf {
    /// Whether a state goes with it: within an iteration it needs what was drawn by the weights at its beginning.
    pub fn holds(&self, step: usize) -> bool {
        let iteration = step / self.length;
        step.is_multiple_of(self.length)
            || self.parts.iter().all(|part| self.shelf.has(iteration, part))
    }

    /// Removes it, at the end of the training.
    pub fn clear(&self) {
        self.shelf.clear();
    }
}

/// Host values as a tensor of the shape of another one, on its device.
fn like(output: &Tensor<4>, values: Vec<f32>) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values, output.dims()), &output.device())
}

impl Task<Networks> for Online<'_> {
    fn prepare(&mut self, state: &State<Networks>) -> Result<()> {
        let begins = state.done.is_multiple_of(self.steps.len());
        if !begins && self.drawn.is_some() {
            return Ok(());
        }
        let iteration = state.done / self.steps.len();
        let networks = plain(state.module());
        let drawn = match self.drawing {
            Drawing::Trajectories => {
                Drawn::Trajectories(Trajectories::draw(self, iteration, &networks)?)
            }
            Drawing::Continuations => {
                Drawn::Continuations(Continuations::draw(self, iteration, &networks)?)
            }
        };
        // Those of an iteration that was begun before were counted then.
        let new = if begins { drawn.images() } else { 0 };
        self.images.set(self.images.get() + new);
        self.drawn = Some(drawn);
        Ok(())
    }

    fn keeps(&self, done: usize) -> bool {
        done.is_multiple_of(self.steps.len())
    }

    fn pass(&mut self, step: usize, networks: &Networks) -> Result<Pass> {
        let mut pass = Pass::default();
        let phase = step % self.steps.len();
        let micro = (self.frame.micro_batch / 2).max(1);
        let n = match &self.drawn {
            None => 0,
            Some(Drawn::Trajectories(drawn)) => drawn.images(),
            Some(Drawn::Continuations(drawn)) => drawn.rows(self.recipe.train.batch),
        };
        for from in (0..n).step_by(micro) {
            self.check()?;
            let range = from..(from + micro).min(n);
            pass.loss += match &self.drawn {
                None => 0.0,
                Some(Drawn::Trajectories(drawn)) => {
                    drawn.accumulate(self, phase, range, networks, &mut pass.grads)
                }
                Some(Drawn::Continuations(drawn)) => {
                    drawn.accumulate(self, phase, range, networks, &mut pass.grads)
                }
            };
        }
        Ok(pass)
    }
}
