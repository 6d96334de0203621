//! The guard against non-finite losses and gradients.

use thiserror::Error;

/// Too many updates in a row had to be skipped.
#[derive(Debug, Error)]
#[error(
    "stopped by the NaN guard at step {step}: {consecutive} updates in a row had a non-finite loss or gradient (loss {loss}, gradient norm {grad_norm}); checkpoints that can be trained on are kept. Lower the learning rate (train.learning_rate; in another run folder), or check the samples of this batch: {batch:?}"
)]
pub struct NanStop {
    /// Step at which training stopped.
    pub step: usize,
    /// Skipped updates in a row.
    pub consecutive: usize,
    /// The last loss.
    pub loss: f64,
    /// The last gradient norm.
    pub grad_norm: f64,
    /// Samples of the last batch.
    pub batch: Vec<String>,
}

/// Counts skipped updates. A skipped update leaves parameters, moments and average untouched; the data
/// cursor moves on.
#[derive(Clone, Copy, Debug)]
pub struct NanGuard {
    limit: usize,
    /// Skipped updates since the last good one.
    pub consecutive: usize,
    /// Skipped updates in all.
    pub skipped: usize,
}

impl NanGuard {
    /// Stops after `limit` skipped updates in a row.
    pub fn new(limit: usize) -> Self {
        Self { limit, consecutive: 0, skipped: 0 }
    }

    /// Whether the update may be done.
    ///
    /// # Errors
    /// When too many updates in a row were not.
    pub fn admit(
        &mut self,
        step: usize,
        loss: f64,
        grad_norm: f64,
        batch: &[String],
    ) -> Result<bool, NanStop> {
        if loss.is_finite() && grad_norm.is_finite() {
            self.consecutive = 0;
            return Ok(true);
        }
        self.consecutive += 1;
        self.skipped += 1;
        if self.consecutive >= self.limit.max(1) {
            return Err(NanStop {
                step,
                consecutive: self.consecutive,
                loss,
                grad_norm,
                batch: batch.to_vec(),
            });
        }
        Ok(false)
    }
}
