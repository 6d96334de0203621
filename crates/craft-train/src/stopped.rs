//! What the NaN guard stopped, so that the same training is refused and not walked through.

use std::path::Path;

use crate::guard::NanStop;
use craft_store::manifest::{read_json, write_json};
use serde::{Deserialize, Serialize};

use craft_core::Progress;

use crate::error::Result;

/// Beside the checkpoints of a training.
const FILE: &str = "stopped.json";

#[derive(Serialize, Deserialize)]
struct Stopped {
    /// Of the training: recipe, model, selection.
    fingerprint: String,
    step: usize,
    consecutive: usize,
    /// As text, since JSON has no word for what they are.
    loss: String,
    grad_norm: String,
    batch: Vec<String>,
}

/// Keeps a stop in the folder of a training's checkpoints.
pub fn keep(root: &Path, fingerprint: &str, stop: &NanStop) -> Result<()> {
    let row = Stopped {
        fingerprint: fingerprint.to_owned(),
        step: stop.step,
        consecutive: stop.consecutive,
        loss: stop.loss.to_string(),
        grad_norm: stop.grad_norm.to_string(),
        batch: stop.batch.clone(),
    };
    craft_store::atomic::create_dir(root)?;
    Ok(write_json(&root.join(FILE), &row)?)
}

/// Refuses a training that was stopped: it would do the same steps and be stopped again.
///
/// # Errors
/// The stop as it was.
pub fn refuse(root: &Path, fingerprint: &str, progress: &dyn Progress) -> Result<()> {
    let path = root.join(FILE);
    let Ok(row) = read_json::<Stopped>(&path) else { return Ok(()) };
    if row.fingerprint != fingerprint {
        return Ok(());
    }
    progress.note(&format!(
        "this training was stopped before and would be stopped again; to try all the same, remove {}",
        path.display()
    ));
    let number = |text: &str| text.parse().unwrap_or(f64::NAN);
    let (loss, grad_norm) = (number(&row.loss), number(&row.grad_norm));
    let Stopped { step, consecutive, batch, .. } = row;
    Err(NanStop { step, consecutive, loss, grad_norm, batch }.into())
}
