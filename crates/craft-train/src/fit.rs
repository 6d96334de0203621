//! The one training loop: gradients of a step, guard against NaN, clipping, update, average; state on disk, looks
//! along the way, and a stop that loses nothing.
//!
//! It knows no diffusion. What a step learns from is a [`Task`]; where state goes, what is shown, and when training
//! ends early is a [`Watch`].

use crate::guard::{NanGuard, NanStop};
use crate::optimizer::{self, AdamW, GradMap};
use burn::module::Module;

use crate::error::{Result, TrainError};
use crate::settings::Settings;

/// A training as it stands.
#[derive(Debug)]
pub struct State<M> {
    /// What is trained; away only while the optimizer has it, so that weights are changed in place.
    module: Option<M>,
    /// Its optimizer.
    pub optimizer: AdamW,
    /// Skipped updates.
    pub guard: NanGuard,
    /// Steps done.
    pub done: usize,
}

impl<M: Module> State<M> {
    /// The beginning of a training.
    pub fn new(module: M, settings: &Settings) -> Self {
        let guard = NanGuard::new(settings.max_nonfinite_steps);
        Self { module: Some(module), optimizer: settings.new_optimizer(), guard, done: 0 }
    }

    /// A training that goes on from `done` steps with a restored optimizer.
    pub fn resumed(module: M, optimizer: AdamW, settings: &Settings, done: usize) -> Self {
        let guard = NanGuard::new(settings.max_nonfinite_steps);
        Self { module: Some(module), optimizer, guard, done }
    }

    /// What is trained.
    ///
    /// # Panics
    /// Never: the module is away within [`update`] only.
    pub fn module(&self) -> &M {
        self.module.as_ref().expect("the module is back after every update")
    }

    /// What was trained, and its optimizer.
    ///
    /// # Panics
    /// Never, as [`Self::module`].
    pub fn into_parts(self) -> (M, AdamW) {
        (self.module.expect("the module is back after every update"), self.optimizer)
    }
}

/// The gradients of one step, summed over its micro-batches.
#[derive(Debug, Default)]
pub struct Pass {
    /// Gradients by the names of parameters.
    pub grads: GradMap,
    /// The loss.
    pub loss: f64,
    /// The samples of its batch, for messages.
    pub samples: Vec<String>,
}

/// What a training learns from.
pub trait Task<M> {
    /// What is to be done before a step, such as drawing with the weights of now; also before the first after a
    /// restart. `begins` says so of a state that has just been put on disk.
    ///
    /// # Errors
    /// When it was stopped.
    fn prepare(&mut self, _state: &State<M>) -> Result<()> {
        Ok(())
    }

    /// Whether the weights before a step are needed again when training goes on from later ones: they are put on disk.
    fn keeps(&self, _done: usize) -> bool {
        false
    }

    /// The gradients of a step. Stopped between two micro-batches, it leaves nothing.
    ///
    /// # Errors
    /// When it was stopped.
    fn pass(&mut self, step: usize, module: &M) -> Result<Pass>;
}

/// What one step was.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Its number, from 0.
    pub step: usize,
    /// The loss of its batch.
    pub loss: f64,
    /// The norm of its gradients before clipping.
    pub grad_norm: f64,
    /// Its learning rate.
    pub rate: f64,
    /// Whether the update was done; it is skipped where loss or gradients are not finite.
    pub updated: bool,
}

/// Who follows a training.
pub trait Watch<M> {
    /// Called before each step and after the last, with all that is due on disk. `true` ends the training.
    ///
    /// # Errors
    /// Any ends the training; the state is on disk then.
    fn look(&mut self, _state: &State<M>) -> Result<bool> {
        Ok(false)
    }

    /// Called after each step.
    ///
    /// # Errors
    /// Any ends the training.
    fn stepped(&mut self, _state: &State<M>, _step: &Step) -> Result<()> {
        Ok(())
    }

    /// Whether the state after so many steps is put on disk.
    fn due(&self, done: usize) -> bool;

    /// Puts the state on disk.
    ///
    /// # Errors
    /// When that fails.
    fn save(&mut self, state: &State<M>) -> Result<()>;

    /// Called when the guard stops the training; `saved` is the step of the last state on disk.
    ///
    /// # Errors
    /// When what is to be kept of it cannot be written.
    fn diverged(&mut self, _stop: &NanStop, _saved: usize) -> Result<()> {
        Ok(())
    }
}

/// Factor on gradients of a norm: `min(1, most / norm)` (Pascanu et al. 2013, as PyTorch's `clip_grad_norm_` has it).
pub fn clip_factor(norm: f64, most: f64) -> f64 {
    (most / (norm + 1e-6)).min(1.0)
}

/// Does the update of a step, unless its numbers are not finite.
///
/// # Errors
/// When too many in a row were not.
pub fn update<M: Module>(state: &mut State<M>, pass: &Pass, settings: &Settings) -> Result<Step> {
    let step = state.done;
    let grad_norm = optimizer::norm(&pass.grads);
    let rate = settings.rate(step);
    let updated = state.guard.admit(step, pass.loss, grad_norm, &pass.samples)?;
    if updated {
        let scale = clip_factor(grad_norm, settings.max_grad_norm);
        if let Some(module) = state.module.take() {
            state.module = Some(state.optimizer.step(module, &pass.grads, rate, scale));
        }
    }
    state.done = step + 1;
    Ok(Step { step, loss: pass.loss, grad_norm, rate, updated })
}

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At its last step.
    Done,
    /// Where [`Watch::look`] ended it.
    Stopped,
}

/// Trains from where a state stands.
///
/// The state on disk is never one whose last updates were skipped: there is nothing new in it.
///
/// # Errors
/// Those of the task and of who follows it, and [`TrainError::Nan`]; when it was interrupted, the state is on disk.
pub fn fit<M: Module>(
    state: &mut State<M>,
    settings: &Settings,
    task: &mut dyn Task<M>,
    watch: &mut dyn Watch<M>,
) -> Result<End> {
    let mut saved = state.done;
    let ended = steps(state, settings, task, watch, &mut saved);
    if matches!(ended, Err(TrainError::Interrupted))
        && saved < state.done
        && state.guard.consecutive == 0
    {
        watch.save(state)?;
    }
    ended
}

fn steps<M: Module>(
    state: &mut State<M>,
    settings: &Settings,
    task: &mut dyn Task<M>,
    watch: &mut dyn Watch<M>,
    saved: &mut usize,
) -> Result<End> {
    loop {
        if watch.look(state)? {
            return Ok(End::Stopped);
        }
        if state.done >= settings.steps {
            return Ok(End::Done);
        }
        if task.keeps(state.done) && state.done > *saved && state.guard.consecutive == 0 {
            watch.save(state)?;
            *saved = state.done;
        }
        task.prepare(state)?;
        let pass = task.pass(state.done, state.module())?;
        let step = match update(state, &pass, settings) {
            Ok(step) => step,
            Err(TrainError::Nan(stop)) => {
                watch.diverged(&stop, *saved)?;
                return Err(stop.into());
            }
            Err(error) => return Err(error),
        };
        drop(pass);
        watch.stepped(state, &step)?;
        let due = watch.due(state.done) || state.done == settings.steps;
        if due && state.guard.consecutive == 0 && state.done > *saved {
            watch.save(state)?;
            *saved = state.done;
        }
    }
}
