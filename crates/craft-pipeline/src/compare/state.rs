//! The state of a training that may be stopped.

use std::path::Path;

use craft_diffusion::optimizer::AdamW;
use craft_nn::weights::TensorMap;
use craft_store::hash::sha256_file;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use craft_model::model::{read_tensors, write_tensors};

/// Where a training stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Steps done.
    pub(super) step: usize,
    /// Updates done; skipped ones do not count.
    pub(super) updates: usize,
    /// Seconds of training so far.
    pub(super) seconds: f64,
    /// Seconds of all processors together.
    pub(super) cpu_seconds: f64,
    /// Steps skipped by the NaN guard.
    pub(super) skipped: usize,
    /// Those of them that came last, in a row.
    #[serde(default)]
    pub(super) consecutive: usize,
    /// Pictures that it drew itself.
    #[serde(default)]
    pub(super) images: usize,
    /// Hashes of the files beside it.
    pub(super) hashes: [String; 2],
}

const FILES: [&str; 2] = ["trained.safetensors", "optimizer.safetensors"];

/// Saves atomically, in the place of an older state.
pub(super) fn save(
    dir: &Path,
    mut position: Position,
    trained: &TensorMap,
    adam: &AdamW,
) -> Result<()> {
    craft_store::atomic::write_dir_atomically(dir, |dir| -> Result<()> {
        write_tensors(&dir.join(FILES[0]), trained)?;
        write_tensors(&dir.join(FILES[1]), &adam.state())?;
        for (hash, file) in position.hashes.iter_mut().zip(FILES) {
            *hash = sha256_file(&dir.join(file))?;
        }
        Ok(craft_store::manifest::write_json(&dir.join("state.json"), &position)?)
    })
}

/// Where a training stands and what it trained, if there is a whole state; the optimizer is restored.
pub(super) fn restore(dir: &Path, adam: &mut AdamW) -> Result<(Position, Option<TensorMap>)> {
    let Ok(position) = craft_store::manifest::read_json::<Position>(&dir.join("state.json")) else {
        return Ok((Position::default(), None));
    };
    let whole = position
        .hashes
        .iter()
        .zip(FILES)
        .all(|(hash, file)| sha256_file(&dir.join(file)).is_ok_and(|found| found == *hash));
    if !whole {
        tracing::warn!(
            "{}: what was saved is damaged; this training begins at step 0",
            dir.display()
        );
        return Ok((Position::default(), None));
    }
    let trained = read_tensors(&dir.join(FILES[0]))?;
    adam.restore(position.updates, read_tensors(&dir.join(FILES[1]))?);
    Ok((position, Some(trained)))
}
