//! State of a training that is not finished: what is trained, the optimizer, and how far it is.
//!
//! A checkpoint is a folder `step-N` that appears whole. Its `state.json` holds the hashes of the other
//! files and a digest of itself, so that damage is noticed. Two are kept, and none is removed before its successor is in place: a damaged
//! one costs the steps since the one before it, never the whole training.

use std::path::{Path, PathBuf};

use craft_core::recipe::TrainMode;
use craft_diffusion::guard::NanGuard;
use craft_diffusion::optimizer::AdamW;
use craft_store::hash::{sha256_bytes, sha256_file};
use craft_store::manifest::{read_json, write_json};
use craft_store::{atomic, jsonl};
use serde_json::{Value, json};

use crate::error::Result;
use crate::networks::Networks;
use crate::stages::Run;
use craft_model::model::{read_tensors, write_tensors};

const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
/// Checkpoints that are kept.
const KEPT: usize = 2;

/// The file of a checkpoint that holds what is trained.
pub(super) fn part(run: &Run<'_>) -> &'static str {
    match run.recipe.train.mode {
        TrainMode::Full => "unet",
        TrainMode::Lora => "lora",
    }
}

/// All checkpoints of a folder, the newest last.
fn all(root: &Path) -> Vec<(usize, PathBuf)> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut steps: Vec<(usize, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.path();
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    steps.sort();
    steps
}

/// Digest of a state but for the fingerprint, which is compared by itself.
fn digest(state: &Value) -> String {
    let mut state = state.clone();
    if let Some(entries) = state.as_object_mut() {
        entries.retain(|key, _| key != "fingerprint" && key != "check");
    }
    sha256_bytes(state.to_string())
}

/// Why a checkpoint cannot be continued from; `None` if it can.
fn unfit(dir: &Path, fingerprint: &str, part: &str) -> Option<String> {
    let Ok(state) = read_json::<Value>(&dir.join(STATE)) else {
        return Some(format!("{STATE} is missing or damaged"));
    };
    let changed = |file: &str| format!("{file} was changed or damaged after it was written");
    if state["check"] != digest(&state) {
        return Some(changed(STATE));
    }
    for part in [part, "optimizer"] {
        let file = format!("{part}.safetensors");
        if !dir.join(&file).is_file() {
            return Some(format!("{file} is missing"));
        }
        let hash = sha256_file(&dir.join(&file));
        if !hash.is_ok_and(|hash| state[format!("{part}_sha256")] == hash) {
            return Some(changed(&file));
        }
    }
    let other = state["fingerprint"] != fingerprint;
    other.then(|| "it belongs to another recipe, model or selection".to_owned())
}

/// The newest checkpoint that training can continue from. Says from which step it continues, which
/// checkpoints it passes over, and where a training that had begun starts anew.
pub(super) fn latest(
    run: &Run<'_>,
    arm: &str,
    root: &Path,
    fingerprint: &str,
) -> Option<(usize, PathBuf)> {
    let progress = run.context.progress;
    let mut passed = false;
    for (step, path) in all(root).into_iter().rev() {
        match unfit(&path, fingerprint, part(run)) {
            None => {
                progress.note(&format!("{arm}: continuing from step {step}"));
                return Some((step, path));
            }
            Some(why) => {
                progress.note(&format!(
                    "warning: {arm}: the checkpoint of step {step} is passed over: {why}"
                ));
                passed = true;
            }
        }
    }
    if passed {
        progress.note(&format!("{arm}: training begins at step 0, since no checkpoint is left"));
    } else if has_begun(run, arm) {
        progress.note(&format!(
            "{arm}: training begins at step 0, since it ended before its first checkpoint (train.checkpoint_every = {})",
            run.recipe.train.checkpoint_every
        ));
    }
    None
}

/// Whether an earlier attempt did a step of a training.
fn has_begun(run: &Run<'_>, arm: &str) -> bool {
    let rows = jsonl::read_resumable::<Value>(&run.path("metrics.jsonl"));
    rows.is_ok_and(|found| found.rows.iter().any(|row| row["run"] == arm))
}

/// Restores the optimizer of a checkpoint.
pub(super) fn restore(adam: &mut AdamW, dir: &Path, step: usize) -> Result<()> {
    let state: Value = read_json(&dir.join(STATE))?;
    let updates = state["updates"].as_u64().map_or(step, |n| n as usize);
    adam.restore(updates, read_tensors(&dir.join(OPTIMIZER))?);
    Ok(())
}

/// Updates that the NaN guard had skipped at a checkpoint; those of earlier versions do not say.
pub(super) fn skipped(dir: &Path) -> Result<usize> {
    let state: Value = read_json(&dir.join("state.json"))?;
    Ok(state["skipped"].as_u64().unwrap_or(0) as usize)
}

/// Removes a checkpoint.
pub(super) fn remove(root: &Path, step: usize) -> Result<()> {
    let path = root.join(format!("step-{step}"));
    if path.exists() {
        atomic::remove_dir(&path)?;
    }
    Ok(())
}

/// Saves a checkpoint atomically, unless it is there, and then removes those that are too old.
pub(super) fn save(
    run: &Run<'_>,
    root: &Path,
    fingerprint: &str,
    step: usize,
    networks: &Networks,
    adam: &AdamW,
    guard: &NanGuard,
) -> Result<()> {
    let part = part(run);
    atomic::create_dir(root)?;
    let target = root.join(format!("step-{step}"));
    if target.exists() && unfit(&target, fingerprint, part).is_none() {
        return Ok(());
    }
    atomic::write_dir_atomically(&target, |dir| -> Result<()> {
        let weights = dir.join(format!("{part}.safetensors"));
        write_tensors(&weights, &networks.trained(run.recipe, adam, false).into_tensors())?;
        let optimizer = dir.join(OPTIMIZER);
        write_tensors(&optimizer, &adam.state())?;
        let mut state = json!({
            "fingerprint": fingerprint, "step": step, "updates": adam.steps,
            "skipped": guard.skipped,
            "optimizer_sha256": sha256_file(&optimizer)?,
        });
        state[format!("{part}_sha256")] = sha256_file(&weights)?.into();
        state["check"] = digest(&state).into();
        Ok(write_json(&dir.join(STATE), &state)?)
    })?;
    remove_old(run, root, fingerprint, step)
}

/// Keeps the newest checkpoints of this training up to `step`. Those at the steps of the recipe go
/// before those of an interruption, so that in the end the same ones are there however often it was
/// interrupted.
fn remove_old(run: &Run<'_>, root: &Path, fingerprint: &str, step: usize) -> Result<()> {
    let section = &run.recipe.train;
    let due = |step: usize| {
        step == section.steps
            || section.checkpoint_every > 0 && step.is_multiple_of(section.checkpoint_every)
    };
    let ours = |path: &Path| {
        let state = read_json::<Value>(&path.join(STATE));
        state.is_ok_and(|state| state["fingerprint"] == fingerprint)
    };
    let found = all(root);
    let steps = found.iter().filter(|(at, path)| *at <= step && ours(path)).map(|(at, _)| *at);
    let keep = kept(steps.collect(), due, step == section.steps);
    for (at, path) in found {
        if !keep.contains(&at) {
            atomic::remove_dir(&path)?;
        }
    }
    Ok(())
}

/// Which steps are kept, of those in `steps` (rising, the last one just saved).
fn kept(steps: Vec<usize>, due: impl Fn(usize) -> bool, ended: bool) -> Vec<usize> {
    let Some((last, before)) = steps.split_last() else { return Vec::new() };
    let regular = before.iter().rev().filter(|at| due(**at));
    let others = before.iter().rev().filter(|at| !ended && !due(**at));
    let mut keep = vec![*last];
    keep.extend(regular.chain(others).take(KEPT - 1));
    keep
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_kept_and_in_the_end_those_of_the_recipe() {
        let every = |n: usize| move |step: usize| step.is_multiple_of(n) || step == 10;
        assert_eq!(kept(vec![4], every(4), false), [4]);
        assert_eq!(kept(vec![4, 8], every(4), false), [8, 4]);
        // Interrupted at 9: the regular one stays beside it.
        assert_eq!(kept(vec![4, 8, 9], every(4), false), [9, 8]);
        assert_eq!(kept(vec![8, 9, 10], every(4), true), [10, 8]);
        // Interrupted before the first regular one.
        assert_eq!(kept(vec![2, 3], every(4), false), [3, 2]);
        assert_eq!(kept(vec![2, 3, 4], every(4), false), [4, 3]);
        assert_eq!(kept(vec![3, 10], every(11), true), [10]);
        assert_eq!(kept(vec![], every(4), true), [0usize; 0]);
    }
}
