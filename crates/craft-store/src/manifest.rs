//! Stages and the record that makes them finished.
//!
//! A stage owns one folder of the run. While it works, the folder holds `.stage-inputs.json`, which
//! says what the unfinished files there were made from. The stage is finished when `stage.json` is
//! renamed into place: after every output was flushed to the device and hashed. So at any point
//! where a process may be killed, the stage is either finished with all its outputs whole, or
//! unfinished with files that are known to belong to the same inputs and can be continued, or its
//! folder is emptied and it begins anew.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::error::{Result, StoreError};
use crate::hash::{files_below, sha256_bytes, sha256_file};
use crate::input;
use crate::own;
use crate::run::RunFolder;

/// Version of the format of manifests and outputs; a stage of another version is done again.
pub const VERSION: u32 = 1;
/// Name of a manifest in the folder of its stage.
pub const STAGE_FILE: &str = "stage.json";
/// Longest JSON file that is read.
const MAX_JSON: u64 = 1 << 30;
/// Name of the note about inputs of an unfinished stage.
const INPUTS_FILE: &str = ".stage-inputs.json";

/// A stage and the folder it owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    name: Cow<'static, str>,
    folder: Cow<'static, str>,
}

impl Stage {
    /// Prompts of both splits.
    pub const PROMPTS: Self = Self::new("prompts", "prompts");
    /// Wordings.
    pub const EXPAND: Self = Self::new("expand", "expanded");
    /// Candidates.
    pub const GENERATE: Self = Self::new("generate", "candidates");
    /// Rewards.
    pub const SCORE: Self = Self::new("score", "rewards");
    /// Selection and random control.
    pub const SELECT: Self = Self::new("select", "selection");
    /// The tuned model.
    pub const TRAIN: Self = Self::new("train", "aligned");
    /// The model tuned on random candidates.
    pub const CONTROL: Self = Self::new("control", "control");
    /// The comparison of the models.
    pub const EVALUATE: Self = Self::new("evaluate", "evaluation");

    /// A stage that owns a folder of the run.
    pub const fn new(name: &'static str, folder: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), folder: Cow::Borrowed(folder) }
    }

    /// The same with a name and a folder that are made while the program runs.
    pub fn named(name: String, folder: String) -> Self {
        Self { name: Cow::Owned(name), folder: Cow::Owned(folder) }
    }

    /// Name in manifests, such as `generate`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Folder in the run, such as `candidates`.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Opens a stage of a run for work.
    ///
    /// `config_hash` stands for everything of the recipe that the stage depends on, `inputs` for
    /// what it reads, by name (manifest digests of other stages, hashes of weights).
    ///
    /// Finished is a stage whose manifest agrees with both and whose outputs still have their
    /// hashes. Otherwise it is unfinished: files that an interrupted attempt with the same
    /// configuration and inputs left are kept ([`StageWriter::resumed`]); anything else in its
    /// folder is deleted ([`StageWriter::why`] says for what reason). A folder that no stage has
    /// marked as its own is set aside under another name.
    ///
    /// # Errors
    /// When the folder is a link, or the disk refuses.
    pub fn open(
        &self,
        run: &RunFolder,
        config_hash: &str,
        inputs: &BTreeMap<String, String>,
    ) -> Result<StageStatus> {
        let dir = run.join(self.folder());
        own::no_link_up_to(run.path(), &dir)?;
        atomic::create_dir(&dir)?;
        let note = dir.join(INPUTS_FILE);
        let wanted = Inputs {
            stage: self.name().to_owned(),
            version: VERSION,
            config_hash: config_hash.to_owned(),
            inputs: inputs.clone(),
        };
        let stage_file = dir.join(STAGE_FILE);
        let mut why = "it was not done yet".to_owned();
        if stage_file.exists() {
            match Manifest::read(&stage_file).and_then(|m| m.check(&dir, &wanted).map(|e| (m, e))) {
                Ok((manifest, None)) => {
                    // A kill just after the manifest leaves the note.
                    if note.exists() {
                        atomic::remove_file(&note)?;
                    }
                    return Ok(StageStatus::Finished(manifest));
                }
                Ok((_, Some(reason))) => why = reason,
                Err(error) => why = error.to_string(),
            }
            tracing::info!("{}: {why}; it is done again", self.name());
        }
        let same = fs::read(&note)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Inputs>(&bytes).ok())
            .is_some_and(|found| found == wanted);
        let resumed = same && !stage_file.exists();
        if resumed {
            own::remove_leftovers_below(&dir)?;
            "it was interrupted".clone_into(&mut why);
        } else {
            if stage_file.exists() || note.exists() {
                empty(&dir)?;
            } else {
                set_aside(&dir)?;
            }
            write_json(&note, &wanted)?;
        }
        Ok(StageStatus::Unfinished(StageWriter { dir, wanted, resumed, why }))
    }
}

/// Whether a stage needs work.
#[derive(Debug)]
pub enum StageStatus {
    /// It is done and its outputs are whole.
    Finished(Manifest),
    /// It must be done, or continued.
    Unfinished(StageWriter),
}

/// What the files of a stage are made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Inputs {
    stage: String,
    version: u32,
    config_hash: String,
    inputs: BTreeMap<String, String>,
}

/// One file that a stage wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: String,
}

/// Something that a stage left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedItem {
    /// What: usually the id of a prompt or candidate.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// The record of a finished stage, `stage.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the stage.
    pub stage: String,
    /// Version of the format.
    pub version: u32,
    /// Version of the program; informative.
    pub code_version: String,
    /// Hash of the configuration that the stage depends on.
    pub config_hash: String,
    /// Hashes of what it read.
    pub inputs: BTreeMap<String, String>,
    /// What it wrote, by path relative to its folder.
    pub outputs: BTreeMap<String, Output>,
    /// How many of what.
    pub counts: BTreeMap<String, u64>,
    /// What was left out.
    pub dropped: Vec<DroppedItem>,
    /// Time it took, over all attempts where the stage adds them up.
    pub seconds: f64,
}

impl Manifest {
    /// Reads a manifest without checking the outputs.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = input::read(path, MAX_JSON)?;
        serde_json::from_slice(&bytes).map_err(|e| {
            StoreError::bad(
                path,
                format!(
                    "it is not a stage manifest ({e}): remove the folder to do the stage again"
                ),
            )
        })
    }

    /// Reads the manifest of a run's stage, if the stage is finished.
    pub fn of(run: &Path, stage: &Stage) -> Result<Option<Self>> {
        let path = run.join(stage.folder()).join(STAGE_FILE);
        if !path.exists() {
            return Ok(None);
        }
        Self::read(&path).map(Some)
    }

    /// Hash of the names and contents of all outputs: what the next stage takes as its input.
    pub fn digest(&self) -> String {
        let text: String = self
            .outputs
            .iter()
            .map(|(name, output)| format!("{}  {name}\n", output.sha256))
            .collect();
        sha256_bytes(text)
    }

    /// Why the manifest does not stand for `wanted`, or for the files in the folder; `None` if it
    /// does.
    fn check(&self, dir: &Path, wanted: &Inputs) -> Result<Option<String>> {
        if (self.stage.as_str(), self.version) != (wanted.stage.as_str(), wanted.version) {
            return Ok(Some(format!("it was done as {} version {}", self.stage, self.version)));
        }
        if self.config_hash != wanted.config_hash {
            return Ok(Some("its part of the recipe changed".to_owned()));
        }
        if self.inputs != wanted.inputs {
            let mut names: Vec<&str> = self
                .inputs
                .keys()
                .chain(wanted.inputs.keys())
                .filter(|name| self.inputs.get(*name) != wanted.inputs.get(*name))
                .map(String::as_str)
                .collect();
            names.sort_unstable();
            names.dedup();
            return Ok(Some(format!("its inputs changed ({})", names.join(", "))));
        }
        self.damage(dir)
    }

    /// The first output that is missing or was changed since the stage finished; `None` if all
    /// are whole. Files that are not outputs are not looked at.
    pub fn damage(&self, dir: &Path) -> Result<Option<String>> {
        for (name, output) in &self.outputs {
            let path = dir.join(name);
            let Ok(meta) = fs::metadata(&path) else {
                return Ok(Some(format!("{} is missing", path.display())));
            };
            if meta.len() != output.bytes || sha256_file(&path)? != output.sha256 {
                return Ok(Some(format!(
                    "{} was changed or damaged after the stage had finished",
                    path.display()
                )));
            }
        }
        Ok(None)
    }
}

/// A stage at work.
#[derive(Debug)]
pub struct StageWriter {
    dir: PathBuf,
    wanted: Inputs,
    resumed: bool,
    why: String,
}

impl StageWriter {
    /// The folder to write to.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in the folder.
    pub fn join(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dir.join(relative)
    }

    /// Whether the folder holds files of an interrupted attempt with the same inputs.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Why the stage must be done.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Flushes and hashes all files of the folder (hidden ones excepted) and marks the stage
    /// finished.
    pub fn finish(
        self,
        counts: BTreeMap<String, u64>,
        dropped: Vec<DroppedItem>,
        seconds: f64,
    ) -> Result<Manifest> {
        let mut outputs = BTreeMap::new();
        for name in files_below(&self.dir)? {
            let path = self.dir.join(&name);
            atomic::sync_file(&path)?;
            let bytes = fs::metadata(&path).map_err(StoreError::io("read", &path))?.len();
            let sha256 = sha256_file(&path)?;
            outputs.insert(name, Output { bytes, sha256 });
        }
        sync_folders(&self.dir)?;
        let manifest = Manifest {
            stage: self.wanted.stage,
            version: self.wanted.version,
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            config_hash: self.wanted.config_hash,
            inputs: self.wanted.inputs,
            outputs,
            counts,
            dropped,
            seconds,
        };
        write_json(&self.dir.join(STAGE_FILE), &manifest)?;
        let note = self.dir.join(INPUTS_FILE);
        atomic::remove_file(&note)?;
        Ok(manifest)
    }
}

/// Writes a value as indented JSON, atomically.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|e| StoreError::bad(path, format!("it cannot be written as JSON: {e}")))?;
    bytes.push(b'\n');
    atomic::write(path, &bytes)
}

/// Reads a value from a JSON file.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = input::read(path, MAX_JSON)?;
    serde_json::from_slice(&bytes).map_err(|e| StoreError::bad(path, e.to_string()))
}

/// Deletes everything in a folder but its note, which stands for nothing meanwhile: so a kill in
/// between leaves an unfinished stage in a folder that is still known as its own.
fn empty(dir: &Path) -> Result<()> {
    let note = dir.join(INPUTS_FILE);
    write_json(&note, &())?;
    atomic::remove_file(&dir.join(STAGE_FILE))?;
    atomic::sync_dir(dir)?;
    for path in atomic::list(dir)?.into_iter().filter(|path| *path != note) {
        atomic::remove_tree(&path)?;
    }
    Ok(())
}

/// Keeps what somebody put into a stage's folder: the stage begins in an empty one.
fn set_aside(dir: &Path) -> Result<()> {
    if atomic::list(dir)?.is_empty() {
        return Ok(());
    }
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let free = |n: &u32| !dir.with_file_name(format!("{name}.old-{n}")).exists();
    let n = (1..).find(free).unwrap_or(1);
    let aside = dir.with_file_name(format!("{name}.old-{n}"));
    tracing::warn!(
        "{}: it holds files that no finished or interrupted stage accounts for; they are kept in {}",
        dir.display(),
        aside.display()
    );
    atomic::rename(dir, &aside, "set aside")?;
    atomic::create_dir(dir)
}

/// Flushes the names of a folder and of those below it.
fn sync_folders(dir: &Path) -> Result<()> {
    for path in atomic::list(dir)? {
        if path.is_dir() {
            sync_folders(&path)?;
        }
    }
    atomic::sync_dir(dir)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
