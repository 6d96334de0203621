//! Stage 6: base against tuned (and control) on prompts that were never trained on, with the same seeds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use craft_store::{DroppedItem, Manifest, Stage, StageWriter, jsonl};
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::rewards::RunReward;
use crate::stages::means::Means;
pub(crate) use crate::stages::measuring::{CHECKER, drawing_options};
use crate::stages::measuring::{Questions, SampleRow, Subject, one_model, rows_path};
use crate::stages::{Outcome, Run, inputs, score};
use crate::start::arm_model;
use crate::statistics::ImageStatistics;

/// Draws, scores and compares.
pub(crate) fn run(
    run: &Run<'_>,
    models: &[(&'static str, PathBuf)],
    rewards: &[RunReward],
    hashes: &BTreeMap<String, String>,
    stages: &[&Manifest],
) -> Result<Manifest> {
    let recipe = run.recipe;
    let mut inputs = inputs(stages);
    inputs.extend(hashes.clone());
    let names: Vec<(&str, bool)> =
        rewards.iter().map(|r| (r.name.as_str(), r.trained_on)).collect();
    let generate = craft_core::recipe::GenerateSection { batch: 1, ..recipe.generate.clone() };
    let config = (&recipe.evaluate, generate, names, recipe.seed);
    run.stage(Stage::EVALUATE, &config, inputs, |writer| {
        let questions = Questions::of(run, usize::MAX, recipe.evaluate.samples_per_prompt);
        let prompts = questions.count()?;
        let pictures = (prompts * questions.samples * models.len()) as u64;
        run.context.progress.start("evaluate", pictures, "images");
        let mut statistics: BTreeMap<&str, Value> = BTreeMap::new();
        // The base model comes first.
        let base_dir = models.first().map_or(Path::new(""), |(_, dir)| dir);
        for (name, dir) in models {
            let load = || arm_model(recipe, run.base, [base_dir, dir], run.context.device());
            let subject = Subject { name, load: &load, questions: &questions };
            statistics.insert(name, one_model(run, writer, &subject, rewards, hashes)?);
        }
        let names = models.iter().map(|(name, _)| *name);
        let found = Found::read(writer, names)?;
        let summary = summarise(run, &found, prompts, rewards, &statistics);
        craft_store::manifest::write_json(&writer.join("evaluation.json"), &summary)?;
        let held_out: Vec<String> = rewards
            .iter()
            .filter(|r| !r.trained_on)
            .map(|r| {
                let wins = summary["rewards"][&r.name]["win_rate"].as_f64().unwrap_or(0.0);
                format!("{} wins {:.0} %", r.name, 100.0 * wins)
            })
            .collect();
        let Found { pictures, dropped, .. } = found;
        let missing = dropped.len();
        Ok(Outcome { dropped, ..Outcome::default() }
            .count("prompts", prompts)
            .count("images", pictures)
            .count("missing", missing)
            .say(format!(
                "{prompts} prompts, {pictures} pictures; {}{}",
                held_out.join(", "),
                score::lacking(missing)
            )))
    })
}

/// What the rows of all models say together.
#[derive(Default)]
struct Found {
    pictures: usize,
    means: Means,
    facts: Facts,
    dropped: Vec<DroppedItem>,
}

/// Facts found and looked for, by their kind and by model.
type Facts = BTreeMap<String, BTreeMap<String, (usize, usize)>>;

impl Found {
    /// Joins the rows of the models in one file.
    fn read<'m>(writer: &StageWriter, models: impl Iterator<Item = &'m str>) -> Result<Self> {
        let mut found = Self::default();
        let mut file = jsonl::Writer::create(&writer.join("samples.jsonl"))?;
        for model in models {
            for row in jsonl::rows::<SampleRow>(&rows_path(writer, model))? {
                let row = row?;
                file.put(&row)?;
                found.take(&row);
            }
        }
        file.commit()?;
        Ok(found)
    }

    fn take(&mut self, row: &SampleRow) {
        self.pictures += 1;
        self.means.add(row);
        for fact in &row.facts {
            let models = self.facts.entry(fact.kind.clone()).or_default();
            let (passed, all) = models.entry(row.model.clone()).or_default();
            (*passed, *all) = (*passed + usize::from(fact.passed), *all + 1);
        }
        self.dropped.extend(row.missing.iter().map(|(reward, reason)| DroppedItem {
            id: format!("{} {}-s{}", row.model, row.prompt_id, row.sample),
            reason: format!("{reward}: {reason}"),
        }));
    }
}

/// How one reward sees the models; none where it has no score of base or tuned.
fn compared(
    run: &Run<'_>,
    means: &Means,
    has_control: bool,
    (name, trained_on): (&str, bool),
) -> Option<Value> {
    if !means.any("base", name) {
        return None;
    }
    let drawing = (run.recipe.seed, run.recipe.evaluate.bootstrap);
    let compare = |pair: [&str; 2]| means.difference(pair, name, drawing);
    let (tuned, wins) = compare(["base", "tuned"])?;
    let control = if has_control { compare(["base", "control"]) } else { None };
    let lead = if has_control { compare(["control", "tuned"]) } else { None };
    Some(json!({
        "base": means.mean("base", name),
        "tuned": means.mean("tuned", name),
        "control": means.mean("control", name),
        "delta": tuned.delta,
        "ci95": tuned.ci95,
        "win_rate": wins.win_rate,
        "ties": wins.ties,
        "trained_on": trained_on,
        "control_delta": control.as_ref().map(|(c, _)| c.delta),
        "control_ci95": control.as_ref().map(|(c, _)| c.ci95),
        "tuned_minus_control": lead.map(|(l, wins)| json!({
            "delta": l.delta,
            "ci95": l.ci95,
            "win_rate": wins.win_rate,
        })),
    }))
}

fn summarise(
    run: &Run<'_>,
    found: &Found,
    prompts: usize,
    rewards: &[RunReward],
    statistics: &BTreeMap<&str, Value>,
) -> Value {
    let has_control = statistics.contains_key("control");
    let names = rewards.iter().map(|r| (r.name.as_str(), r.trained_on));
    let table: Map<String, Value> = names
        .chain([(CHECKER, false)])
        .filter_map(|reward| {
            let entry = compared(run, &found.means, has_control, reward)?;
            Some((reward.0.to_owned(), entry))
        })
        .collect();
    let of = |path: &str, model: &str| {
        statistics.get(model).and_then(|v| v.pointer(path)).cloned().unwrap_or(Value::Null)
    };
    let three = |path: &str| json!({"base": of(path, "base"), "tuned": of(path, "tuned"), "control": of(path, "control")});
    let drift: Map<String, Value> = ImageStatistics::NAMES
        .iter()
        .map(|name| ((*name).to_owned(), three(&format!("/statistics/{name}"))))
        .collect();
    json!({
        "rewards": table,
        "checker_by_kind": by_kind(&found.facts),
        "drift": drift,
        "diversity": three("/diversity"),
        "prompts": prompts,
        "samples_per_prompt": run.recipe.evaluate.samples_per_prompt,
    })
}

/// Share of facts found, by kind of fact and model.
fn by_kind(facts: &Facts) -> Value {
    let kinds: Map<String, Value> = facts
        .iter()
        .map(|(kind, models)| {
            let share = |model: &str| models.get(model).map(|(hits, n)| *hits as f64 / *n as f64);
            let n = models.get("base").map_or(0, |(_, n)| *n);
            let entry = json!({
                "base": share("base"), "tuned": share("tuned"), "control": share("control"), "n": n,
            });
            (kind.clone(), entry)
        })
        .collect();
    Value::Object(kinds)
}
