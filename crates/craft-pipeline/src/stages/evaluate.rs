//! Stage 6: base against tuned (and control) on prompts that were never trained on, with the same seeds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use craft_core::stats::{PairedDifference, WinRate, mean, paired_bootstrap, win_rate};
use craft_core::{Key, Prompt, Split};
use craft_store::hash::{sha256_bytes, sha256_file};
use craft_store::{DroppedItem, Manifest, Stage, StageWriter, image, jsonl};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cache::ScoreCache;
use crate::error::Result;
use crate::rewards::{RunReward, for_each};
use crate::stages::generate::options;
use crate::stages::pictures::{Item, Series};
use crate::stages::{Outcome, Run, inputs, score};
use crate::start::arm_model;
use crate::statistics::{ImageStatistics, measure};
use crate::world::FactRow;
use craft_model::model::Model;
use craft_model::sample::{DrawOptions, Painter};

/// One picture of one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SampleRow {
    prompt_id: String,
    text: String,
    sample: usize,
    model: String,
    image: String,
    scores: BTreeMap<String, f64>,
    /// Why a reward gave no score.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    missing: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    facts: Vec<FactRow>,
}

/// The name under which the checker's accuracy stands among the rewards.
pub const CHECKER: &str = "checker";

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
        let prompts: Vec<Prompt> = jsonl::read(&run.path("prompts/prompts.jsonl"))?;
        let prompts: Vec<Prompt> = prompts.into_iter().filter(|p| p.split == Split::Eval).collect();
        let samples = recipe.evaluate.samples_per_prompt;
        let pictures = (prompts.len() * samples * models.len()) as u64;
        run.context.progress.start("evaluate", pictures, "images");
        let mut all = Vec::new();
        let mut statistics: BTreeMap<&str, Value> = BTreeMap::new();
        // The base model comes first.
        let base_dir = models.first().map_or(Path::new(""), |(_, dir)| dir);
        for (name, dir) in models {
            let load = || arm_model(recipe, run.base, base_dir, dir);
            let subject = Subject { name, load: &load, samples };
            let (rows, numbers) = one_model(run, writer, &subject, &prompts, rewards, hashes)?;
            all.extend(rows);
            statistics.insert(name, numbers);
        }
        jsonl::write(&writer.join("samples.jsonl"), &all)?;
        let summary = summarise(run, &all, &prompts, rewards, &statistics);
        craft_store::manifest::write_json(&writer.join("evaluation.json"), &summary)?;
        let held_out: Vec<String> = rewards
            .iter()
            .filter(|r| !r.trained_on)
            .map(|r| {
                let entry = &summary["rewards"][&r.name];
                format!(
                    "{} wins {:.0} %",
                    r.name,
                    100.0 * entry["win_rate"].as_f64().unwrap_or(0.0)
                )
            })
            .collect();
        let dropped: Vec<DroppedItem> = all
            .iter()
            .flat_map(|row| row.missing.iter().map(move |(reward, reason)| (row, reward, reason)))
            .map(|(row, reward, reason)| DroppedItem {
                id: format!("{} {}-s{}", row.model, row.prompt_id, row.sample),
                reason: format!("{reward}: {reason}"),
            })
            .collect();
        let (n, missing) = (all.len(), dropped.len());
        Ok(Outcome { dropped, ..Outcome::default() }
            .count("prompts", prompts.len())
            .count("images", n)
            .count("missing", missing)
            .say(format!(
                "{} prompts, {n} pictures; {}{}",
                prompts.len(),
                held_out.join(", "),
                score::lacking(missing)
            )))
    })
}

/// A model to measure.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    pub(crate) load: &'a dyn Fn() -> Result<Model>,
    /// Pictures of each prompt.
    pub(crate) samples: usize,
}

/// Pictures and scores of one model; kept in hidden files, so that a stopped stage continues.
pub(crate) fn one_model(
    run: &Run<'_>,
    writer: &StageWriter,
    &Subject { name, load, samples }: &Subject<'_>,
    prompts: &[Prompt],
    rewards: &[RunReward],
    hashes: &BTreeMap<String, String>,
) -> Result<(Vec<SampleRow>, Value)> {
    let rows_path = writer.join(format!(".rows-{name}.jsonl"));
    let numbers_path = writer.join(format!(".numbers-{name}.json"));
    if let Some(kept) = kept(writer, &rows_path, &numbers_path, prompts.len() * samples) {
        run.context.progress.advance(kept.0.len() as u64);
        return Ok(kept);
    }
    run.context.check()?;
    craft_store::atomic::create_dir(&writer.join(format!("images/{name}")))?;
    let (mut rows, mut items) = (Vec::new(), Vec::new());
    let key = Key::new(run.recipe.seed).stage("evaluate");
    for prompt in prompts {
        for sample in 0..samples {
            let row = SampleRow {
                prompt_id: prompt.id.to_string(),
                text: prompt.text.clone(),
                sample,
                model: name.to_owned(),
                image: format!("images/{name}/{}-s{sample}.png", prompt.id),
                scores: BTreeMap::new(),
                missing: BTreeMap::new(),
                facts: Vec::new(),
            };
            items.push(Item {
                file: writer.join(&row.image),
                prompt: &prompt.text,
                key: key.clone().prompt(&prompt.id).sample(sample as u64),
                place: format!("Prompt: {}, Sample: {sample}", prompt.id),
            });
            rows.push(row);
        }
    }
    let series = Series { recipe: run.recipe, items: &items, model: name };
    if items.iter().all(Item::exists) {
        run.context.progress.advance(items.len() as u64);
    } else {
        // Its memory is free again before rewards are loaded.
        let model = load()?;
        let options = drawing_options(run, &model)?;
        let mut painter = Painter::new(&model, options, run.context.stop)?;
        series.draw(&mut painter, None, run.context.progress)?;
    }
    let texts: Vec<&str> = items.iter().map(|item| item.prompt).collect();
    let files: Vec<PathBuf> = items.iter().map(|item| item.file.clone()).collect();
    score_rows(run, &mut rows, (&files, &texts), rewards, hashes)?;
    let world = run.context.world;
    let (numbers, checked) = measure(&files, samples, |i, picture| {
        world?.check(&picture.data, prompts[i / samples].facts.as_ref()?)
    })?;
    for (row, facts) in rows.iter_mut().zip(checked) {
        if let Some(facts) = facts.filter(|f| !f.is_empty()) {
            let passed = facts.iter().filter(|f| f.passed).count();
            row.scores.insert(CHECKER.to_owned(), passed as f64 / facts.len() as f64);
            row.facts = facts;
        }
    }
    jsonl::write(&rows_path, &rows)?;
    let (numbers, rows_sha256) = (json!(numbers), sha256_file(&rows_path)?);
    let check = check(&rows_sha256, &numbers);
    let measured = Measured { rows_sha256, numbers, check };
    craft_store::manifest::write_json(&numbers_path, &measured)?;
    Ok((rows, measured.numbers))
}

/// What is kept of a model that was measured, beside its rows.
#[derive(Serialize, Deserialize)]
struct Measured {
    rows_sha256: String,
    numbers: Value,
    /// Digest of the two.
    check: String,
}

fn check(rows_sha256: &str, numbers: &Value) -> String {
    sha256_bytes(format!("{rows_sha256} {numbers}"))
}

/// What an interrupted attempt kept of a model, if all of it is as it was written: the rows, the numbers, and
/// the pictures. Otherwise the model is measured again, from the pictures and scores that are left.
fn kept(
    writer: &StageWriter,
    rows_path: &Path,
    numbers_path: &Path,
    pictures: usize,
) -> Option<(Vec<SampleRow>, Value)> {
    let found: Measured = craft_store::manifest::read_json(numbers_path).ok()?;
    let same = sha256_file(rows_path).ok()? == found.rows_sha256
        && check(&found.rows_sha256, &found.numbers) == found.check;
    let rows: Vec<SampleRow> = jsonl::read(rows_path).ok()?;
    let drawn = || rows.iter().all(|row| image::is_whole_png(&writer.join(&row.image)));
    (same && rows.len() == pictures && drawn()).then_some((rows, found.numbers))
}

/// How pictures of the evaluation are drawn.
pub(crate) fn drawing_options(run: &Run<'_>, model: &Model) -> Result<DrawOptions> {
    Ok(DrawOptions {
        steps: run.recipe.evaluate_steps(),
        guidance_scale: run.recipe.evaluate_guidance_scale(),
        ..options(&run.recipe.generate, model)?
    })
}

/// Asks every reward about pictures on disk.
fn score_rows(
    run: &Run<'_>,
    rows: &mut [SampleRow],
    (files, texts): (&[PathBuf], &[&str]),
    rewards: &[RunReward],
    hashes: &BTreeMap<String, String>,
) -> Result<()> {
    let work = score::Work::new(run, score::Pictures::Files(files), texts)?;
    let mut cache = ScoreCache::open(run.folder, &run.context)?;
    let named: Vec<_> = rewards.iter().map(|r| (r.name.as_str(), &r.source)).collect();
    for_each(&named, &Device::flex(), |index, model| {
        let reward = &rewards[index];
        let scorer = (reward, model, hashes[&reward.name].as_str());
        let scores = work.score(run, &mut cache, scorer, |_| ())?;
        for (row, score) in rows.iter_mut().zip(scores) {
            match score {
                Ok(value) => drop(row.scores.insert(reward.name.clone(), value)),
                Err(reason) => drop(row.missing.insert(reward.name.clone(), reason)),
            }
        }
        Ok(())
    })
}

/// Mean score by prompt, over prompts of which every model has one.
pub(crate) fn by_prompt(rows: &[SampleRow], model: &str, reward: &str) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, (f64, usize)> = BTreeMap::new();
    for row in rows.iter().filter(|r| r.model == model) {
        if let Some(score) = row.scores.get(reward) {
            let entry = sums.entry(row.prompt_id.clone()).or_default();
            *entry = (entry.0 + score, entry.1 + 1);
        }
    }
    sums.into_iter().map(|(prompt, (sum, n))| (prompt, sum / n as f64)).collect()
}

/// Paired values of two models over the prompts that both have.
pub(crate) fn pair(a: &BTreeMap<String, f64>, b: &BTreeMap<String, f64>) -> (Vec<f64>, Vec<f64>) {
    a.iter().filter_map(|(prompt, a)| Some((*a, *b.get(prompt)?))).unzip()
}

struct Compared {
    difference: PairedDifference,
    wins: WinRate,
}

fn summarise(
    run: &Run<'_>,
    rows: &[SampleRow],
    prompts: &[Prompt],
    rewards: &[RunReward],
    statistics: &BTreeMap<&str, Value>,
) -> Value {
    let resamples = run.recipe.evaluate.bootstrap;
    let has_control = statistics.contains_key("control");
    let mut names: Vec<(&str, bool)> =
        rewards.iter().map(|r| (r.name.as_str(), r.trained_on)).collect();
    names.push((CHECKER, false));
    let mut table = serde_json::Map::new();
    for (name, trained_on) in names {
        let scores: BTreeMap<&str, BTreeMap<String, f64>> = ["base", "tuned", "control"]
            .into_iter()
            .map(|model| (model, by_prompt(rows, model, name)))
            .collect();
        if scores["base"].is_empty() {
            continue;
        }
        let compare = |a: &str, b: &str| {
            let (a, b) = pair(&scores[a], &scores[b]);
            let mut stream = Key::new(run.recipe.seed).stage("bootstrap").prompt(name).stream();
            Some(Compared {
                difference: paired_bootstrap(&a, &b, resamples, &mut stream)?,
                wins: win_rate(&a, &b)?,
            })
        };
        let average = |model: &str| {
            let values: Vec<f64> = scores[model].values().copied().collect();
            (!values.is_empty()).then(|| mean(&values))
        };
        let Some(tuned) = compare("base", "tuned") else { continue };
        let control = if has_control { compare("base", "control") } else { None };
        let lead = if has_control { compare("control", "tuned") } else { None };
        let entry = json!({
            "base": average("base"),
            "tuned": average("tuned"),
            "control": average("control"),
            "delta": tuned.difference.delta,
            "ci95": tuned.difference.ci95,
            "win_rate": tuned.wins.win_rate,
            "ties": tuned.wins.ties,
            "trained_on": trained_on,
            "control_delta": control.as_ref().map(|c| c.difference.delta),
            "control_ci95": control.as_ref().map(|c| c.difference.ci95),
            "tuned_minus_control": lead.map(|l| json!({
                "delta": l.difference.delta,
                "ci95": l.difference.ci95,
                "win_rate": l.wins.win_rate,
            })),
        });
        table.insert(name.to_owned(), entry);
    }
    let of = |path: &str, model: &str| {
        statistics.get(model).and_then(|v| v.pointer(path)).cloned().unwrap_or(Value::Null)
    };
    let three = |path: &str| json!({"base": of(path, "base"), "tuned": of(path, "tuned"), "control": of(path, "control")});
    let drift: serde_json::Map<String, Value> = ImageStatistics::NAMES
        .iter()
        .map(|name| ((*name).to_owned(), three(&format!("/statistics/{name}"))))
        .collect();
    json!({
        "rewards": table,
        "checker_by_kind": by_kind(rows),
        "drift": drift,
        "diversity": three("/diversity"),
        "prompts": prompts.len(),
        "samples_per_prompt": run.recipe.evaluate.samples_per_prompt,
    })
}

/// Share of facts found, by kind of fact and model.
fn by_kind(rows: &[SampleRow]) -> Value {
    let mut counts: BTreeMap<&str, BTreeMap<&str, (usize, usize)>> = BTreeMap::new();
    for row in rows {
        for fact in &row.facts {
            let entry = counts.entry(&fact.kind).or_default().entry(&row.model).or_default();
            *entry = (entry.0 + usize::from(fact.passed), entry.1 + 1);
        }
    }
    let kinds: serde_json::Map<String, Value> = counts
        .into_iter()
        .map(|(kind, models)| {
            let share = |model: &str| models.get(model).map(|(hits, n)| *hits as f64 / *n as f64);
            let n = models.get("base").map_or(0, |(_, n)| *n);
            let entry = json!({
                "base": share("base"), "tuned": share("tuned"), "control": share("control"), "n": n,
            });
            (kind.to_owned(), entry)
        })
        .collect();
    Value::Object(kinds)
}
