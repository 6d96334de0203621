//! What work reports to: a terminal, a log, or nothing.

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
