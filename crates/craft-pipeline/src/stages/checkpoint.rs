//! State of a training that is not finished: what is trained, the optimizer, and how far it is.

use std::path::{Path, PathBuf};

use craft_core::recipe::TrainMode;
use craft_diffusion::guard::NanGuard;
use craft_diffusion::optimizer::AdamW;
use craft_store::atomic;
use craft_store::hash::sha256_file;
use craft_store::manifest::{read_json, write_json};
use serde_json::{Value, json};

use crate::error::{PipelineError, Result};
use crate::model::{read_tensors, write_tensors};
use crate::networks::Networks;
use crate::stages::Run;

/// The file of a checkpoint that holds what is trained.
pub(super) fn part(run: &Run<'_>) -> &'static str {
    match run.recipe.train.mode {
        TrainMode::Full => "unet",
        TrainMode::Lora => "lora",
    }
}

/// The checkpoints of a folder.
fn all(root: &Path) -> Vec<(usize, PathBuf)> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let path = entry.path();
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        })
        .collect()
}

/// The newest whole checkpoint with this fingerprint.
pub(super) fn latest(root: &Path, fingerprint: &str, part: &str) -> Option<(usize, PathBuf)> {
    let mut steps = all(root);
    steps.sort();
    steps.into_iter().rev().find(|(_, path)| {
        read_json::<Value>(&path.join("state.json")).is_ok_and(|state| {
            state["fingerprint"] == fingerprint
                && [part, "optimizer"].iter().all(|part| {
                    let file = path.join(format!("{part}.safetensors"));
                    sha256_file(&file)
                        .is_ok_and(|hash| state[format!("{part}_sha256")] == hash.as_str())
                })
        })
    })
}

/// Restores the optimizer of a checkpoint.
pub(super) fn restore(adam: &mut AdamW, dir: &Path, step: usize) -> Result<()> {
    let state: Value = read_json(&dir.join("state.json"))?;
    let updates = state["updates"].as_u64().map_or(step, |n| n as usize);
    adam.restore(updates, read_tensors(&dir.join("optimizer.safetensors"))?);
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
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(PipelineError::Input {
            path,
            message: format!("a checkpoint that cannot be trained on cannot be removed ({error})"),
        }),
        _ => Ok(()),
    }
}

/// Saves a checkpoint atomically and removes older ones.
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
    if target.exists() {
        std::fs::remove_dir_all(&target).map_err(|error| PipelineError::Input {
            path: target.clone(),
            message: format!("an older checkpoint cannot be removed ({error})"),
        })?;
    }
    atomic::write_dir_atomically(&target, |dir| -> Result<()> {
        let weights = dir.join(format!("{part}.safetensors"));
        let optimizer = dir.join("optimizer.safetensors");
        write_tensors(&weights, &networks.trained(run.recipe, adam, false).into_tensors())?;
        write_tensors(&optimizer, &adam.state())?;
        let mut state = json!({
            "fingerprint": fingerprint, "step": step, "updates": adam.steps,
            "skipped": guard.skipped,
            "optimizer_sha256": sha256_file(&optimizer)?,
        });
        state[format!("{part}_sha256")] = sha256_file(&weights)?.into();
        Ok(write_json(&dir.join("state.json"), &state)?)
    })?;
    // The one before it stays: training has not shown yet that it goes on from this one.
    let mut others: Vec<(usize, PathBuf)> =
        all(root).into_iter().filter(|(_, path)| *path != target).collect();
    others.sort();
    others.pop();
    for (_, path) in others {
        let _ = std::fs::remove_dir_all(path);
    }
    Ok(())
}
