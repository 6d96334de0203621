//! `plan.json`: what a run was expected to take, by stage.

use serde::{Deserialize, Serialize};

/// What a stage was expected to take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// The stage's name, such as `generate`.
    pub stage: String,
    /// Bytes that it leaves on the disk.
    pub disk_bytes: u64,
    /// Peak of resident memory in bytes, models included.
    pub memory_bytes: u64,
    /// Time on the clock on a machine that does nothing else; `None` if it was not measured.
    pub seconds: Option<f64>,
}

/// `plan.json` of a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Pictures drawn to choose from.
    pub candidates: u64,
    /// Pictures drawn to compare models.
    pub evaluation_pictures: u64,
    /// The stages in their order.
    pub stages: Vec<Planned>,
    /// Bytes on the disk in all.
    pub disk_bytes: u64,
    /// Threads that the times hold for.
    pub threads: usize,
}
