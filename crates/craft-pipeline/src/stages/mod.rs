//! The stages: each reads finished folders of the run and writes its own.

pub(crate) mod evaluate;
pub(crate) mod expand;
pub(crate) mod generate;
pub(crate) mod look;
pub(crate) mod pictures;
pub(crate) mod prompts;
pub(crate) mod score;
pub(crate) mod select;
pub(crate) mod sweep;
pub(crate) mod train;
pub(crate) mod training_set;
pub(crate) mod wording;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use craft_core::Recipe;
use craft_store::atomic;
use craft_store::hash::sha256_bytes;
use craft_store::{DroppedItem, Manifest, RunFolder, Stage, StageStatus, StageWriter};
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;

/// What every stage is given.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// Its folder.
    pub folder: &'a RunFolder,
    /// Its recipe.
    pub recipe: &'a Recipe,
    /// Folder that relative paths of the recipe start from.
    pub base: &'a Path,
    /// What it reports to and is stopped by.
    pub context: Context<'a>,
}

/// What a finished stage says of itself.
#[derive(Default)]
pub struct Outcome {
    /// Named counts.
    pub counts: BTreeMap<String, u64>,
    /// What was left out.
    pub dropped: Vec<DroppedItem>,
    /// A line for who watches.
    pub message: String,
}

impl Outcome {
    /// With a count.
    pub fn count(mut self, name: &str, n: usize) -> Self {
        self.counts.insert(name.to_owned(), n as u64);
        self
    }

    /// With a line.
    pub fn say(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }
}

impl Run<'_> {
    /// Does a stage unless it is finished. `config` is what the stage's result depends on beside its
    /// inputs.
    pub fn stage<C: Serialize>(
        &self,
        stage: Stage,
        config: &C,
        inputs: BTreeMap<String, String>,
        work: impl FnOnce(&StageWriter) -> Result<Outcome>,
    ) -> Result<Manifest> {
        self.context.check()?;
        let hash = sha256_bytes(serde_json::to_string(config).unwrap_or_default());
        match stage.open(self.folder, &hash, &inputs)? {
            StageStatus::Finished(manifest) => {
                self.context.progress.note(&format!("{}: already done", stage.name()));
                Ok(manifest)
            }
            StageStatus::Unfinished(writer) => {
                let start = Instant::now();
                let before = previous_seconds(&writer);
                let result = work(&writer);
                let seconds = before + start.elapsed().as_secs_f64();
                match result {
                    Ok(outcome) => {
                        atomic::remove_file(&writer.join(SECONDS_FILE))?;
                        let manifest = writer.finish(outcome.counts, outcome.dropped, seconds)?;
                        self.context.progress.finish(&format!(
                            "{}: {} ({seconds:.1} s)",
                            stage.name(),
                            outcome.message
                        ));
                        Ok(manifest)
                    }
                    Err(error) => {
                        // Time spent is kept, so that a resumed run reports what it cost.
                        let path = writer.join(SECONDS_FILE);
                        let _ = atomic::write(&path, seconds.to_string().as_bytes());
                        Err(error)
                    }
                }
            }
        }
    }

    /// A place in its folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.join(relative)
    }
}

const SECONDS_FILE: &str = ".seconds";

fn previous_seconds(writer: &StageWriter) -> f64 {
    craft_store::input::read_text(&writer.join(SECONDS_FILE), 1 << 10)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0.0)
}

/// Digests of the stages that another stage reads.
pub fn inputs(manifests: &[&Manifest]) -> BTreeMap<String, String> {
    manifests.iter().map(|m| (m.stage.clone(), m.digest())).collect()
}
