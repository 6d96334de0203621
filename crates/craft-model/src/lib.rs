//! Text-to-image models: found, loaded, drawn with, written in other layouts.
//!
//! *API boundary*: what stands above (training, stages, comparison, the command line) sees [`Model`], never a
//! family's network.

mod architecture;
pub mod clip_vocabulary;
pub mod component;
pub mod compute;
pub mod condition;
pub mod denoiser;
pub mod dtype;
pub mod error;
mod fitting;
pub mod lora;
mod lora_files;
pub mod model;
pub mod parameters;
pub mod sample;
pub mod schedule;
pub mod sd;
pub mod sdxl;
pub mod single_file;
mod size;
pub mod source;
pub mod text;

pub use compute::Compute;
pub use condition::Condition;
pub use denoiser::Denoiser;
pub use error::{ModelError, Result};
pub use model::Model;
