//! `plan.json`: what a run was expected to take, by stage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a stage was expected to take; what was not estimated is missing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Planned {
    /// Time on the clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Most memory at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What it writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
}

/// `plan.json` of a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// By the stage's name, such as `generate`.
    pub stages: BTreeMap<String, Planned>,
}
