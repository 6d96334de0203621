//! `base.json` of a run: what it began with beside its recipe, and keeps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use craft_model::Compute;
use craft_nn::ops::{Precision, precision};
use craft_store::manifest::{read_json, write_json};
use serde::{Deserialize, Serialize};

use crate::error::{PipelineError, Result};

const FILE: &str = "base.json";
const F32: &str = "f32";

/// What a run began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Folder that relative paths of the recipe start from.
    pub(crate) base: PathBuf,
    /// Commit of the model on the hub.
    #[serde(default)]
    pub(crate) commit: Option<String>,
    /// Commits of the rewards' repositories on the hub, by `owner/name@revision` as the recipe has it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) rewards: BTreeMap<String, String>,
    /// Number format of products (`--matmul-precision`).
    #[serde(default = "f32_name")]
    pub(crate) matmul_precision: String,
    /// Kind of the device (`--device`).
    #[serde(default = "cpu_name")]
    pub(crate) device: String,
}

fn cpu_name() -> String {
    Compute::cpu().kind().to_owned()
}

fn f32_name() -> String {
    F32.to_owned()
}

/// Name of the number format in which this process multiplies.
pub fn matmul_precision() -> &'static str {
    match precision() {
        Precision::F32 => F32,
        Precision::Bf16 => "bf16",
    }
}

impl Origin {
    /// Of a run that begins now.
    pub(crate) fn now(base: &Path, commit: Option<&str>, compute: &Compute) -> Self {
        Self {
            base: base.to_owned(),
            commit: commit.map(str::to_owned),
            rewards: BTreeMap::new(),
            matmul_precision: matmul_precision().to_owned(),
            device: compute.kind().to_owned(),
        }
    }

    /// Of a run folder; `None` where it has none that can be read.
    pub(crate) fn of(run_dir: &Path) -> Option<Self> {
        read_json(&run_dir.join(FILE)).ok()
    }

    pub(crate) fn write(&self, run_dir: &Path) -> Result<()> {
        Ok(write_json(&run_dir.join(FILE), self)?)
    }
}

/// Refuses to go on with a run on another kind of device, or with another dtype of matrix products, than it began
/// with: its parts would not belong together.
///
/// # Errors
/// When one of them differs.
pub(crate) fn check_arithmetic(run_dir: &Path, compute: &Compute) -> Result<()> {
    let Some(origin) = Origin::of(run_dir) else { return Ok(()) };
    if origin.device != compute.kind() {
        return Err(PipelineError::Usage(format!(
            "{}: this run began with --device {}, and this command computes on {}; expected the same kind of device: give it, or begin another run folder",
            run_dir.display(),
            origin.device,
            compute.kind()
        )));
    }
    if origin.matmul_precision != matmul_precision() {
        return Err(PipelineError::Usage(format!(
            "{}: this run began with --matmul-precision {}, and this command multiplies in {}; expected the same format: give it, or begin another run folder",
            run_dir.display(),
            origin.matmul_precision,
            matmul_precision()
        )));
    }
    Ok(())
}
