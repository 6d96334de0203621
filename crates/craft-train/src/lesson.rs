//! One step of training on a set: which samples, at which timesteps, with which noise, and their gradients.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::optimizer::GradMap;
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use craft_core::recipe::TrainSection;
use craft_model::Denoiser;
use craft_nn::weights;

use crate::draws::{Draws, Reads};
use crate::error::{Result, TrainError};
use crate::fit::{Pass, State, Task};
use crate::networks::{Networks, averaged};
use crate::objective::{Objective, Predicted, Reference, errors_of};
use crate::pass::{Frame, Rows};
use crate::set::{Set, Text};

/// Errors of the frozen reference by step and place of the micro-batch: they depend on the draws alone, so that trainings
/// which differ in nothing but the learning rate share them.
#[derive(Debug, Default)]
pub struct References(Mutex<BTreeMap<(usize, usize), Vec<f32>>>);

impl References {
    fn get_or(&self, place: (usize, usize), compute: impl FnOnce() -> Vec<f32>) -> Vec<f32> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(place).or_insert_with(compute).clone()
    }
}

/// Training on a set.
pub struct Lesson<'a> {
    /// How samples are drawn for a step.
    pub section: &'a TrainSection,
    /// The seed of the draws. Methods and arms of one seed see the same.
    pub seed: u64,
    /// Pictures and device.
    pub frame: &'a Frame,
    /// What is learned from.
    pub set: &'a Set,
    /// What is minimised.
    pub objective: &'a dyn Objective,
    /// The denoiser that drew the samples, frozen, where the objective asks for a reference.
    pub reference: &'a Denoiser,
    /// What other trainings know of the reference.
    pub known: Option<&'a References>,
    /// Set to stop between two micro-batches.
    pub stop: &'a AtomicBool,
    /// The average of the weights before this step, where the objective asks for it.
    pub average: Option<Networks>,
}

/// One micro-batch on the host.
struct Batch<'a> {
    noisy: Vec<f32>,
    target: Vec<f32>,
    times: Vec<f32>,
    texts: Vec<&'a Text>,
    /// The set's number of each sample, times the weight of its timestep where that is asked for.
    values: Vec<f32>,
}

impl Lesson<'_> {
    /// Units of a step.
    pub fn units_a_step(&self) -> usize {
        (self.section.batch / self.set.unit_length()).max(1)
    }

    /// Samples that a step sends through the network.
    pub fn samples_a_step(&self) -> usize {
        self.units_a_step() * self.set.unit_length()
    }

    /// Draws `range` of a step's units; the samples of a unit share timestep, noise and text dropout.
    fn batch(&self, step: usize, picks: &[usize], range: Range<usize>) -> Batch<'_> {
        let process = self.frame.process.as_ref();
        let draws = Draws::new(self.seed);
        let mut batch = Batch {
            noisy: Vec::new(),
            target: Vec::new(),
            times: Vec::new(),
            texts: Vec::new(),
            values: Vec::new(),
        };
        for i in range {
            let unit = &self.set.units[picks[i]];
            let size = self.set.samples[unit.samples[0]].latents.len();
            let draw = draws.sample(self.section, process.levels(), (step, i), size);
            let level = process.level(draw.timestep);
            let gamma = self.section.min_snr_gamma.filter(|_| self.objective.weighs_timesteps());
            let factor = gamma.map_or(1.0, |gamma| process.min_snr(level, gamma));
            for (&place, value) in unit.samples.iter().zip(&unit.values) {
                let sample = &self.set.samples[place];
                let Batch { noisy, target, .. } = &mut batch;
                process.noised(level, &sample.latents, &draw.noise, noisy);
                process.target(level, &sample.latents, &draw.noise, target);
                batch.times.push(level.time as f32);
                batch.texts.push(self.set.text(match draw.reads {
                    Reads::Empty => "",
                    Reads::Expanded => &sample.expanded,
                    Reads::Original => &sample.original,
                }));
                batch.values.push(value * factor);
            }
        }
        batch
    }

    fn rows<'b>(batch: &'b Batch<'_>) -> Rows<'b> {
        Rows { latents: &batch.noisy, times: &batch.times, texts: &batch.texts, guidance: None }
    }

    /// Adds the gradients of one micro-batch, the `place`-th of the step's units on, and returns its part of the loss.
    fn accumulate(
        &self,
        networks: &Networks,
        place: (usize, usize),
        batch: &Batch<'_>,
        grads: &mut GradMap,
    ) -> f64 {
        let rows = Self::rows(batch);
        let samples = batch.times.len();
        let predicted = || self.frame.predict_frozen(self.reference, &rows);
        let (mut reference, mut reference_errors) = (Vec::new(), Vec::new());
        match self.objective.reference() {
            Reference::None => {}
            Reference::Errors => {
                let compute = || errors_of(&predicted(), &batch.target, samples);
                reference_errors = match self.known {
                    Some(known) => known.get_or(place, compute),
                    None => compute(),
                };
            }
            Reference::Prediction => {
                reference = predicted();
                reference_errors = errors_of(&reference, &batch.target, samples);
            }
        }
        let average = match &self.average {
            Some(networks) => weights::to_vec(self.frame.predict(networks, &rows)),
            None => Vec::new(),
        };
        let [c, h, w] = self.frame.shape;
        let target = TensorData::new(batch.target.clone(), [samples, c, h, w]);
        let target = Tensor::<4>::from_data(target, &self.frame.device);
        let loss = |prediction| {
            self.objective.loss(&Predicted {
                prediction,
                target,
                values: &batch.values,
                reference_errors: &reference_errors,
                reference: &reference,
                average: &average,
                units: self.units_a_step(),
                samples: self.samples_a_step(),
                timesteps: self.frame.process.levels(),
            })
        };
        self.frame.backward(networks, &rows, self.section.gradient_checkpointing, loss, grads)
    }

    /// Stops here when asked to.
    pub(crate) fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(TrainError::Interrupted) } else { Ok(()) }
    }
}

impl Task<Networks> for Lesson<'_> {
    fn prepare(&mut self, state: &State<Networks>) -> Result<()> {
        if self.objective.wants_average() {
            self.average = Some(averaged(state.module().clone(), &state.optimizer).valid());
        }
        Ok(())
    }

    fn pass(&mut self, step: usize, networks: &Networks) -> Result<Pass> {
        let units = self.units_a_step();
        let picks = Draws::new(self.seed).picks(step, units, self.set.units.len());
        let micro = (self.frame.micro_batch / self.set.unit_length()).max(1);
        let mut pass = Pass::default();
        for from in (0..units).step_by(micro) {
            self.check()?;
            let batch = self.batch(step, &picks, from..(from + micro).min(units));
            pass.loss += self.accumulate(networks, (step, from), &batch, &mut pass.grads);
        }
        let places = picks.iter().flat_map(|&unit| &self.set.units[unit].samples);
        pass.samples = places.map(|&place| self.set.samples[place].id.clone()).collect();
        Ok(pass)
    }
}
