//! `compare.json`: everything that was measured, by method and seed and over seeds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use craft_core::Key;
use craft_core::stats::{MeanInterval, mean, mean_interval, win_rate_interval};
use craft_store::{RunFolder, jsonl};
use serde_json::{Map, Value, json};

use super::entry::Entry;
use super::methods::CRAFT;
use super::pipeline::{CHECKER, Result, matmul_precision};
use super::plan::Plan;
use super::result::{RESULT, SCORES, TuneResult};
use super::scores::{PictureRow, by_prompt, paired, wins};
use super::tune::BASE;
use super::{Comparison, conclusion, convergence, search, table};

/// Resamples of the intervals of win rates.
const RESAMPLES: usize = 2000;

/// One method on one seed.
pub(super) struct Tuned {
    pub(super) seed: u64,
    pub(super) result: TuneResult,
    rows: Vec<PictureRow>,
}

/// A method with the seeds that are done.
pub(super) struct Row<'a> {
    pub(super) entry: &'a Entry,
    pub(super) seeds: Vec<Tuned>,
}

/// Scores of a stage's pictures, if it is finished.
fn scores(folder: &Path, seed: u64, stage: &str) -> Result<Option<Vec<PictureRow>>> {
    let dir = folder.join(format!("seed-{seed}")).join(stage);
    if !dir.join(craft_store::manifest::STAGE_FILE).exists() {
        return Ok(None);
    }
    Ok(Some(jsonl::read(&dir.join(SCORES))?))
}

/// Writes `compare.json`, `compare.md` and the page from what is finished.
pub(super) fn write(plan: &Plan, run: &RunFolder) -> Result<Comparison> {
    let folder = run.path();
    let mut base: BTreeMap<u64, Vec<PictureRow>> = BTreeMap::new();
    for &seed in &plan.seeds {
        if let Some(rows) = scores(folder, seed, BASE.folder())? {
            base.insert(seed, rows);
        }
    }
    let mut rows = Vec::new();
    for entry in &plan.entries {
        let mut seeds = Vec::new();
        for &seed in &plan.seeds {
            let Some(found) = scores(folder, seed, entry.stage.folder())? else { continue };
            let dir = folder.join(format!("seed-{seed}")).join(entry.stage.folder());
            let result = craft_store::manifest::read_json(&dir.join(RESULT))?;
            seeds.push(Tuned { seed, result, rows: found });
        }
        rows.push(Row { entry, seeds });
    }
    let mut rewards: Vec<(String, bool)> =
        plan.rewards.iter().map(|r| (r.name.clone(), r.trained_on)).collect();
    if base.values().flatten().any(|row| row.scores.contains_key(CHECKER)) {
        rewards.push((CHECKER.to_owned(), false));
    }
    let mut methods = Map::new();
    for row in &rows {
        methods
            .insert(row.entry.name.clone(), of_method(plan, folder, row, &rows, &base, &rewards)?);
    }
    let named = |(name, trained_on): &(String, bool)| json!({ "name": name, "trained_on": trained_on, "base": base_mean(&base, name) });
    let done: BTreeSet<u64> = rows.iter().flat_map(|r| r.seeds.iter().map(|t| t.seed)).collect();
    let mut json = json!({
        "code_version": env!("CARGO_PKG_VERSION"),
        "seeds": done,
        "seeds_planned": plan.seeds,
        "matmul_precision": matmul_precision(),
        "decisive": plan.decisive,
        "rewards": rewards.iter().map(named).collect::<Vec<_>>(),
        "evaluation_prompts": base.values().next().map(|rows| prompts(rows)),
        "curve_prompts": plan.curve_prompts,
        "learning_rates": (plan.search_seeds > 0).then_some(&plan.learning_rates),
        "methods": methods,
        "convergence": convergence::of(plan, &rows),
    });
    json["conclusion"] = conclusion::of(&json);
    craft_store::manifest::write_json(&folder.join("compare.json"), &json)?;
    let table = table::markdown(&json);
    craft_store::atomic::write(&folder.join("compare.md"), table.as_bytes())?;
    let report = craft_report::write_comparison(folder)?;
    Ok(Comparison { json, table, report })
}

fn prompts(rows: &[PictureRow]) -> usize {
    let mut ids: Vec<&str> = rows.iter().map(|r| r.prompt_id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.len()
}

fn base_mean(base: &BTreeMap<u64, Vec<PictureRow>>, reward: &str) -> Value {
    let means: Vec<f64> = base
        .values()
        .map(|rows| mean(&by_prompt(rows, reward).into_values().collect::<Vec<_>>()))
        .collect();
    json!(mean_interval(&means))
}

/// Changes and wins over another model, by seed.
#[derive(Default)]
struct Against {
    changes: Vec<f64>,
    wins: Vec<BTreeMap<String, f64>>,
}

impl Against {
    fn add(&mut self, a: &[PictureRow], b: &[PictureRow], reward: &str) {
        let (before, after) = paired(a, b, reward);
        if before.is_empty() {
            return;
        }
        let change: Vec<f64> = before.iter().zip(&after).map(|(a, b)| b - a).collect();
        self.changes.push(mean(&change));
        self.wins.push(wins(a, b, reward));
    }

    /// On the prompts that all seeds have.
    fn win_rate(&self) -> Option<MeanInterval> {
        let (first, others) = self.wins.split_first()?;
        let common = |prompt: &&String| others.iter().all(|wins| wins.contains_key(*prompt));
        let prompts: Vec<&String> = first.keys().filter(common).collect();
        let of_seed = |wins: &BTreeMap<String, f64>| prompts.iter().map(|p| wins[*p]).collect();
        let all: Vec<Vec<f64>> = self.wins.iter().map(of_seed).collect();
        win_rate_interval(&all, RESAMPLES, &mut Key::new(0).stage("bootstrap").stream())
    }
}

/// One method in `compare.json`.
fn of_method(
    plan: &Plan,
    folder: &Path,
    row: &Row<'_>,
    rows: &[Row<'_>],
    base: &BTreeMap<u64, Vec<PictureRow>>,
    rewards: &[(String, bool)],
) -> Result<Value> {
    let craft = rows.iter().find(|r| r.entry.name == CRAFT && row.entry.name != CRAFT);
    let of_craft = |seed: u64| Some(&craft?.seeds.iter().find(|t| t.seed == seed)?.rows);
    let mut over_seeds = Map::new();
    for (reward, _) in rewards {
        let (mut gain, mut lead) = (Against::default(), Against::default());
        for tuned in &row.seeds {
            if let Some(before) = base.get(&tuned.seed) {
                gain.add(before, &tuned.rows, reward);
            }
            if let Some(before) = of_craft(tuned.seed) {
                lead.add(before, &tuned.rows, reward);
            }
        }
        let entry = json!({
            "change": mean_interval(&gain.changes),
            "win_rate": gain.win_rate(),
            "change_against_craft": mean_interval(&lead.changes),
            "win_rate_against_craft": lead.win_rate(),
            "change_by_seed": gain.changes,
        });
        over_seeds.insert(reward.clone(), entry);
    }
    let by_seed: Map<String, Value> =
        row.seeds.iter().map(|t| (t.seed.to_string(), json!(t.result))).collect();
    let method = row.entry.method;
    let diverged: Vec<u64> =
        row.seeds.iter().filter(|t| t.result.diverged.is_some()).map(|t| t.seed).collect();
    Ok(json!({
        "about": method.about,
        "method": method.name,
        "settings": row.entry.changes,
        "part": row.entry.part,
        "diverged": diverged,
        "search": search::read(plan, folder, row.entry)?,
        "rewards": over_seeds,
        "mean": means(row),
        "seeds": by_seed,
    }))
}

/// What a method was and cost, as means over its seeds.
fn means(row: &Row<'_>) -> Value {
    let average = |number: fn(&TuneResult) -> f64| {
        mean_interval(&row.seeds.iter().map(|t| number(&t.result)).collect::<Vec<_>>())
            .map(|m| m.mean)
    };
    json!({
        "samples": average(|r| r.samples as f64),
        "pairs": average(|r| r.pairs as f64),
        "images_generated": average(|r| r.images_generated as f64),
        "images_annotated": average(|r| r.images_annotated as f64),
        "steps": average(|r| r.steps as f64),
        "learning_rate": average(|r| r.learning_rate),
        "sample_passes": average(|r| r.sample_passes as f64),
        "seconds": {
            "generation": average(|r| r.seconds.generation),
            "scoring": average(|r| r.seconds.scoring),
            "data": average(|r| r.seconds.data),
            "training": average(|r| r.seconds.training),
            "evaluation": average(|r| r.seconds.evaluation),
        },
        "peak_rss_bytes": average(|r| r.peak_rss_bytes as f64),
    })
}
