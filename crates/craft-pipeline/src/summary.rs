//! How a run ended: `run.json` and the page.

use std::collections::BTreeMap;
use std::path::PathBuf;

use craft_core::select::Shortfall;
use craft_store::{Manifest, RunFolder};
use serde_json::{Map, Value, json};

use crate::driver::Advance;
use crate::error::Result;
use crate::meter::whole_peak_rss_bytes;
use crate::origin;
use crate::sources::Sources;
use crate::stages::select;
use crate::stages::table::StageId;

/// What a finished run says of itself: the contents of `run.json`.
#[derive(Clone, Debug)]
pub struct Summary {
    /// `run.json`.
    pub json: Value,
    /// The report's page.
    pub report: PathBuf,
}

/// Seconds of the rounds before, of each stage, and of all.
fn seconds(at: &Advance<'_>, earlier: Option<f64>) -> Map<String, Value> {
    let before = earlier.map(|seconds| ("rounds".to_owned(), seconds));
    // Prompts take none.
    let stages = at.manifests().filter(|(id, _)| *id != StageId::Prompts);
    let each = stages.map(|(_, manifest)| (manifest.stage.clone(), manifest.seconds));
    let mut all: Vec<(String, f64)> = before.into_iter().chain(each).collect();
    let total = all.iter().map(|(_, seconds)| seconds).sum();
    all.push(("total".to_owned(), total));
    all.into_iter().map(|(name, seconds)| (name, json!(seconds))).collect()
}

/// Writes `run.json` and the page of a run whose stages are done.
///
/// # Errors
/// When a stage is not done, or a file cannot be read or written.
pub(crate) fn write(at: &Advance<'_>, sources: &Sources, earlier: Option<f64>) -> Result<Summary> {
    let (folder, recipe) = (at.run.folder, at.run.recipe);
    let evaluation: Value =
        craft_store::manifest::read_json(&folder.join("evaluation/evaluation.json"))?;
    let [prompted, generated, selected, evaluated] =
        [StageId::Prompts, StageId::Generate, StageId::Select, StageId::Evaluate]
            .map(|id| at.manifest(id));
    let (prompted, generated, selected, evaluated) = (prompted?, generated?, selected?, evaluated?);
    let count = |m: &Manifest, name: &str| m.counts.get(name).copied().unwrap_or(0);
    let passed: Map<String, Value> = selected
        .counts
        .iter()
        .filter_map(|(name, n)| Some((name.strip_prefix("passed.")?.to_owned(), json!(n))))
        .collect();
    let origins: BTreeMap<&str, Value> =
        sources.rewards.iter().map(|reward| (reward.name.as_str(), reward.origin())).collect();
    let json = json!({
        "code_version": env!("CARGO_PKG_VERSION"),
        "seed": recipe.seed,
        "model": { "path": recipe.model.path, "commit": sources.model.commit },
        "reward_origins": origins,
        "matmul_precision": origin::matmul_precision(),
        "rounds": recipe.rounds.count,
        "seconds": seconds(at, earlier),
        "peak_rss_bytes": whole_peak_rss_bytes(),
        "prompts": count(prompted, "train"),
        "evaluation_prompts": count(prompted, "eval"),
        "candidates": count(generated, "candidates"),
        "passed": passed,
        "passed_all": count(selected, "passed"),
        "selected": count(selected, "selected"),
        "images": count(generated, "candidates") + count(evaluated, "images"),
        "asked": recipe.select.max_samples,
        "train_mode": recipe.train.mode,
        "warnings": warnings(folder)?,
        "verdict": craft_report::verdict(folder.path())?,
        "evaluation": evaluation["rewards"],
    });
    craft_store::manifest::write_json(&folder.join("run.json"), &json)?;
    let report = craft_report::write_report(folder.path())?;
    Ok(Summary { json, report })
}

/// What a reader of the summary should not miss.
fn warnings(folder: &RunFolder) -> Result<Vec<String>> {
    let path = folder.join("selection").join(select::SHORTFALL);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let short: Shortfall = craft_store::manifest::read_json(&path)?;
    Ok(vec![short.text])
}
