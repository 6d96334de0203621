//! State of a training that is not finished: what is trained, the optimizer, and how far it is.
//!
//! A checkpoint is a folder `step-N` that appears whole. Its `state.json` holds the hashes of the other
//! files and a digest of itself, so that damage is noticed. Two are kept, and none is removed before its successor is in place: a damaged
//! one costs the steps since the one before it, never the whole training.

use std::path::{Path, PathBuf};

use crate::optimizer::AdamW;
use craft_core::recipe::TrainMode;
use craft_core::{Progress, Recipe};
use craft_model::model::{read_tensors, write_tensors};
use craft_nn::weights::TensorMap;
use craft_store::atomic;
use craft_store::hash::{sha256_bytes, sha256_file};
use craft_store::manifest::{read_json, write_json};
use serde_json::{Value, json};

use crate::error::Result;
use crate::fit::State;
use crate::networks::Networks;

const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
/// Checkpoints that are kept.
const KEPT: usize = 2;

/// The checkpoints of one training.
#[derive(Clone, Debug)]
pub struct Checkpoints<'a> {
    /// Their folder.
    pub root: &'a Path,
    /// Hash of all that the training depends on.
    pub fingerprint: &'a str,
    /// Its name in messages.
    pub name: &'a str,
    /// What is trained and how.
    pub recipe: &'a Recipe,
    /// Steps of the training.
    pub steps: usize,
}

/// A checkpoint that training goes on from.
#[derive(Debug)]
pub struct Saved {
    /// Steps done.
    pub step: usize,
    /// Updates that the guard had skipped.
    pub skipped: usize,
    /// What the caller put beside.
    pub notes: Value,
    dir: PathBuf,
    updates: usize,
}

/// All checkpoints of a folder, the newest last.
fn all(root: &Path) -> Vec<(usize, PathBuf)> {
    let mut steps: Vec<(usize, PathBuf)> = atomic::list(root)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|path| {
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

impl Saved {
    fn read(step: usize, dir: PathBuf) -> Result<Self> {
        let state: Value = read_json(&dir.join(STATE))?;
        let number = |key: &str| state[key].as_u64().map(|n| n as usize);
        Ok(Self {
            step,
            // Those of earlier versions do not say.
            skipped: number("skipped").unwrap_or(0),
            updates: number("updates").unwrap_or(step),
            notes: state["notes"].clone(),
            dir,
        })
    }

    /// Restores the optimizer.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn restore(&self, adam: &mut AdamW) -> Result<()> {
        adam.restore(self.updates, read_tensors(&self.dir.join(OPTIMIZER))?);
        Ok(())
    }
}

impl Checkpoints<'_> {
    /// The file of a checkpoint that holds what is trained, without its ending.
    fn part(&self) -> &'static str {
        match self.recipe.train.mode {
            TrainMode::Full => "unet",
            TrainMode::Lora => "lora",
        }
    }

    /// Whether a state after so many steps is saved by the recipe.
    pub fn due(&self, step: usize) -> bool {
        let every = self.recipe.train.checkpoint_every;
        step == self.steps || every > 0 && step.is_multiple_of(every)
    }

    /// What a checkpoint trains, and its file for messages.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn tensors(&self, saved: &Saved) -> Result<(PathBuf, TensorMap)> {
        let path = saved.dir.join(format!("{}.safetensors", self.part()));
        let tensors = read_tensors(&path)?;
        Ok((path, tensors))
    }

    /// Why a checkpoint cannot be continued from; `None` if it can.
    fn unfit(&self, dir: &Path) -> Option<String> {
        let Ok(state) = read_json::<Value>(&dir.join(STATE)) else {
            return Some(format!("{STATE} is missing or damaged"));
        };
        let changed = |file: &str| format!("{file} was changed or damaged after it was written");
        if state["check"] != digest(&state) {
            return Some(changed(STATE));
        }
        for part in [self.part(), "optimizer"] {
            let file = format!("{part}.safetensors");
            if !dir.join(&file).is_file() {
                return Some(format!("{file} is missing"));
            }
            let hash = sha256_file(&dir.join(&file));
            if !hash.is_ok_and(|hash| state[format!("{part}_sha256")] == hash) {
                return Some(changed(&file));
            }
        }
        let other = state["fingerprint"] != self.fingerprint;
        other.then(|| "it belongs to another recipe, model or selection".to_owned())
    }

    /// The newest checkpoint that training can continue from and `usable` takes. Says from which step it continues, which
    /// checkpoints it passes over, and where a training that had `begun` starts anew.
    ///
    /// # Errors
    /// When a whole checkpoint cannot be read.
    pub fn latest(
        &self,
        begun: bool,
        usable: &dyn Fn(usize) -> bool,
        progress: &dyn Progress,
    ) -> Result<Option<Saved>> {
        let name = self.name;
        let mut passed = false;
        for (step, path) in all(self.root).into_iter().rev() {
            match self.unfit(&path) {
                None if !usable(step) => passed = true,
                None => {
                    progress.note(&format!("{name}: continuing from step {step}"));
                    if step == self.steps {
                        // A kill between the last save and the removal of what is too old.
                        self.remove_old(step)?;
                    }
                    return Saved::read(step, path).map(Some);
                }
                Some(why) => {
                    progress.note(&format!(
                        "warning: {name}: the checkpoint of step {step} is passed over: {why}"
                    ));
                    passed = true;
                }
            }
        }
        if passed {
            progress
                .note(&format!("{name}: training begins at step 0, since no checkpoint is left"));
        } else if begun {
            progress.note(&format!(
                "{name}: training begins at step 0, since it ended before its first checkpoint (train.checkpoint_every = {})",
                self.recipe.train.checkpoint_every
            ));
        }
        Ok(None)
    }

    /// Removes a checkpoint.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self, step: usize) -> Result<()> {
        let path = self.root.join(format!("step-{step}"));
        if path.exists() {
            atomic::remove_dir(&path)?;
        }
        Ok(())
    }

    /// Saves a checkpoint atomically, unless it is there, and then removes those that are too old. `notes` come back
    /// with it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, state: &State<Networks>, notes: &Value) -> Result<()> {
        let part = self.part();
        atomic::create_dir(self.root)?;
        let target = self.root.join(format!("step-{}", state.done));
        if target.exists() && self.unfit(&target).is_none() {
            return self.remove_old(state.done);
        }
        let adam = &state.optimizer;
        atomic::write_dir_atomically(&target, |dir| -> Result<()> {
            let weights = dir.join(format!("{part}.safetensors"));
            let trained = state.module().trained(self.recipe, adam, false);
            write_tensors(&weights, &trained.into_tensors())?;
            let optimizer = dir.join(OPTIMIZER);
            write_tensors(&optimizer, &adam.state())?;
            let mut record = json!({
                "fingerprint": self.fingerprint, "step": state.done, "updates": adam.steps,
                "skipped": state.guard.skipped,
                "optimizer_sha256": sha256_file(&optimizer)?,
            });
            record[format!("{part}_sha256")] = sha256_file(&weights)?.into();
            if !notes.is_null() {
                record["notes"] = notes.clone();
            }
            record["check"] = digest(&record).into();
            Ok(write_json(&dir.join(STATE), &record)?)
        })?;
        self.remove_old(state.done)
    }

    /// Keeps the newest checkpoints of this training up to `step`. Those at the steps of the recipe go
    /// before those of an interruption, so that in the end the same ones are there however often it was
    /// interrupted.
    fn remove_old(&self, step: usize) -> Result<()> {
        let ours = |path: &Path| {
            let state = read_json::<Value>(&path.join(STATE));
            state.is_ok_and(|state| state["fingerprint"] == self.fingerprint)
        };
        let found = all(self.root);
        let steps = found.iter().filter(|(at, path)| *at <= step && ours(path)).map(|(at, _)| *at);
        let keep = kept(steps.collect(), |step| self.due(step), step == self.steps);
        for (at, path) in found {
            if !keep.contains(&at) {
                atomic::remove_dir(&path)?;
            }
        }
        Ok(())
    }
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
