//! Files as the world has them: layouts, names and habits of published models, adapters, prompts and
//! exports that this project did not write itself.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../support/mod.rs"]
mod support;

mod checkpoint;
mod exports;
mod layouts;
mod lora;
mod models;
mod prompts;
mod sources;
