//! The record of a finished stage, `stage.json`.
//!
//! It names every output with its length and SHA-256. Where a folder of a stage holds more than
//! [`FEW`] files, they stand in `outputs.jsonl` beside the manifest, one a line, and the manifest
//! holds the hash of that list: so its length does not grow with the number of candidates.
//!
//! Whether the outputs are still those that were recorded is told by length and time of last change
//! ([`Manifest::damage`]), which `.stage-times` holds; a file whose time is another one is hashed again,
//! so that a copy of a run costs that once. Times stand in a file of their own since they belong to a
//! copy of a run, not to its content. [`crate::verify`] hashes everything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, StoreError};
use crate::hash::{sha256_bytes, sha256_file};
use crate::input;
use crate::json::MAX_JSON;
pub use crate::json::{read_json, write_json};
use crate::jsonl;
use crate::stage::Stage;

mod outputs;
mod times;
mod version;

pub(crate) use outputs::record;
pub(crate) use times::Times;
pub(crate) use version::require as require_version;

/// Version of the format of manifests and outputs. A run of another version is refused, and nothing in
/// it is changed.
pub const VERSION: u32 = 2;
/// Name of a manifest in the folder of its stage.
pub const STAGE_FILE: &str = "stage.json";
/// Name of the list of outputs that are too many for the manifest.
pub const OUTPUTS_FILE: &str = "outputs.jsonl";
/// Files of one folder that stand in the manifest itself.
pub const FEW: usize = 1000;

/// One file that a stage wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: String,
}

/// The list of the outputs that are too many for the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// How many files it names.
    pub files: u64,
    /// Their bytes together.
    pub bytes: u64,
    /// The list itself.
    pub list: Output,
}

/// A line of that list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Path relative to the folder of the stage, with `/`.
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) output: Output,
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
    /// What it wrote, by path relative to its folder, but for what is listed.
    pub outputs: BTreeMap<String, Output>,
    /// Outputs in folders of more than [`FEW`] files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed: Option<Listed>,
    /// How many of what.
    pub counts: BTreeMap<String, u64>,
    /// What was left out.
    pub dropped: Vec<DroppedItem>,
    /// Time it took, over all attempts where the stage adds them up.
    pub seconds: f64,
    /// Peak of the process's resident memory in the attempt that finished it; 0 where it is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub peak_rss_bytes: u64,
}

/// What is wrong with a file of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub kind: ProblemKind,
}

/// Kinds of [`Problem`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProblemKind {
    /// It is not there.
    Missing,
    /// It has another length than was recorded.
    Length {
        /// Bytes that it has.
        found: u64,
        /// Bytes that were recorded.
        expected: u64,
    },
    /// Its content is another one.
    Content,
    /// It cannot be read, for this reason.
    Unreadable(String),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        match &self.kind {
            ProblemKind::Missing => write!(f, "{path} is missing"),
            ProblemKind::Length { found, expected } => write!(
                f,
                "{path} was changed or damaged after the stage had finished: it has {found} bytes, expected {expected}"
            ),
            ProblemKind::Content => write!(
                f,
                "{path} was changed or damaged after the stage had finished: its content has another SHA-256 than was recorded"
            ),
            ProblemKind::Unreadable(why) => write!(f, "{path}: {why}"),
        }
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Manifest {
    /// Reads a manifest without checking the outputs.
    ///
    /// # Errors
    /// When it cannot be read, is none, or is one of another version of the format.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = input::read(path, MAX_JSON)?;
        version::require_bytes(path, &bytes)?;
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
        crate::own::no_link_up_to(run, &path)?;
        if !path.exists() {
            return Ok(None);
        }
        Self::read(&path).map(Some)
    }

    /// Hash of the names and contents of all outputs: what the next stage takes as its input.
    pub fn digest(&self) -> String {
        let list = self.listed.iter().map(|listed| (OUTPUTS_FILE, &listed.list));
        let outputs = self.outputs.iter().map(|(name, output)| (name.as_str(), output));
        sha256_bytes(
            list.chain(outputs)
                .map(|(name, output)| format!("{}  {name}\n", output.sha256))
                .collect::<String>(),
        )
    }

    /// Number of its outputs, and their bytes.
    pub fn size(&self) -> (u64, u64) {
        let (files, bytes) = self.listed.as_ref().map_or((0, 0), |all| (all.files, all.bytes));
        let own: u64 = self.outputs.values().map(|output| output.bytes).sum();
        (files + self.outputs.len() as u64, bytes + own)
    }

    /// Calls with the name and the record of every output, the list of the others among them, one in
    /// memory at a time. `dir` is the folder of the stage.
    ///
    /// # Errors
    /// When the list cannot be read, or what `visit` returns.
    pub fn each_output<E: From<StoreError>>(
        &self,
        dir: &Path,
        mut visit: impl FnMut(&str, &Output) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        for (name, output) in &self.outputs {
            visit(name, output)?;
        }
        if let Some(listed) = &self.listed {
            visit(OUTPUTS_FILE, &listed.list)?;
            for line in jsonl::rows::<Line>(&dir.join(OUTPUTS_FILE))? {
                let Line { name, output } = line?;
                visit(&name, &output)?;
            }
        }
        Ok(())
    }

    /// The first output that is missing or was changed since the stage finished; `None` if all
    /// are whole. Files that are not outputs are not looked at.
    ///
    /// A file of the recorded length and time of last change is taken as whole. One with another time is
    /// hashed; if its content is as recorded, its time is written down.
    ///
    /// # Errors
    /// When a file cannot be read, or the times cannot be written down.
    pub fn damage(&self, dir: &Path) -> Result<Option<Problem>> {
        let digest = self.digest();
        let mut known = Times::read(dir, &digest);
        let mut found = Times::new(&digest);
        let mut hashed = false;
        let mut problem = None;
        let walked = self.each_output(dir, |name, output| {
            let path = dir.join(name);
            let recorded = known.take();
            match times::look(&path, output) {
                Ok(time) => {
                    let same = time.is_some() && time == recorded;
                    if !same {
                        hashed = true;
                        if sha256_file(&path).map_err(Stop::Failed)? != output.sha256 {
                            problem = Some(Problem { path, kind: ProblemKind::Content });
                            return Err(Stop::Damaged);
                        }
                    }
                    found.push(time);
                    Ok(())
                }
                Err(kind) => {
                    problem = Some(Problem { path, kind });
                    Err(Stop::Damaged)
                }
            }
        });
        match walked {
            Ok(()) if hashed => found.write(dir)?,
            Ok(()) | Err(Stop::Damaged) => {}
            Err(Stop::Failed(error)) => return Err(error),
        }
        Ok(problem)
    }
}

/// Why a walk over outputs ended early.
enum Stop {
    Damaged,
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}
