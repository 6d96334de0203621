//! What a run survives: kills at any moment, full and failing disks, damage, links and special files.
//! docs/reliability.md tells which test stands for which promise.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
#![cfg(unix)]

#[path = "../support/mod.rs"]
mod support;

mod changed_rows;
mod checkpoints;
mod damage;
mod early;
mod files;
mod full;
mod guard;
mod inputs;
mod kills;
mod large;
mod links;
mod online;
mod pocket_build;
mod process;
mod read_only;
mod stops;
mod verify;
