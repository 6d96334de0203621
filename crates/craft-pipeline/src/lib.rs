//! The stages of CRAFT over a run folder: expand, generate, score, select, train, evaluate.
//!
//! Invariant: the bytes of a candidate depend on the model, the recipe and the candidate's random number
//! key only; never on batch size, number of threads or order.

mod architecture;
mod cache;
mod clip_vocabulary;
pub mod compare;
mod component;
pub mod context;
mod cost;
pub mod draw;
pub mod error;
pub mod export;
pub mod external;
mod fitting;
pub mod lora;
mod lora_files;
pub mod model;
mod networks;
mod origin;
pub mod parameters;
mod prompt_files;
mod prompt_table;
pub mod recipes;
mod reward_files;
pub mod reward_hub;
pub mod rewards;
mod rounds;
pub mod run;
pub mod schedule;
mod single_file;
mod size;
pub mod source;
mod stages;
pub mod statistics;
pub mod text;
pub mod world;

pub use context::{Context, Progress, Silent};
pub use error::{PipelineError, Result};
pub use model::Model;
