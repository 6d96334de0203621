//! The search of a method's learning rate and length: the same grid for every method, on prompts that
//! nothing is reported on, with the candidates of the first seeds; the mean over them chooses.

use std::path::Path;

use craft_core::Recipe;
use craft_store::manifest::{read_json, write_json};
use craft_store::{Stage, StageWriter, jsonl};
use craft_train::lesson::References;
use craft_train::online::Scorer;
use craft_train::set::Set;
use serde::Serialize;
use serde_json::json;

use super::Shared;
use super::data::training_set;
use super::entry::Entry;
use super::evaluator::Evaluator;
use super::fit::{Fit, Look};
use super::pipeline::{CHECKER, Outcome, Result};
use super::plan::Plan;
use super::result::SCORES;
use super::scores::{PictureRow, gains};
use super::settings::{SeedSearch, Settings, Trial, best, mean_of};
use super::tune::{scorer, training_identity, training_inputs};

const BASE: Stage = Stage::new("search base", "search/base");
/// Pictures of evaluations, in the folder of a search until they are measured.
const LOOKS: &str = ".looks";
/// What was tried and chosen, in the folder of a search.
const FILE: &str = "search.json";

/// A finished search, over all its seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Search {
    /// The reward that decided.
    pub(super) reward: String,
    /// The share of facts that the chosen settings may lose; `null` in JSON: any.
    pub(super) fact_loss: f64,
    /// Prompts, one picture each.
    pub(super) prompts: usize,
    pub(super) seeds: Vec<u64>,
    /// Means over the seeds.
    pub(super) trials: Vec<Trial>,
    pub(super) chosen: Settings,
    /// The best change; `None` if training diverged at every rate before its first evaluation.
    pub(super) gain: Option<f64>,
    pub(super) seconds: f64,
}

/// Tries all learning rates and lengths of a method with the candidates of one seed.
///
/// # Errors
/// Those of training and measuring; what was tried is kept.
pub(super) fn run(
    shared: &Shared<'_>,
    plan: &Plan,
    evaluator: &Evaluator<'_>,
    entry: &Entry,
) -> Result<()> {
    let run = &shared.run;
    let base = base(shared, plan, evaluator)?;
    let recipe = entry.recipe(run.recipe);
    let points = plan.points(entry);
    let config = json!([
        training_identity(entry, &recipe),
        plan.learning_rates,
        points,
        plan.search_prompts,
        plan.decisive,
        run.recipe.seed,
        // Evaluations count the facts too, which those of earlier versions did not.
        CHECKER,
    ]);
    let mut inputs = training_inputs(shared, entry);
    inputs.insert(plan.decisive.clone(), evaluator.hashes[&plan.decisive].clone());
    run.stage(entry.search.clone(), &config, inputs, |writer| {
        let start = std::time::Instant::now();
        let set = training_set(run, &recipe, entry.part, entry.method, evaluator)?;
        let grid = Grid { shared, plan, evaluator, entry, recipe, points, base, set, writer };
        let trials = grid.trials()?;
        let found = match best(&trials, plan.fact_loss) {
            None => "diverged at every rate".to_owned(),
            Some((rate, steps, gain)) => {
                format!("learning rate {rate:.1e}, {steps} steps ({} {gain:+.3})", plan.decisive)
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        write_json(&writer.join(FILE), &SeedSearch { seed: run.recipe.seed, trials, seconds })?;
        Ok(Outcome::default().say(format!("best of this seed: {found}")))
    })?;
    Ok(())
}

/// The search of a method on one seed.
struct Grid<'a> {
    shared: &'a Shared<'a>,
    plan: &'a Plan,
    evaluator: &'a Evaluator<'a>,
    entry: &'a Entry,
    recipe: Recipe,
    /// Steps at which each trial is evaluated.
    points: Vec<usize>,
    /// Scores of the base model.
    base: Vec<PictureRow>,
    set: Set,
    writer: &'a StageWriter,
}

/// Steps, change of the decisive reward and change of the facts, at a point of a trial.
type Evaluated = (usize, Option<f64>, Option<f64>);

impl Grid<'_> {
    fn trials(&self) -> Result<Vec<Trial>> {
        let references = References::default();
        let rates = self.plan.learning_rates.iter().enumerate();
        rates.map(|(i, rate)| self.trial(i, *rate, &references)).collect()
    }

    /// Trains at the `i`-th learning rate, or continues. Trials share the errors of the frozen reference.
    fn trial(&self, i: usize, learning_rate: f64, references: &References) -> Result<Trial> {
        let done = self.writer.join(format!(".trial-{i}.json"));
        if done.exists() {
            return Ok(read_json(&done)?);
        }
        let (plan, evaluator) = (self.plan, self.evaluator);
        let path = self.writer.join(format!(".looks-{i}.jsonl"));
        let mut curve: Vec<Evaluated> = jsonl::read_resumable(&path)?.rows;
        let name = format!("{}, learning rate {learning_rate:.1e}", self.entry.name);
        let scorer = scorer(self.shared, self.entry, &self.recipe, evaluator)?;
        let fit = Fit {
            run: &self.shared.run,
            name: &name,
            recipe: &self.recipe,
            model: &evaluator.model,
            start: &evaluator.model,
            factors: None,
            set: &self.set,
            method: self.entry.method,
            learning_rate,
            steps: self.points.last().copied().unwrap_or(1),
            scorer: scorer.as_ref().map(|s| s as &dyn Scorer),
            state: &self.writer.join(format!(".state-{i}")),
            known: Some(references),
        };
        let cost = fit.fit(&self.points, &mut |look: &Look<'_>| {
            let step = look.step;
            if curve.iter().any(|(known, ..)| *known == step) {
                return Ok(());
            }
            let images = self.writer.join(format!("{LOOKS}-{i}/step-{step}"));
            let measured = evaluator.measure(Some(look.model), &evaluator.search, &images)?;
            let all = gains(&self.base, &measured.rows);
            curve.retain(|(before, ..)| *before < step);
            curve.push((step, all.get(&plan.decisive).copied(), all.get(CHECKER).copied()));
            Ok(jsonl::write(&path, &curve)?)
        })?;
        let trial = Trial {
            learning_rate,
            gains: curve.iter().filter_map(|(step, gain, _)| Some((*step, (*gain)?))).collect(),
            facts: curve.iter().filter_map(|(step, _, facts)| Some((*step, (*facts)?))).collect(),
            stopped: cost.diverged,
        };
        write_json(&done, &trial)?;
        let _ = craft_store::atomic::remove_tree(&self.writer.join(format!("{LOOKS}-{i}")));
        Ok(trial)
    }
}

/// The base model on the search's prompts.
fn base(shared: &Shared<'_>, plan: &Plan, evaluator: &Evaluator<'_>) -> Result<Vec<PictureRow>> {
    let recipe = shared.run.recipe;
    let config = json!([recipe.evaluate, recipe.generate, recipe.seed, plan.search_prompts]);
    let mut inputs = evaluator.hashes.clone();
    inputs.insert("model".to_owned(), shared.model_hash.clone());
    shared.run.stage(BASE, &config, inputs, |writer| {
        let measured = evaluator.measure(None, &evaluator.search, &writer.join(LOOKS))?;
        jsonl::write(&writer.join(SCORES), &measured.rows)?;
        let _ = craft_store::atomic::remove_tree(&writer.join(LOOKS));
        Ok(Outcome::default().say("base model on the prompts for choosing settings"))
    })?;
    Ok(jsonl::read(&shared.run.path(&format!("{}/{SCORES}", BASE.folder())))?)
}

/// The search of a method, if there was one and all its seeds are done.
pub(super) fn read(plan: &Plan, folder: &Path, entry: &Entry) -> Result<Option<Search>> {
    if !entry.searches() {
        return Ok(None);
    }
    let mut seeds = Vec::new();
    for seed in plan.searched() {
        let path = folder.join(format!("seed-{seed}")).join(entry.search.folder()).join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        seeds.push(read_json::<SeedSearch>(&path)?);
    }
    if seeds.is_empty() {
        return Ok(None);
    }
    let trials = mean_of(&seeds);
    // If none came as far as an evaluation, the most cautious settings are tried once more.
    let smallest = plan.learning_rates.iter().copied().fold(f64::INFINITY, f64::min);
    let shortest = plan.points(entry).first().copied().unwrap_or(1);
    let (learning_rate, steps, gain) = best(&trials, plan.fact_loss)
        .map_or((smallest, shortest, None), |(rate, steps, gain)| (rate, steps, Some(gain)));
    Ok(Some(Search {
        reward: plan.decisive.clone(),
        fact_loss: plan.fact_loss,
        prompts: plan.search_prompts,
        seeds: seeds.iter().map(|s| s.seed).collect(),
        trials,
        chosen: Settings { learning_rate, steps },
        gain,
        seconds: seeds.iter().map(|s| s.seconds).sum(),
    }))
}

/// What was chosen; without a search the recipe's learning rate and the method's full length.
pub(super) fn settings(plan: &Plan, folder: &Path, entry: &Entry) -> Result<Settings> {
    if let Some(search) = read(plan, folder, entry)? {
        return Ok(search.chosen);
    }
    Ok(Settings {
        learning_rate: entry.recipe(&plan.recipe).train.learning_rate,
        steps: plan.points(entry).last().copied().unwrap_or(1),
    })
}
