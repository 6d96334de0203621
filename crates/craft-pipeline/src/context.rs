//! What a run reports to and is stopped by.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{PipelineError, Result};
use crate::world::World;

/// Where progress goes.
pub trait Progress: Sync {
    /// A stage begins; `total` units of work.
    fn start(&self, stage: &str, total: u64, unit: &str);
    /// Work done since the last call.
    fn advance(&self, n: u64);
    /// The stage is done.
    fn finish(&self, message: &str);
    /// Something the user should know.
    fn note(&self, message: &str);
    /// Whether the user wants to stop; asked while something outside is waited for.
    fn stopped(&self) -> bool {
        false
    }
}

/// Progress that goes nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: u64, _: &str) {}
    fn advance(&self, _: u64) {}
    fn finish(&self, _: &str) {}
    fn note(&self, _: &str) {}
}

/// The surroundings of a run.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Where progress goes.
    pub progress: &'a dyn Progress,
    /// Set to stop the run at the next safe point.
    pub stop: &'a AtomicBool,
    /// The embedded world, where there is one.
    pub world: Option<&'a dyn World>,
}

impl Context<'_> {
    /// Stops here when asked to.
    pub(crate) fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(PipelineError::Interrupted) } else { Ok(()) }
    }

    /// The embedded world, or an error that says who asked for it.
    pub(crate) fn world(&self, key: &str) -> Result<&dyn World> {
        self.world.ok_or_else(|| {
            PipelineError::Usage(format!("{key} = \"pocket\", but no world is embedded here"))
        })
    }
}
