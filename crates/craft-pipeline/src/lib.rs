//! The stages of CRAFT over a run folder: expand, generate, score, select, train, evaluate.
//!
//! Invariant: the bytes of a candidate depend on the model, the recipe and the candidate's random number
//! key only; never on batch size, number of threads or order.

mod cache;
pub mod client;
pub mod context;
mod cost;
pub mod error;
pub mod export;
pub mod external;
mod origin;
mod prompt_files;
mod prompt_table;
pub mod recipes;
mod reward_files;
pub mod reward_hub;
pub mod rewards;
mod rounds;
pub mod run;
mod stages;
mod start;
pub mod statistics;
pub mod world;

pub use context::Context;
pub use error::{PipelineError, Result};
