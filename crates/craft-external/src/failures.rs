//! When to stop asking something that only fails.

/// Failures in a row after which nothing more is asked.
const MOST: usize = 3;

/// Failures in a row of a program or server as such, rather than of single pictures.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    in_a_row: usize,
    last: String,
}

impl Failures {
    /// Why nothing is asked any more, if so.
    pub(crate) fn given_up(&self) -> Option<String> {
        (self.in_a_row >= MOST)
            .then(|| format!("not asked after {MOST} failures in a row; the last: {}", self.last))
    }

    /// Counts a failure and hands its reason on.
    pub(crate) fn add(&mut self, reason: String) -> String {
        self.in_a_row += 1;
        self.last.clone_from(&reason);
        reason
    }

    /// It works again.
    pub(crate) fn reset(&mut self) {
        self.in_a_row = 0;
    }
}
