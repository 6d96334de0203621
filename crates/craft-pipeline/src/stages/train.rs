//! Stage 5: fine-tuning on the selected candidates, or by another method on all of them.

use std::collections::BTreeMap;
use std::time::Instant;

use craft_core::Recipe;
use craft_core::recipe::{StopSection, TrainMode, TrainSection};
use craft_core::select::ControlRow;
use craft_model::Model;
use craft_model::lora::LORA_FILE;
use craft_model::model::{
    DIFFUSION_WEIGHTS, copy_model, read_tensors, replace_weights, write_tensors,
};
use craft_nn::lora::KohyaNames;
use craft_nn::weights::{self, TensorMap};
use craft_store::weights::TRANSFORMERS;
use craft_store::{Manifest, Stage, jsonl};
use craft_train::checkpoint::{Checkpoints, Saved};
use craft_train::fit::{self, State, Step, fit};
use craft_train::guard::NanStop;
use craft_train::lesson::Lesson;
use craft_train::methods::{self, Data};
use craft_train::networks::{Networks, Trained, say_unplaced};
use craft_train::objective::{Common, Objective};
use craft_train::pass::Frame;
use craft_train::pool::Pool;
use craft_train::set::{Set, Texts};
use craft_train::settings::Settings;
use craft_train::{Result as TrainResult, stopped};
use serde_json::json;

use crate::error::{PipelineError, Result};
use crate::rewards::RunReward;
use crate::stages::look::{Look, Stop, Watch};
use crate::stages::training_set::{self, OfRun, through};
use crate::stages::{Outcome, Run, inputs};
use crate::start::Start;

/// Which of the two trainings of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arm {
    /// The selected candidates.
    Craft,
    /// As many random ones.
    Control,
}

impl Arm {
    fn name(self) -> &'static str {
        ["craft", "control"][self as usize]
    }
    fn stage(self) -> Stage {
        [Stage::TRAIN, Stage::CONTROL][self as usize].clone()
    }
    fn checkpoints(self) -> &'static str {
        ["checkpoints", "checkpoints/control"][self as usize]
    }
    /// Folder of the tuned model inside the stage's folder.
    fn model_folder(self) -> &'static str {
        ["", "aligned"][self as usize]
    }
}

/// Trains one arm.
pub(crate) fn run(
    run: &Run<'_>,
    arm: Arm,
    start: &Start,
    [generated, selected]: [&Manifest; 2],
    watchers: (&[RunReward], &BTreeMap<String, String>),
) -> Result<Manifest> {
    let section = &run.recipe.train;
    let stop = &run.recipe.stop;
    let mut inputs = inputs(&[generated, selected]);
    inputs.insert("model".to_owned(), start.hash.clone());
    // How often state is saved does not belong to the result's identity.
    let identity = TrainSection { checkpoint_every: 1, ..section.clone() };
    let mut identity = json!([identity, run.recipe.seed]);
    if *stop != StopSection::default() {
        identity = json!([identity, stop, run.recipe.evaluate]);
    }
    let fingerprint =
        craft_store::hash::sha256_bytes(json!([arm.name(), &identity, &inputs]).to_string());
    run.stage(arm.stage(), &identity, inputs, |writer| {
        let model = start.training_model(run.recipe, run.base)?;
        let (set, objective) = lesson(run, arm, &model)?;
        let texts = merged_texts(run, &model);
        let names = KohyaNames::of(&weights::shapes(&model.denoiser));
        if section.mode == TrainMode::Lora {
            say_unplaced(&section.lora, &craft_model::lora::parts(&model), run.context.progress)?;
        }
        let dir = run.path(&format!("{}/looks-{}", arm.checkpoints(), &fingerprint[..12]));
        let watch = Watch::new(run, start, dir, watchers)?;
        let training = Training { run, arm, set: &set, objective: objective.as_ref() };
        let Fitted { trained, stopped, looks, skipped } =
            training.fit((start, model), &fingerprint, watch)?;
        let out = writer.join(arm.model_folder());
        match trained {
            Trained::Full(tensors) => {
                copy_model(&start.from, &out)?;
                write_tensors(&out.join("unet").join(DIFFUSION_WEIGHTS), &tensors)?;
                for (folder, tensors) in texts {
                    replace_weights(&out.join(folder), TRANSFORMERS, &tensors)?;
                }
            }
            Trained::Lora(adapter) => {
                craft_store::atomic::create_dir(&out)?;
                write_tensors(&out.join(LORA_FILE), &adapter.to_kohya(&names))?;
            }
        }
        if !looks.is_empty() {
            jsonl::write(&out.join("looks.jsonl"), &looks)?;
        }
        let steps = stopped.as_ref().map_or(section.steps, |(step, _)| *step);
        let ended = stopped.map_or(String::new(), |(_, stop)| {
            format!(
                "; stopped there, since {}: the weights of step {} are kept",
                stop.reason, stop.best
            )
        });
        Ok(Outcome::default()
            .count("samples", set.used())
            .count("steps", steps)
            .count("draws", steps * section.batch)
            .count("skipped", skipped)
            .say(format!("{steps} steps on {} samples{}{ended}", set.used(), left_out(skipped))))
    })
}

/// How many updates were skipped, in words, if any.
fn left_out(skipped: usize) -> String {
    match skipped {
        0 => String::new(),
        n => format!("; {n} updates were skipped, their loss or gradient was not finite"),
    }
}

/// Text encoders that LoRA files of the recipe may have changed, by folder.
fn merged_texts(run: &Run<'_>, model: &Model) -> Vec<(&'static str, TensorMap)> {
    let full = run.recipe.train.mode == TrainMode::Full;
    if !full || run.recipe.model.lora.is_empty() {
        return Vec::new();
    }
    let mut out = vec![("text_encoder", weights::export(&model.text))];
    out.extend(model.second.as_ref().map(|s| ("text_encoder_2", weights::export(&s.text))));
    out
}

/// What an arm learns from, and what it minimises.
fn lesson(run: &Run<'_>, arm: Arm, model: &Model) -> Result<(Set, Box<dyn Objective>)> {
    let recipe = run.recipe;
    let method = methods::of_recipe(recipe)?;
    let source = OfRun { run, selection: Some("selection/selection.jsonl") };
    let pool = Pool::new(recipe, &source);
    let texts = Texts::default();
    let Data::Candidates { units, .. } = method.data else {
        return Err(PipelineError::Usage(format!("{}: it has no candidates", method.name)));
    };
    let units = match arm {
        Arm::Craft => units(&pool)?,
        Arm::Control => jsonl::read::<ControlRow>(&run.path("selection/control.jsonl"))?
            .into_iter()
            .map(|row| vec![(row.id, row.weight)])
            .collect(),
    };
    if units.is_empty() {
        return Err(PipelineError::Usage(format!(
            "train.method = \"{}\": no prompt has candidates that it can learn from; draw more (generate.samples, expand.variants), or choose another method",
            recipe.train.method
        )));
    }
    let set = training_set::of_units(run, units, model, &texts)?;
    // Random candidates come one by one, which losses over pairs and groups cannot take.
    let mut objective = method.objective(&recipe.train);
    if arm == Arm::Control && objective.compares() {
        objective = Box::new(Common::WEIGHTED);
    }
    Ok((set, objective))
}

/// A finished training.
struct Fitted {
    trained: Trained,
    /// Where it ended early, and why.
    stopped: Option<(usize, Stop)>,
    looks: Vec<Look>,
    /// Updates that were not finite.
    skipped: usize,
}

/// The training of an arm.
struct Training<'a> {
    run: &'a Run<'a>,
    arm: Arm,
    set: &'a Set,
    objective: &'a dyn Objective,
}

impl Training<'_> {
    fn fit(
        &self,
        (start, model): (&Start, Model),
        fingerprint: &str,
        watch: Option<Watch<'_>>,
    ) -> Result<Fitted> {
        let (run, arm) = (self.run, self.arm);
        let recipe = run.recipe;
        let settings = Settings::of(&recipe.train);
        let frame = Frame::of(recipe, &model);
        let reference = model.denoiser.clone();
        let root = run.path(arm.checkpoints());
        let checkpoints = Checkpoints {
            root: &root,
            fingerprint,
            name: arm.name(),
            recipe,
            steps: settings.steps,
        };
        let begun = has_begun(run, arm);
        let saved = checkpoints.latest(begun, &|_| true, run.context.progress)?;
        let mut state = begin(recipe, start, Networks::of(model), &checkpoints, saved.as_ref())?;
        stopped::refuse(&root, fingerprint, run.context.progress)?;
        let first = state.done;
        let before = metrics_from(run, arm, first)?;
        let metrics = jsonl::Appender::open(&run.path("metrics.jsonl"))?;
        run.context.progress.start(arm.name(), settings.steps as u64, "steps");
        run.context.progress.advance(first as u64);
        let mut lesson = Lesson {
            section: &recipe.train,
            seed: recipe.seed,
            frame: &frame,
            set: self.set,
            objective: self.objective,
            reference: &reference,
            known: None,
            stop: run.context.stop,
            average: None,
        };
        let mut follow = Follow {
            run,
            arm,
            checkpoints,
            metrics,
            before,
            clock: Instant::now(),
            watch,
            stopped: None,
        };
        let ended = fit(&mut state, &settings, &mut lesson, &mut follow);
        follow.metrics.sync()?;
        ended?;
        let skipped = state.guard.skipped;
        let trained = match (&follow.stopped, &follow.watch) {
            (Some((_, stop)), Some(watch)) => watch.trained(stop.best)?,
            _ => state.module().trained(recipe, &state.optimizer, true),
        };
        let looks = follow.watch.map_or(Vec::new(), |watch| watch.looks().to_vec());
        Ok(Fitted { trained, stopped: follow.stopped, looks, skipped })
    }
}

/// The state that a training goes on from: a checkpoint, what the round before left, or the base model.
fn begin(
    recipe: &Recipe,
    start: &Start,
    base: Networks,
    checkpoints: &Checkpoints<'_>,
    saved: Option<&Saved>,
) -> Result<State<Networks>> {
    let settings = Settings::of(&recipe.train);
    let mut adam = settings.new_optimizer();
    let Some(saved) = saved else {
        let path = start.factors();
        let before = match path.as_deref() {
            Some(path) => Some((path, read_tensors(path)?)),
            None => None,
        };
        let networks = Networks::start(recipe, base, before, &mut adam)?;
        return Ok(State::resumed(networks, adam, &settings, 0));
    };
    saved.restore(&mut adam)?;
    let (path, tensors) = checkpoints.tensors(saved)?;
    let networks = Networks::start(recipe, base, Some((&path, tensors)), &mut adam)?;
    let mut state = State::resumed(networks, adam, &settings, saved.step);
    state.guard.skipped = saved.skipped;
    Ok(state)
}

/// Whether an earlier attempt did a step of a training.
fn has_begun(run: &Run<'_>, arm: Arm) -> bool {
    let rows = jsonl::read_resumable::<serde_json::Value>(&run.path("metrics.jsonl"));
    rows.is_ok_and(|found| found.rows.iter().any(|row| row["run"] == arm.name()))
}

/// What follows the training of an arm: metrics, checkpoints, evaluations along the way.
struct Follow<'a> {
    run: &'a Run<'a>,
    arm: Arm,
    checkpoints: Checkpoints<'a>,
    metrics: jsonl::Appender,
    /// Seconds of earlier attempts.
    before: f64,
    clock: Instant,
    watch: Option<Watch<'a>>,
    stopped: Option<(usize, Stop)>,
}

impl fit::Watch<Networks> for Follow<'_> {
    fn look(&mut self, state: &State<Networks>) -> TrainResult<bool> {
        let done = state.done;
        let Some(watch) = self.watch.as_mut().filter(|watch| done > 0 && watch.due(done)) else {
            return Ok(false);
        };
        let trained = state.module().trained(self.run.recipe, &state.optimizer, true);
        let Some(stop) = watch.look(done, trained).map_err(through)? else { return Ok(false) };
        let name = self.arm.name();
        self.run
            .context
            .progress
            .note(&format!("{name}: {}; training ends at step {done}", stop.reason));
        self.stopped = Some((done, stop));
        Ok(true)
    }

    fn stepped(&mut self, state: &State<Networks>, step: &Step) -> TrainResult<()> {
        let (name, progress) = (self.arm.name(), self.run.context.progress);
        if !step.updated {
            progress.note(&format!(
                "{name}: step {} skipped, its loss or gradient is not finite",
                step.step
            ));
        }
        self.metrics.append(&json!({
            "run": name, "step": step.step, "loss": step.loss, "grad_norm": step.grad_norm,
            "lr": step.rate, "nimg": state.done * self.run.recipe.train.batch,
            "skipped": state.guard.skipped,
            "seconds": self.before + self.clock.elapsed().as_secs_f64(),
        }))?;
        progress.advance(1);
        Ok(())
    }

    fn due(&self, done: usize) -> bool {
        self.checkpoints.due(done)
    }

    fn save(&mut self, state: &State<Networks>) -> TrainResult<()> {
        self.metrics.sync()?;
        self.checkpoints.save(state, &serde_json::Value::Null)
    }

    fn diverged(&mut self, stop: &NanStop, saved: usize) -> TrainResult<()> {
        // The state whose very first update failed is none to go on from.
        if saved == stop.step + 1 - stop.consecutive {
            self.checkpoints.remove(saved)?;
        }
        stopped::keep(self.checkpoints.root, self.checkpoints.fingerprint, stop)
    }
}

/// Drops the lines of this arm from a step on, which are about to be written again. Returns the seconds that
/// the steps before took.
fn metrics_from(run: &Run<'_>, arm: Arm, first: usize) -> Result<f64> {
    let path = run.path("metrics.jsonl");
    if !path.exists() {
        return Ok(0.0);
    }
    let rows = jsonl::read_resumable::<serde_json::Value>(&path)?.rows;
    let own = |row: &serde_json::Value| row["run"] == arm.name();
    let keep: Vec<serde_json::Value> = rows
        .into_iter()
        .filter(|row| !own(row) || row["step"].as_u64().is_some_and(|s| (s as usize) < first))
        .collect();
    let last = keep.iter().rev().find(|row| own(row));
    let seconds = last.and_then(|row| row["seconds"].as_f64()).unwrap_or(0.0);
    jsonl::write(&path, keep)?;
    Ok(seconds)
}
