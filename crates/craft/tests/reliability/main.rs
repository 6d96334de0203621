//! What a run keeps when it is stopped, killed or stands on damaged files.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

#[path = "../support/mod.rs"]
mod support;

mod cache;
mod guard;
mod large;
mod process;
mod stops;
