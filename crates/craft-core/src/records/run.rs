//! The run itself: `base.json` and `run.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `base.json`: what a run began with beside its recipe, and keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Folder that relative paths of the recipe start from.
    pub base: String,
    /// Commit of the model on the hub.
    pub commit: Option<String>,
    /// Commits of the rewards' repositories on the hub, by `owner/name@revision` as the recipe has it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rewards: BTreeMap<String, String>,
    /// Number format of products.
    pub matmul_precision: String,
    /// Kind of the device.
    pub device: String,
}

/// The keys of `run.json` that are read again; it has more, which `docs/run-folder.md` names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// By stage, and `total`.
    pub seconds: BTreeMap<String, f64>,
    /// Most memory that the process held.
    pub peak_rss_bytes: u64,
    /// Everything else.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

impl RunSummary {
    /// Seconds of all stages together.
    pub fn total_seconds(&self) -> f64 {
        let parts = || self.seconds.values().sum();
        self.seconds.get("total").copied().unwrap_or_else(parts)
    }
}
