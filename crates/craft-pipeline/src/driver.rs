//! Takes a run through the stages of the table: the one place that knows their order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use craft_store::Manifest;

use crate::error::{PipelineError, Result};
use crate::rewards::RunReward;
use crate::stages::Run;
use crate::stages::table::{Entry, StageId, TABLE};
use crate::stages::train::{self, Arm};
use crate::start::Start;

/// A run on its way through its stages.
pub(crate) struct Advance<'a> {
    pub(crate) run: Run<'a>,
    /// What its candidates are drawn from and its training begins with.
    pub(crate) start: Start,
    /// Folder of the base model.
    pub(crate) model: &'a Path,
    pub(crate) rewards: &'a [RunReward],
    /// Hashes of the rewards by their names.
    pub(crate) hashes: BTreeMap<String, String>,
    done: BTreeMap<StageId, Manifest>,
}

impl<'a> Advance<'a> {
    /// A run of which nothing was done or looked at yet.
    ///
    /// # Errors
    /// When the files of a reward cannot be read.
    pub(crate) fn new(
        run: Run<'a>,
        start: Start,
        (model, rewards): (&'a Path, &'a [RunReward]),
    ) -> Result<Self> {
        let mut hashes = BTreeMap::new();
        for reward in rewards {
            hashes.insert(reward.name.clone(), reward.hash()?);
        }
        Ok(Self { run, start, model, rewards, hashes, done: BTreeMap::new() })
    }

    /// Performs the stages that the recipe asks for, in order, up to `last` and with it. What is done is
    /// passed over, so that this may be called again for a later stage.
    ///
    /// # Errors
    /// Those of the stages; what was done is kept.
    pub(crate) fn until(&mut self, last: StageId) -> Result<()> {
        let wanted = |entry: &&Entry| entry.id <= last && (entry.wanted)(self.run.recipe);
        let entries: Vec<&Entry> = TABLE.iter().filter(wanted).collect();
        for entry in entries {
            if self.done.contains_key(&entry.id) {
                continue;
            }
            // A stage that the recipe leaves out leaves no manifest to read.
            let from: Vec<&Manifest> =
                entry.inputs.iter().filter_map(|input| self.done.get(input)).collect();
            let manifest = (entry.perform)(self, &from)?;
            self.done.insert(entry.id, manifest);
        }
        Ok(())
    }

    /// The manifest of a stage that was performed.
    ///
    /// # Errors
    /// When it was not.
    pub(crate) fn manifest(&self, id: StageId) -> Result<&Manifest> {
        self.done.get(&id).ok_or_else(|| {
            PipelineError::Usage(format!(
                "stage {id:?} is read before it was done: this is a mistake of the program"
            ))
        })
    }

    /// The manifests of what was performed, in order.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = (StageId, &Manifest)> {
        self.done.iter().map(|(id, manifest)| (*id, manifest))
    }

    /// What all stages took.
    pub(crate) fn seconds(&self) -> f64 {
        self.done.values().map(|manifest| manifest.seconds).sum()
    }

    pub(crate) fn train(&self, arm: Arm, inputs: [&Manifest; 2]) -> Result<Manifest> {
        train::run(&self.run, arm, &self.start, inputs, (self.rewards, &self.hashes))
    }

    /// The models that are compared, by their names.
    pub(crate) fn models(&self) -> Vec<(&'static str, PathBuf)> {
        let mut models = vec![("base", self.model.to_owned()), ("tuned", self.run.path("aligned"))];
        if self.run.recipe.control.enabled {
            models.push(("control", self.run.path("control/aligned")));
        }
        models
    }
}
