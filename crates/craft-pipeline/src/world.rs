//! What an embedded world offers to a run: models, prompts with facts, and a checker of pictures.

use std::path::PathBuf;

use craft_core::Prompt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;

/// One fact of a prompt, looked for in a picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactRow {
    /// Kind of fact, such as `colour`.
    pub kind: String,
    /// The fact in words.
    pub fact: String,
    /// Whether the picture shows it.
    pub passed: bool,
}

/// Two pictures for one prompt and the one that somebody preferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreferencePair {
    /// What was asked for.
    pub prompt: String,
    /// RGB bytes of the preferred picture.
    pub preferred: Vec<u8>,
    /// RGB bytes of the other one.
    pub rejected: Vec<u8>,
}

/// An embedded world. The name `pocket` in a recipe stands for its models, prompts and templates.
pub trait World: Sync {
    /// Folder of the diffusion model.
    ///
    /// # Errors
    /// When the embedded files cannot be unpacked.
    fn model_dir(&self) -> Result<PathBuf>;

    /// Folder of a reward model of this world; `None` for an unknown name.
    ///
    /// # Errors
    /// When the embedded files cannot be unpacked.
    fn reward_dir(&self, name: &str) -> Result<Option<PathBuf>>;

    /// Wordings for the template expander (TOML).
    fn templates(&self) -> &str;

    /// `n` prompts of a part: `train`, `select` (to choose settings on) or `eval` (to report on). The parts
    /// share no prompt. `None` for an unknown part.
    fn prompts(&self, seed: u64, part: &str, n: usize) -> Option<Vec<Prompt>>;

    /// `n` pairs of pictures, judged by the annotators that the training rewards were learned from, on
    /// prompts whose content belongs to the `train` part. Fewer where the world has no annotators.
    fn preference_pairs(&self, seed: u64, n: usize) -> Vec<PreferencePair>;

    /// Looks for a prompt's facts in a picture; `None` where the facts are not of this world.
    fn check(&self, rgb: &[u8], facts: &Value) -> Option<Vec<FactRow>>;
}
