//! What a pass of a recipe's training takes, before there is anything to train on.

use std::sync::atomic::AtomicBool;

use craft_core::{Key, Recipe};
use craft_model::Model;

use crate::error::Result;
use crate::fit::Task;
use crate::lesson::Lesson;
use crate::methods;
use crate::networks::Networks;
use crate::pass::Frame;
use crate::set::{Sample, Set, Texts, Unit};
use crate::settings::Settings;

/// A forward and a backward pass over random latents, as the recipe's method does them.
pub struct Probe {
    recipe: Recipe,
    frame: Frame,
    set: Set,
    networks: Networks,
    reference: craft_model::Denoiser,
}

impl Probe {
    /// The networks of a model, ready to be trained on made-up samples.
    ///
    /// # Errors
    /// When there is no such method, or factors do not fit the model.
    pub fn new(recipe: &Recipe, model: Model) -> Result<Self> {
        methods::of_recipe(recipe)?;
        let frame = Frame::of(recipe, &model);
        let [_, h, w] = frame.shape;
        // Large pictures one at a time; small ones in numbers that are worth a measurement.
        let n = frame.micro_batch.min((4096 / (h * w).max(1)).max(1));
        let mut stream = Key::new(recipe.seed).stage("measure").stream();
        let samples: Vec<Sample> = (0..n)
            .map(|i| Sample {
                id: i.to_string(),
                latents: stream.standard_normals(frame.size()),
                original: String::new(),
                expanded: String::new(),
            })
            .collect();
        let units = (0..n).map(|i| Unit { samples: vec![i], values: vec![1.0] }).collect();
        let set = Set::new(samples, units, &model, &Texts::default());
        let mut recipe = recipe.clone();
        recipe.train.batch = n;
        let reference = model.denoiser.clone();
        let mut optimizer = Settings::of(&recipe.train).new_optimizer();
        let networks = Networks::start(&recipe, Networks::of(model), None, &mut optimizer)?;
        Ok(Self { recipe, frame, set, networks, reference })
    }

    /// Samples of a pass.
    pub fn samples(&self) -> usize {
        self.set.samples.len()
    }

    /// Does the pass.
    ///
    /// # Errors
    /// None that a recipe's training would not have.
    pub fn pass(&self) -> Result<()> {
        let objective = methods::of_recipe(&self.recipe)?.objective(&self.recipe.train);
        let never = AtomicBool::new(false);
        let mut lesson = Lesson {
            section: &self.recipe.train,
            seed: self.recipe.seed,
            frame: &self.frame,
            set: &self.set,
            objective: objective.as_ref(),
            reference: &self.reference,
            known: None,
            stop: &never,
            average: None,
        };
        lesson.pass(0, &self.networks).map(|_| ())
    }
}
