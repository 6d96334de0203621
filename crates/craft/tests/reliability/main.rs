//! What a run survives: kills at any moment, full and failing disks, damage, links and special files.
//! docs/reliability.md tells which test stands for which promise.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod cache;
mod checkpoints;
mod early;
mod files;
mod inputs;
mod kills;
mod links;
mod pocket_build;
mod read_only;
