//! What a run reports to and is stopped by.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use craft_core::Progress;
use craft_model::Compute;

use crate::error::{PipelineError, Result};
use crate::world::World;

/// The surroundings of a run.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Where progress goes.
    pub progress: &'a dyn Progress,
    /// Set to stop the run at the next safe point.
    pub stop: &'a AtomicBool,
    /// Where models and rewards compute.
    pub compute: &'a Compute,
    /// The embedded world, where there is one.
    pub world: Option<&'a dyn World>,
}

impl Context<'_> {
    /// Stops here when asked to.
    pub fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(PipelineError::Interrupted) } else { Ok(()) }
    }

    /// What tensors are made on.
    pub fn device(&self) -> &Device {
        self.compute.device()
    }

    /// The embedded world, or an error that says who asked for it.
    pub fn world(&self, key: &str) -> Result<&dyn World> {
        self.world.ok_or_else(|| {
            PipelineError::Usage(format!("{key} = \"pocket\", but no world is embedded here"))
        })
    }
}
