//! One method on one seed: training set, training with looks along the way, evaluation.

use std::collections::BTreeMap;
use std::time::Instant;

use craft_core::Recipe;
use craft_core::recipe::TrainSection;
use craft_store::{Manifest, Stage, StageWriter, jsonl};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::data::{self, TrainingSet};
use super::fit::{Cost, Fit};
use super::judge::{Judge, Measured, PictureRow, gains};
use super::methods::Data;
use super::online::Online;
use super::plan::{Entry, Plan};
use super::search::Settings;
use super::{Shared, network, pairs, rounds};
use crate::error::{PipelineError, Result};
use crate::run::{forget_peak_rss, peak_rss_bytes};
use crate::stages::{Outcome, inputs};
use crate::statistics::ImageStatistics;
use craft_model::model::write_tensors;

/// Stage of the base model's own pictures.
pub(super) const BASE: Stage = Stage::new("base", "methods/base");
/// Scores of the evaluation's pictures, in a method's folder.
pub(super) const SCORES: &str = "scores.jsonl";
/// The evaluation's pictures, in a method's folder.
pub(super) const IMAGES: &str = "images";
/// Pictures of looks along the way, in a method's folder until they are measured.
const LOOKS: &str = ".looks";
/// What a method's training was and cost, in its folder.
pub(super) const RESULT: &str = "result.json";

/// Seconds of the parts of a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seconds {
    /// Drawing the candidates, where the method uses them; drawn once for all methods of a seed.
    pub(super) generation: f64,
    /// Scoring them, where the method looks at scores.
    pub(super) scoring: f64,
    /// Making the training set, encoding annotated pictures included.
    pub(super) data: f64,
    pub(super) training: f64,
    /// Pictures along training and at its end.
    pub(super) evaluation: f64,
}

/// A look at a model during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    pub(super) step: usize,
    pub(super) sample_passes: usize,
    /// Seconds of training until here.
    pub(super) seconds: f64,
    /// Seconds that processors worked on it, all together.
    #[serde(default)]
    pub(super) cpu_seconds: f64,
    /// Mean change against base on the curve's prompts, by reward.
    pub(super) gains: BTreeMap<String, f64>,
    pub(super) statistics: ImageStatistics,
    /// Seconds of this look and those before it.
    #[serde(default)]
    pub(super) evaluation_seconds: f64,
}

/// What a method's training was and cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TuneResult {
    /// Different pictures trained on.
    pub(super) samples: usize,
    /// Pairs among them, for methods over pairs.
    pub(super) pairs: usize,
    /// Pictures that the model drew to be trained on or chosen from.
    pub(super) images_generated: usize,
    /// Pictures that annotators judged.
    pub(super) images_annotated: usize,
    pub(super) learning_rate: f64,
    pub(super) steps: usize,
    /// Where it diverged; there are no scores then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) diverged: Option<String>,
    /// Samples that went through the network, forwards and backwards.
    pub(super) sample_passes: usize,
    /// Samples that went through the frozen reference, forwards.
    pub(super) reference_passes: usize,
    pub(super) skipped_steps: usize,
    pub(super) seconds: Seconds,
    pub(super) peak_rss_bytes: u64,
    pub(super) curve: Vec<Point>,
    pub(super) statistics: ImageStatistics,
    pub(super) diversity: Option<f64>,
}

/// Draws the evaluation's pictures with the base model.
pub(super) fn base(shared: &Shared<'_>, plan: &Plan, judge: &Judge<'_>) -> Result<Vec<PictureRow>> {
    let config = identity(shared, plan);
    let inputs = judged_inputs(shared, judge);
    shared.run.stage(BASE, &config, inputs, |writer| {
        let start = Instant::now();
        let measured = judge.measure(None, &judge.full, &writer.join(IMAGES))?;
        jsonl::write(&writer.join(SCORES), &measured.rows)?;
        let numbers = json!({
            "statistics": measured.statistics,
            "diversity": measured.diversity,
            "seconds": start.elapsed().as_secs_f64(),
        });
        craft_store::manifest::write_json(&writer.join(RESULT), &numbers)?;
        Ok(Outcome::default().count("images", measured.rows.len()).say("base model measured"))
    })?;
    Ok(jsonl::read(&shared.run.path(&format!("{}/{SCORES}", BASE.folder())))?)
}

/// What every measurement of a seed depends on, beside its inputs.
pub(super) fn identity(shared: &Shared<'_>, plan: &Plan) -> Value {
    let recipe = shared.run.recipe;
    let drawing = craft_core::recipe::GenerateSection { batch: 1, ..recipe.generate.clone() };
    json!([recipe.evaluate, drawing, recipe.seed, plan.curve_prompts])
}

pub(super) fn judged_inputs(shared: &Shared<'_>, judge: &Judge<'_>) -> BTreeMap<String, String> {
    let mut inputs = inputs(&[&shared.generated, &shared.scored]);
    inputs.insert("model".to_owned(), shared.model_hash.clone());
    inputs.extend(judge.hashes.clone());
    inputs
}

/// The part of a recipe that a training depends on.
pub(super) fn training_identity(entry: &Entry, recipe: &Recipe) -> Value {
    let train = TrainSection { checkpoint_every: 1, ..recipe.train.clone() };
    let method = (entry.method.data, entry.method.loss, entry.part);
    let own = json!([entry.name, method, train, recipe.select, recipe.rewards]);
    if recipe.rounds.count < 2 { own } else { json!([own, recipe.rounds]) }
}

/// The training set of a method.
pub(super) fn training_set(
    shared: &Shared<'_>,
    entry: &Entry,
    recipe: &Recipe,
    judge: &Judge<'_>,
) -> Result<TrainingSet> {
    let (data, loss) = (entry.method.data, entry.method.loss);
    if data == Data::Prompts {
        data::of_prompts(&shared.run, judge)
    } else if data.annotated() {
        pairs::training_set(&shared.run, data, judge)
    } else {
        data::of_candidates(&shared.run, recipe, entry.part, (data, loss), judge)
    }
}

/// Who scores a method's own pictures, where it draws any.
pub(super) fn online<'a>(
    shared: &Shared<'_>,
    entry: &Entry,
    recipe: &Recipe,
    judge: &'a Judge<'a>,
) -> Result<Option<Online<'a>>> {
    if entry.method.data != Data::Prompts {
        return Ok(None);
    }
    let terms = data::terms(&shared.run, recipe)?;
    Ok(Some(Online::new(judge, terms, recipe.generate.negative())))
}

/// Tunes and evaluates one method.
pub(super) fn run(
    shared: &Shared<'_>,
    plan: &Plan,
    judge: &Judge<'_>,
    entry: &Entry,
    settings: &Settings,
    base: &[PictureRow],
) -> Result<Manifest> {
    let recipe = entry.recipe(shared.run.recipe)?;
    let points: Vec<usize> =
        plan.points(entry).into_iter().filter(|p| *p < settings.steps).collect();
    let config =
        json!([training_identity(entry, &recipe), identity(shared, plan), settings, points]);
    let mut inputs = judged_inputs(shared, judge);
    if let Some(pairs) = shared.pairs.as_ref().filter(|_| entry.method.data.annotated()) {
        inputs.insert(pairs.stage.clone(), pairs.digest());
    }
    shared.run.stage(entry.stage.clone(), &config, inputs, |writer| {
        forget_peak_rss();
        let tuning = Tuning { shared, plan, judge, entry, recipe: &recipe, settings, base, writer };
        tuning.all(points)
    })
}

struct Tuning<'a> {
    shared: &'a Shared<'a>,
    plan: &'a Plan,
    judge: &'a Judge<'a>,
    entry: &'a Entry,
    recipe: &'a Recipe,
    settings: &'a Settings,
    base: &'a [PictureRow],
    writer: &'a StageWriter,
}

impl Tuning<'_> {
    fn all(&self, points: Vec<usize>) -> Result<Outcome> {
        let start = Instant::now();
        let (shared, plan, judge) = (self.shared, self.plan, self.judge);
        let last = match rounds::last(shared, plan, judge, self.entry, self.recipe, self.settings) {
            Err(PipelineError::Nan(stop)) => return self.diverged_before(stop.step),
            other => other?,
        };
        let own;
        let (set, recipe, begin, steps) = match &last {
            Some(last) => (&last.set, &last.recipe, &last.model, last.recipe.train.steps),
            None => {
                own = training_set(shared, self.entry, self.recipe, judge)?;
                (&own, self.recipe, &judge.model, self.settings.steps)
            }
        };
        let made = if last.is_some() { 0.0 } else { start.elapsed().as_secs_f64() };
        let loss = self.entry.method.loss;
        let fit = Fit {
            run: &self.shared.run,
            name: &self.entry.name,
            recipe,
            model: &judge.model,
            start: begin,
            set,
            loss,
            learning_rate: self.settings.learning_rate,
            steps,
            online: online(self.shared, self.entry, self.recipe, self.judge)?,
            state: &self.writer.join(".state"),
            reference: None,
        };
        let curve_path = self.writer.join(".curve.jsonl");
        let mut curve: Vec<Point> = jsonl::read_resumable(&curve_path)?.rows;
        let mut measuring = curve.last().map_or(0.0, |p| p.evaluation_seconds);
        let mut whole = None;
        let points = points.iter().copied().filter(|p| *p < steps);
        let ends = points.chain([steps]).collect::<Vec<_>>();
        let before = last.as_ref().map_or(0, |last| last.passes);
        let cost = fit.fit(&ends, &mut |step, unet, cost| {
            let start = Instant::now();
            let done = step == steps;
            if !done && curve.iter().any(|point| point.step == step) {
                return Ok(());
            }
            let (exam, images) = match done {
                true => (&self.judge.full, self.writer.join(IMAGES)),
                false => (&self.judge.curve, self.writer.join(format!("{LOOKS}/step-{step}"))),
            };
            let measured = self.judge.measure(Some(unet), exam, &images)?;
            measuring += start.elapsed().as_secs_f64();
            curve.retain(|p| p.step < step);
            let mut point = self.point(step, cost, &measured, measuring);
            point.sample_passes += before;
            curve.push(point);
            jsonl::write(&curve_path, &curve)?;
            if done {
                let path = self.writer.join(network::file(recipe));
                write_tensors(&path, &network::tensors(recipe, unet))?;
                whole = Some(measured);
            }
            Ok(())
        })?;
        let measured = match (whole, &cost.diverged) {
            (Some(measured), _) => measured,
            (None, Some(_)) => Measured::default(),
            (None, None) => {
                return Err(PipelineError::Usage(format!(
                    "{}: nothing to train; expected at least one step",
                    self.entry.name
                )));
            }
        };
        let _ = std::fs::remove_dir_all(self.writer.join(LOOKS));
        jsonl::write(&self.writer.join(SCORES), &measured.rows)?;
        let mut result = self.result(set, &cost, curve, &measured, made, measuring);
        if let Some(last) = &last {
            let [earlier, generation, scoring] = last.seconds;
            result.steps = steps * self.recipe.rounds.count;
            result.sample_passes += last.passes;
            result.images_generated = last.images;
            // Rounds are drawn, scored and trained one after the other, so all of it stands before the last.
            result.seconds.data = earlier;
            (result.seconds.generation, result.seconds.scoring) = (generation, scoring);
        }
        craft_store::manifest::write_json(&self.writer.join(RESULT), &result)?;
        let gain = gains(self.base, &measured.rows).get(&self.plan.decisive).copied();
        let found = match (&cost.diverged, gain) {
            (Some(why), _) => {
                format!("{why} with learning rate {:.1e}", self.settings.learning_rate)
            }
            (None, gain) => format!("{} {:+.3}", self.plan.decisive, gain.unwrap_or(f64::NAN)),
        };
        Ok(Outcome::default()
            .count("samples", result.samples)
            .count("pairs", result.pairs)
            .count("steps", steps)
            .say(format!("{steps} steps on {} samples; {found}", result.samples)))
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
        craft_store::manifest::write_json(&self.writer.join(RESULT), &result)?;
        Ok(Outcome::default().say(why))
    }

    /// A look, on the curve's prompts even where more were drawn.
    fn point(&self, step: usize, cost: &Cost, measured: &Measured, measuring: f64) -> Point {
        let exam = &self.judge.curve;
        let rows: Vec<PictureRow> =
            measured.rows.iter().filter(|row| exam.has(row)).cloned().collect();
        Point {
            step,
            sample_passes: cost.sample_passes,
            seconds: cost.seconds,
            cpu_seconds: cost.cpu_seconds,
            gains: gains(
                &self.base.iter().filter(|r| exam.has(r)).cloned().collect::<Vec<_>>(),
                &rows,
            ),
            statistics: measured.statistics,
            evaluation_seconds: measuring,
        }
    }

    fn result(
        &self,
        set: &TrainingSet,
        cost: &Cost,
        curve: Vec<Point>,
        measured: &Measured,
        made: f64,
        measuring: f64,
    ) -> TuneResult {
        let shared = self.shared;
        let data = self.entry.method.data;
        let of = |m: &Manifest, name: &str| m.counts.get(name).map_or(0, |n| *n as usize);
        let annotated = shared.pairs.as_ref().filter(|_| data.annotated());
        let mut seconds = Seconds {
            data: made + annotated.map_or(0.0, |m| m.seconds),
            training: cost.seconds,
            evaluation: measuring,
            ..Seconds::default()
        };
        if data.drawn() {
            seconds.generation = shared.generated.seconds;
            seconds.scoring = if data.scored() { shared.scored.seconds } else { 0.0 };
        }
        let reference = self.entry.method.loss.has_reference();
        TuneResult {
            samples: set.used(),
            pairs: if set.unit_length() == 2 { set.units.len() } else { 0 },
            images_generated: if data.drawn() {
                of(&shared.generated, "candidates")
            } else {
                cost.images
            },
            images_annotated: annotated.map_or(0, |m| 2 * of(m, "pairs")),
            learning_rate: self.settings.learning_rate,
            steps: self.settings.steps,
            diverged: cost.diverged.clone(),
            sample_passes: cost.sample_passes,
            reference_passes: if reference { cost.sample_passes } else { 0 },
            skipped_steps: cost.skipped,
            seconds,
            peak_rss_bytes: peak_rss_bytes(),
            curve,
            statistics: measured.statistics,
            diversity: measured.diversity,
        }
    }
}
