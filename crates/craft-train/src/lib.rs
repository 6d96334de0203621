//! The one training engine: a loop, what it learns from, and the methods.
//!
//! *Invariant*: a training that is stopped at any point and continued is the uninterrupted one, bit for bit.

pub mod checkpoint;
pub mod draws;
pub mod error;
pub mod fit;
pub mod guard;
pub mod lesson;
pub mod loss;
pub mod methods;
pub mod networks;
pub mod objective;
pub mod online;
pub mod optimizer;
pub mod pass;
pub mod pool;
pub mod probe;
pub mod set;
pub mod settings;
pub mod stopped;

pub use error::{Result, TrainError};
