//! One method on one seed: training set, training with evaluations along the way, evaluation at its end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use craft_core::Recipe;
use craft_core::recipe::{GenerateSection, TrainMode, TrainSection};
use craft_model::lora::LORA_FILE;
use craft_model::model::{DIFFUSION_WEIGHTS, write_tensors};
use craft_store::manifest::write_json;
use craft_store::{Manifest, Stage, StageWriter, jsonl, meter};
use craft_train::methods::{Drawing, Method};
use craft_train::objective::Reference;
use craft_train::online::Scorer;
use craft_train::set::Set;
use serde_json::{Value, json};

use super::Shared;
use super::data::{Totals, training_set};
use super::entry::Entry;
use super::evaluator::{Evaluator, Measured};
use super::fit::{Cost, Fit, Look};
use super::pipeline::{Outcome, PipelineError, Result, inputs};
use super::plan::Plan;
use super::result::{IMAGES, Point, RESULT, SCORES, Seconds, TuneResult};
use super::rounds::{self, Last};
use super::scores::{PictureRow, gains};
use super::settings::Settings;

/// Stage of the base model's own pictures.
pub(super) const BASE: Stage = Stage::new("base", "methods/base");
/// Pictures of evaluations along the way, in a method's folder until they are measured.
const LOOKS: &str = ".looks";

/// Draws the evaluation's pictures with the base model.
pub(super) fn base(
    shared: &Shared<'_>,
    plan: &Plan,
    evaluator: &Evaluator<'_>,
) -> Result<Vec<PictureRow>> {
    let config = identity(shared, plan);
    let inputs = evaluation_inputs(shared, evaluator);
    shared.run.stage(BASE, &config, inputs, |writer| {
        let start = Instant::now();
        let measured = evaluator.measure(None, &evaluator.full, &writer.join(IMAGES))?;
        jsonl::write(&writer.join(SCORES), &measured.rows)?;
        let numbers = json!({
            "statistics": measured.statistics,
            "diversity": measured.diversity,
            "seconds": start.elapsed().as_secs_f64(),
        });
        write_json(&writer.join(RESULT), &numbers)?;
        Ok(Outcome::default().count("images", measured.rows.len()).say("base model measured"))
    })?;
    Ok(jsonl::read(&shared.run.path(&format!("{}/{SCORES}", BASE.folder())))?)
}

/// What every measurement of a seed depends on, beside its inputs.
pub(super) fn identity(shared: &Shared<'_>, plan: &Plan) -> Value {
    let recipe = shared.run.recipe;
    let drawing = GenerateSection { batch: 1, ..recipe.generate.clone() };
    json!([recipe.evaluate, drawing, recipe.seed, plan.curve_prompts])
}

/// What a measurement of a seed depends on, by name.
pub(super) fn evaluation_inputs(
    shared: &Shared<'_>,
    evaluator: &Evaluator<'_>,
) -> BTreeMap<String, String> {
    let mut inputs = inputs(&[&shared.generated, &shared.scored]);
    inputs.insert("model".to_owned(), shared.model_hash.clone());
    inputs.extend(evaluator.hashes.clone());
    inputs
}

/// What a method's training on a seed depends on, by name.
pub(super) fn training_inputs(shared: &Shared<'_>, entry: &Entry) -> BTreeMap<String, String> {
    let mut inputs = inputs(&[&shared.generated, &shared.scored]);
    inputs.insert("model".to_owned(), shared.model_hash.clone());
    if let Some(pairs) = shared.pairs.as_ref().filter(|_| entry.method.data.annotated()) {
        inputs.insert(pairs.stage.clone(), pairs.digest());
    }
    inputs
}

/// The part of a recipe that a training depends on.
pub(super) fn training_identity(entry: &Entry, recipe: &Recipe) -> Value {
    let train = TrainSection { checkpoint_every: 1, ..recipe.train.clone() };
    let own =
        json!([entry.name, entry.method.name, entry.part, train, recipe.select, recipe.rewards]);
    if recipe.rounds.count < 2 { own } else { json!([own, recipe.rounds]) }
}

/// What scores a method's own pictures, if it draws any.
pub(super) fn scorer<'a>(
    shared: &Shared<'_>,
    entry: &Entry,
    recipe: &Recipe,
    evaluator: &'a Evaluator<'a>,
) -> Result<Option<Totals<'a>>> {
    match entry.method.data.drawing() {
        Some(_) => Totals::new(&shared.run, recipe, evaluator).map(Some),
        None => Ok(None),
    }
}

/// Whether the frozen base model predicts beside the tuned one.
pub(super) fn has_reference(method: &Method, recipe: &Recipe) -> bool {
    match method.data.drawing() {
        Some(drawing) => drawing == Drawing::Continuations,
        None => method.objective(&recipe.train).reference() != Reference::None,
    }
}

/// Tunes and evaluates one method.
///
/// # Errors
/// Those of training and measuring; what was done is kept. A training that diverges is a result.
pub(super) fn run(
    shared: &Shared<'_>,
    plan: &Plan,
    evaluator: &Evaluator<'_>,
    entry: &Entry,
    settings: &Settings,
    base: &[PictureRow],
) -> Result<Manifest> {
    let recipe = entry.recipe(shared.run.recipe);
    let points: Vec<usize> =
        plan.points(entry).into_iter().filter(|p| *p < settings.steps).collect();
    let config =
        json!([training_identity(entry, &recipe), identity(shared, plan), settings, points]);
    let mut inputs = evaluation_inputs(shared, evaluator);
    inputs.extend(training_inputs(shared, entry));
    shared.run.stage(entry.stage.clone(), &config, inputs, |writer| {
        meter::forget_peak_rss();
        let recipe = &recipe;
        Tuning { shared, plan, evaluator, entry, recipe, settings, base, writer }.run(&points)
    })
}

/// The tuning of one method on one seed.
struct Tuning<'a> {
    shared: &'a Shared<'a>,
    plan: &'a Plan,
    evaluator: &'a Evaluator<'a>,
    entry: &'a Entry,
    recipe: &'a Recipe,
    settings: &'a Settings,
    /// Scores of the base model.
    base: &'a [PictureRow],
    writer: &'a StageWriter,
}

/// What was measured while a method trained.
struct Measurements {
    curve: Vec<Point>,
    /// Seconds of measuring.
    seconds: f64,
    /// The whole evaluation, once training is over.
    whole: Option<Measured>,
}

impl Tuning<'_> {
    fn run(&self, points: &[usize]) -> Result<Outcome> {
        let start = Instant::now();
        let (shared, plan, evaluator) = (self.shared, self.plan, self.evaluator);
        let last = rounds::last(shared, plan, evaluator, self.entry, self.recipe, self.settings);
        let last = match last {
            Err(PipelineError::Nan(stop)) => return self.diverged_before(stop.step),
            other => other?,
        };
        let own;
        let (set, steps) = match &last {
            Some(last) => (&last.set, last.recipe.train.steps),
            None => {
                let (part, method) = (self.entry.part, self.entry.method);
                own = training_set(&shared.run, self.recipe, part, method, evaluator)?;
                (&own, self.settings.steps)
            }
        };
        let made = if last.is_some() { 0.0 } else { start.elapsed().as_secs_f64() };
        let (cost, mut found) = self.train(set, last.as_ref(), points, steps)?;
        let measured = match (found.whole.take(), &cost.diverged) {
            (Some(measured), _) => measured,
            (None, Some(_)) => Measured::default(),
            (None, None) => {
                return Err(PipelineError::Usage(format!(
                    "{}: nothing to train; expected at least one step",
                    self.entry.name
                )));
            }
        };
        let _ = craft_store::atomic::remove_tree(&self.writer.join(LOOKS));
        jsonl::write(&self.writer.join(SCORES), &measured.rows)?;
        let mut result = self.result(set, &cost, found, &measured, made);
        if let Some(last) = &last {
            self.add_earlier_rounds(&mut result, last, steps);
        }
        write_json(&self.writer.join(RESULT), &result)?;
        Ok(self.outcome(&result, &cost, &measured, steps))
    }

    /// Trains for `steps` steps, from the model of the last round's beginning if there are several, and
    /// measures at `points` and at the end.
    fn train(
        &self,
        set: &Set,
        last: Option<&Last>,
        points: &[usize],
        steps: usize,
    ) -> Result<(Cost, Measurements)> {
        let model = &self.evaluator.model;
        let scorer = scorer(self.shared, self.entry, self.recipe, self.evaluator)?;
        let fit = Fit {
            run: &self.shared.run,
            name: &self.entry.name,
            recipe: last.map_or(self.recipe, |last| &last.recipe),
            model,
            start: last.map_or(model, |last| &last.model),
            factors: last.and_then(|last| last.factors.clone()),
            set,
            method: self.entry.method,
            learning_rate: self.settings.learning_rate,
            steps,
            scorer: scorer.as_ref().map(|s| s as &dyn Scorer),
            state: &self.writer.join(".state"),
            known: None,
        };
        let path = self.writer.join(".curve.jsonl");
        let curve: Vec<Point> = jsonl::read_resumable(&path)?.rows;
        let seconds = curve.last().map_or(0.0, |point| point.evaluation_seconds);
        let mut found = Measurements { curve, seconds, whole: None };
        let before = last.map_or(0, |last| last.passes);
        let ends: Vec<usize> =
            points.iter().copied().filter(|p| *p < steps).chain([steps]).collect();
        let cost = fit.fit(&ends, &mut |look: &Look<'_>| {
            let done = look.step == steps;
            if !done && found.curve.iter().any(|point| point.step == look.step) {
                return Ok(());
            }
            let measured = self.measure(look, done, before, &mut found)?;
            jsonl::write(&path, &found.curve)?;
            if done {
                let file = match fit.recipe.train.mode {
                    TrainMode::Full => DIFFUSION_WEIGHTS,
                    TrainMode::Lora => LORA_FILE,
                };
                write_tensors(&self.writer.join(file), &look.tensors())?;
                found.whole = Some(measured);
            }
            Ok(())
        })?;
        Ok((cost, found))
    }

    /// Measures the model as it stands, on all of the evaluation if it is `done`, and adds a point to the
    /// curve. `before` samples went through the network in earlier rounds.
    fn measure(
        &self,
        look: &Look<'_>,
        done: bool,
        before: usize,
        found: &mut Measurements,
    ) -> Result<Measured> {
        let (start, step) = (Instant::now(), look.step);
        let (set, images): (_, PathBuf) = match done {
            true => (&self.evaluator.full, self.writer.join(IMAGES)),
            false => (&self.evaluator.curve, self.writer.join(format!("{LOOKS}/step-{step}"))),
        };
        let measured = self.evaluator.measure(Some(look.model), set, &images)?;
        found.seconds += start.elapsed().as_secs_f64();
        found.curve.retain(|point| point.step < step);
        let mut point = self.point(step, look.cost, &measured, found.seconds);
        point.sample_passes += before;
        found.curve.push(point);
        Ok(measured)
    }

    /// The result of a method that diverged in a round before the last.
    fn diverged_before(&self, step: usize) -> Result<Outcome> {
        let why = format!("diverged at step {step} of an earlier round");
        jsonl::write(&self.writer.join(SCORES), Vec::<PictureRow>::new())?;
        let result = TuneResult {
            learning_rate: self.settings.learning_rate,
            diverged: Some(why.clone()),
            ..TuneResult::default()
        };
        write_json(&self.writer.join(RESULT), &result)?;
        Ok(Outcome::default().say(why))
    }

    /// A point of the curve, on the curve's prompts even if more were drawn.
    fn point(&self, step: usize, cost: &Cost, measured: &Measured, seconds: f64) -> Point {
        let few = |rows: &[PictureRow]| -> Vec<PictureRow> {
            rows.iter().filter(|row| self.evaluator.curve.has(row)).cloned().collect()
        };
        Point {
            step,
            sample_passes: cost.sample_passes,
            seconds: cost.seconds,
            cpu_seconds: cost.cpu_seconds,
            gains: gains(&few(self.base), &few(&measured.rows)),
            statistics: measured.statistics,
            evaluation_seconds: seconds,
        }
    }

    /// What the training was and cost; its set took `made` seconds to make.
    fn result(
        &self,
        set: &Set,
        cost: &Cost,
        found: Measurements,
        measured: &Measured,
        made: f64,
    ) -> TuneResult {
        let shared = self.shared;
        let data = self.entry.method.data;
        let of = |m: &Manifest, name: &str| m.counts.get(name).map_or(0, |n| *n as usize);
        let annotated = shared.pairs.as_ref().filter(|_| data.annotated());
        let mut seconds = Seconds {
            data: made + annotated.map_or(0.0, |m| m.seconds),
            training: cost.seconds,
            evaluation: found.seconds,
            ..Seconds::default()
        };
        if data.drawn() {
            seconds.generation = shared.generated.seconds;
            seconds.scoring = if data.scored() { shared.scored.seconds } else { 0.0 };
        }
        let reference = has_reference(self.entry.method, self.recipe);
        let drawn = of(&shared.generated, "candidates");
        TuneResult {
            samples: set.used(),
            pairs: if set.unit_length() == 2 { set.units.len() } else { 0 },
            images_generated: if data.drawn() { drawn } else { cost.images },
            images_annotated: annotated.map_or(0, |m| 2 * of(m, "pairs")),
            learning_rate: self.settings.learning_rate,
            steps: self.settings.steps,
            diverged: cost.diverged.clone(),
            sample_passes: cost.sample_passes,
            reference_passes: if reference { cost.sample_passes } else { 0 },
            skipped_steps: cost.skipped,
            seconds,
            peak_rss_bytes: meter::peak_rss_bytes().unwrap_or_default(),
            curve: found.curve,
            statistics: measured.statistics,
            diversity: measured.diversity,
        }
    }

    /// Adds to a last round of `steps` steps what the rounds before it cost.
    fn add_earlier_rounds(&self, result: &mut TuneResult, last: &Last, steps: usize) {
        let [earlier, generation, scoring] = last.seconds;
        result.steps = steps * self.recipe.rounds.count;
        result.sample_passes += last.passes;
        result.images_generated = last.images;
        // Rounds are drawn, scored and trained one after the other, so all of it stands before the last.
        result.seconds.data = earlier;
        (result.seconds.generation, result.seconds.scoring) = (generation, scoring);
    }

    /// What the stage says of itself.
    fn outcome(
        &self,
        result: &TuneResult,
        cost: &Cost,
        measured: &Measured,
        steps: usize,
    ) -> Outcome {
        let decisive = &self.plan.decisive;
        let found = match &cost.diverged {
            Some(why) => {
                format!("{why} with learning rate {:.1e}", self.settings.learning_rate)
            }
            None => {
                let gain = gains(self.base, &measured.rows).get(decisive).copied();
                format!("{decisive} {:+.3}", gain.unwrap_or(f64::NAN))
            }
        };
        Outcome::default()
            .count("samples", result.samples)
            .count("pairs", result.pairs)
            .count("steps", steps)
            .say(format!("{steps} steps on {} samples; {found}", result.samples))
    }
}
