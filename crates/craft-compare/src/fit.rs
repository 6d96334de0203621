//! The training of one method on one seed, with looks along the way.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use craft_core::Recipe;
use craft_model::Model;
use craft_nn::lora::KohyaNames;
use craft_nn::weights::{self, TensorMap};
use craft_store::hash::sha256_bytes;
use craft_store::meter;
use craft_train::checkpoint::Checkpoints;
use craft_train::fit::{self, State, Step, Task};
use craft_train::lesson::{Lesson, References};
use craft_train::methods::Method;
use craft_train::networks::{Networks, Trained};
use craft_train::online::{Online, Scorer, Surroundings};
use craft_train::pass::Frame;
use craft_train::set::Set;
use craft_train::settings::Settings;
use craft_train::{Result as TrainResult, TrainError};
use serde::{Deserialize, Serialize};

use super::pipeline::{PipelineError, Result, Run, candidate_options, through};

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
    /// The factors that an earlier round left, where factors are trained.
    pub(super) factors: Option<(PathBuf, TensorMap)>,
    pub(super) set: &'a Set,
    pub(super) method: &'a Method,
    pub(super) learning_rate: f64,
    pub(super) steps: usize,
    /// Scores the pictures of methods that draw as they go.
    pub(super) scorer: Option<&'a dyn Scorer>,
    /// Where the state is kept while it trains.
    pub(super) state: &'a Path,
    /// What trainings that differ in nothing but the learning rate share.
    pub(super) known: Option<&'a References>,
}

/// What a training cost.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Cost {
    pub(super) seconds: f64,
    /// Seconds of all processors together.
    pub(super) cpu_seconds: f64,
    #[serde(skip)]
    pub(super) skipped: usize,
    #[serde(skip)]
    pub(super) sample_passes: usize,
    /// Pictures that it drew itself.
    pub(super) images: usize,
    /// Where it diverged, if it did.
    #[serde(skip)]
    pub(super) diverged: Option<String>,
}

/// A training as it is looked at.
pub(super) struct Look<'a> {
    pub(super) step: usize,
    /// The model that draws with what was trained, or with its average.
    pub(super) model: &'a Model,
    pub(super) cost: &'a Cost,
    state: &'a State<Networks>,
    recipe: &'a Recipe,
}

impl Look<'_> {
    /// What was trained, under the names of the file that holds it.
    pub(super) fn tensors(&self) -> TensorMap {
        let networks = self.state.module();
        match networks.trained(self.recipe, &self.state.optimizer, true) {
            Trained::Full(tensors) => tensors,
            Trained::Lora(adapter) => {
                adapter.to_kohya(&KohyaNames::of(&weights::shapes(&self.model.denoiser)))
            }
        }
    }
}

/// Who looks.
type Looking<'a> = dyn FnMut(&Look<'_>) -> Result<()> + 'a;

impl Fit<'_> {
    /// Trains from the beginning, or from where it was stopped, and shows what it has made after each of
    /// `points` steps. A training that diverges ends there, and its cost says so.
    ///
    /// A look that was stopped, or came just before a stop, is asked for again.
    ///
    /// # Errors
    /// When it is interrupted, or `look` fails; the state is kept then.
    pub(super) fn fit(&self, points: &[usize], look: &mut Looking<'_>) -> Result<Cost> {
        let frame = Frame::of(self.recipe, self.model);
        let images = Cell::new(0);
        let Some(drawing) = self.method.data.drawing() else {
            let objective = self.method.objective(&self.recipe.train);
            let mut lesson = Lesson {
                section: &self.recipe.train,
                seed: self.run.recipe.seed,
                frame: &frame,
                set: self.set,
                objective: objective.as_ref(),
                reference: &self.model.denoiser,
                known: self.known,
                stop: self.run.context.stop,
                average: None,
            };
            let passes = lesson.samples_a_step();
            return self.train(&mut lesson, &|_| true, (passes, &images), points, look);
        };
        let Some(scorer) = self.scorer else {
            let message = format!("{}: nobody scores what it draws", self.name);
            return Err(PipelineError::Usage(message));
        };
        let mut online = Online::new(
            drawing,
            self.name,
            self.set,
            Surroundings {
                recipe: self.recipe,
                model: self.model,
                frame: &frame,
                options: candidate_options(self.recipe, self.model)?,
                scorer,
                state: self.state,
                stop: self.run.context.stop,
                images: &images,
            },
        )?;
        let drawn = online.on_shelf();
        let usable = |step: usize| drawn.holds(step);
        let passes = online.passes_a_step();
        let cost = self.train(&mut online, &usable, (passes, &images), points, look)?;
        drawn.clear();
        Ok(cost)
    }

    fn settings(&self) -> Settings {
        let (steps, learning_rate) = (self.steps, self.learning_rate);
        Settings { steps, learning_rate, ..Settings::of(&self.recipe.train) }
    }

    fn train(
        &self,
        task: &mut dyn Task<Networks>,
        usable: &dyn Fn(usize) -> bool,
        (passes, images): (usize, &Cell<usize>),
        points: &[usize],
        look: &mut Looking<'_>,
    ) -> Result<Cost> {
        let settings = self.settings();
        let progress = self.run.context.progress;
        let rate = self.learning_rate.to_bits();
        let fingerprint = sha256_bytes(format!(
            "{} {rate:x} {} {}",
            self.name,
            self.steps,
            self.recipe.to_toml()
        ));
        let checkpoints = Checkpoints {
            root: self.state,
            fingerprint: &fingerprint,
            name: self.name,
            recipe: self.recipe,
            steps: self.steps,
        };
        let saved = checkpoints.latest(false, usable, progress)?;
        let mut adam = settings.new_optimizer();
        let mut cost = Cost::default();
        let tensors = match &saved {
            Some(saved) => {
                saved.restore(&mut adam)?;
                cost = serde_json::from_value(saved.notes.clone()).unwrap_or_default();
                Some(checkpoints.tensors(saved)?)
            }
            None => self.factors.clone(),
        };
        let tensors = tensors.as_ref().map(|(path, map)| (path.as_path(), map.clone()));
        let networks =
            Networks::start(self.recipe, Networks::of(self.start.clone()), tensors, &mut adam)?;
        let done = saved.as_ref().map_or(0, |saved| saved.step);
        let mut state = State::resumed(networks, adam, &settings, done);
        state.guard.skipped = saved.map_or(0, |saved| saved.skipped);
        images.set(cost.images);
        progress.start(self.name, self.steps as u64, "steps");
        progress.advance(done as u64);
        let mut follow = Follow {
            fit: self,
            checkpoints,
            points,
            look,
            passes,
            images,
            cost,
            clock: Instant::now(),
            worked: meter::cpu_seconds().unwrap_or_default(),
        };
        let ended = fit::fit(&mut state, &settings, task, &mut follow);
        let mut cost = follow.cost;
        match ended {
            Err(TrainError::Nan(stop)) => {
                let (why, name) = (format!("diverged at step {}", stop.step), self.name);
                progress.note(&format!("{name}: {why}; the comparison goes on without it"));
                cost.skipped = state.guard.skipped;
                cost.sample_passes = (stop.step + 1) * passes;
                cost.diverged = Some(why);
            }
            other => {
                other?;
            }
        }
        Ok(cost)
    }
}

/// What follows the training of a method: its cost, its state, and looks along the way.
struct Follow<'a, 'l> {
    fit: &'a Fit<'a>,
    checkpoints: Checkpoints<'a>,
    points: &'a [usize],
    look: &'a mut Looking<'l>,
    /// Samples that a step sends through the network.
    passes: usize,
    images: &'a Cell<usize>,
    cost: Cost,
    /// Since the last step.
    clock: Instant,
    worked: f64,
}

impl Follow<'_, '_> {
    fn restart_clock(&mut self) {
        (self.clock, self.worked) = (Instant::now(), meter::cpu_seconds().unwrap_or_default());
    }
}

impl fit::Watch<Networks> for Follow<'_, '_> {
    fn look(&mut self, state: &State<Networks>) -> TrainResult<bool> {
        if state.done > 0 && self.points.contains(&state.done) {
            self.cost.skipped = state.guard.skipped;
            self.cost.sample_passes = state.done * self.passes;
            let model = state.module().model(self.fit.start, &state.optimizer);
            (self.look)(&Look {
                step: state.done,
                model: &model,
                cost: &self.cost,
                state,
                recipe: self.fit.recipe,
            })
            .map_err(through)?;
        }
        // What a look takes is no training.
        self.restart_clock();
        Ok(false)
    }

    fn stepped(&mut self, state: &State<Networks>, _: &Step) -> TrainResult<()> {
        self.cost.seconds += self.clock.elapsed().as_secs_f64();
        self.cost.cpu_seconds += meter::cpu_seconds().unwrap_or_default() - self.worked;
        self.cost.images = self.images.get();
        self.cost.skipped = state.guard.skipped;
        self.cost.sample_passes = state.done * self.passes;
        self.fit.run.context.progress.advance(1);
        self.restart_clock();
        Ok(())
    }

    fn due(&self, done: usize) -> bool {
        // First, since a look may take as long as the training and be stopped.
        self.points.contains(&done)
    }

    fn save(&mut self, state: &State<Networks>) -> TrainResult<()> {
        let notes = serde_json::to_value(&self.cost).unwrap_or_default();
        self.checkpoints.save(state, &notes)?;
        self.restart_clock();
        Ok(())
    }
}
