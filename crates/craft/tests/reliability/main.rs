//! What a run keeps when it is stopped, killed or stands on damaged files.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

#[path = "../support/mod.rs"]
mod support;

mod changed_rows;
mod full;
mod guard;
mod large;
mod online;
mod process;
mod stops;
