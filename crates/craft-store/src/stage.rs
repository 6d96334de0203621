//! Stages and how they are opened, continued and finished.
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
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::error::Result;
use crate::hash::sha256_bytes;
use crate::json::write_json;
use crate::manifest::{
    DroppedItem, FEW, Manifest, Output, STAGE_FILE, Times, VERSION, record, require_version,
};
use crate::own;
use crate::run::RunFolder;

/// Name of the note about inputs of an unfinished stage.
pub(crate) const INPUTS_FILE: &str = ".stage-inputs.json";

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
    /// Finished is a stage whose manifest agrees with both and whose outputs are still those that it
    /// recorded ([`Manifest::damage`]). Otherwise it is unfinished: files that an interrupted attempt
    /// with the same configuration and inputs left are kept ([`StageWriter::resumed`]); anything else
    /// in its folder is deleted ([`StageWriter::why`] says for what reason). A folder that no stage has
    /// marked as its own is set aside under another name.
    ///
    /// # Errors
    /// When the folder is a link or of another version of the format, of which nothing is changed, or
    /// the disk refuses.
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
        require_version(&stage_file)?;
        require_version(&note)?;
        let mut why = "it was not done yet".to_owned();
        if stage_file.exists() {
            match Manifest::read(&stage_file).and_then(|m| wanted.check(&m, &dir).map(|e| (m, e))) {
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
        Ok(StageStatus::Unfinished(StageWriter {
            dir,
            wanted,
            resumed,
            why,
            known: Mutex::default(),
            few: FEW,
        }))
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

impl Inputs {
    /// Why a manifest does not stand for these inputs, or for the files in the folder; `None` if it
    /// does.
    fn check(&self, manifest: &Manifest, dir: &Path) -> Result<Option<String>> {
        if manifest.stage != self.stage {
            return Ok(Some(format!("it was done as {}", manifest.stage)));
        }
        if manifest.config_hash != self.config_hash {
            return Ok(Some("its part of the recipe changed".to_owned()));
        }
        if manifest.inputs != self.inputs {
            let mut names: Vec<&str> = manifest
                .inputs
                .keys()
                .chain(self.inputs.keys())
                .filter(|name| manifest.inputs.get(*name) != self.inputs.get(*name))
                .map(String::as_str)
                .collect();
            names.sort_unstable();
            names.dedup();
            return Ok(Some(format!("its inputs changed ({})", names.join(", "))));
        }
        Ok(manifest.damage(dir)?.map(|problem| problem.to_string()))
    }
}

/// A stage at work.
#[derive(Debug)]
pub struct StageWriter {
    dir: PathBuf,
    wanted: Inputs,
    resumed: bool,
    why: String,
    /// Outputs whose hashes were computed when they were written.
    known: Mutex<BTreeMap<String, Output>>,
    /// Files of one folder that stand in the manifest itself.
    few: usize,
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

    /// Writes an output atomically and keeps its hash, so that [`StageWriter::finish`] need not read it
    /// again. `name` is relative to the folder, with `/`.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        atomic::write(&self.join(name), bytes)?;
        let output = Output { bytes: bytes.len() as u64, sha256: sha256_bytes(bytes) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(name.to_owned(), output);
        Ok(())
    }

    /// Flushes and hashes all files of the folder (hidden ones excepted), each once, and marks the
    /// stage finished.
    pub fn finish(
        self,
        counts: BTreeMap<String, u64>,
        dropped: Vec<DroppedItem>,
        seconds: f64,
    ) -> Result<Manifest> {
        let known = self.known.into_inner().unwrap_or_else(PoisonError::into_inner);
        let found = record(&self.dir, &known, self.few)?;
        sync_folders(&self.dir)?;
        let manifest = Manifest {
            stage: self.wanted.stage,
            version: self.wanted.version,
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            config_hash: self.wanted.config_hash,
            inputs: self.wanted.inputs,
            outputs: found.outputs,
            listed: found.listed,
            counts,
            dropped,
            seconds,
        };
        let mut times = Times::new(&manifest.digest());
        found.times.into_iter().for_each(|time| times.push(time));
        times.write(&self.dir)?;
        write_json(&self.dir.join(STAGE_FILE), &manifest)?;
        let note = self.dir.join(INPUTS_FILE);
        atomic::remove_file(&note)?;
        Ok(manifest)
    }
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
