//! Everything that touches the disk: run folders, stage manifests, shards, atomic writes, JSON lines,
//! images, tensor files and the hub's cache. Connections are `craft-net`'s.
//!
//! Invariants: no other crate of the workspace opens, writes or removes a file (`clippy.toml` refuses it;
//! tests excepted); a reader never sees half of a file that was written here; every error names the
//! path and says how to mend it.

// The crate that owns files.
#![allow(clippy::disallowed_methods)]

pub mod atomic;
pub mod cache;
mod cgroup;
mod error;
mod faults;
pub mod hash;
pub mod hub;
pub mod image;
pub mod input;
mod jpeg;
mod json;
pub mod jsonl;
pub mod lock;
pub mod manifest;
pub mod meter;
pub mod own;
pub mod raw;
pub mod rows;
pub mod run;
pub mod shards;
pub mod space;
pub mod stage;
pub mod staging;
pub mod tensors;
pub mod text;
pub mod torch;
pub mod verify;
pub mod weights;

pub use error::{Result, StoreError};
pub use image::RgbImage;
pub use manifest::{DroppedItem, Manifest};
pub use run::RunFolder;
pub use shards::{PictureStore, PictureWriter, RowStore, RowsWriter};
pub use stage::{Stage, StageStatus, StageWriter};
pub use tensors::{Dtype, Tensor, TensorReader};
pub use torch::TorchReader;
