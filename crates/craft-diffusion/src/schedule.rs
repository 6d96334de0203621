//! Learning rate over the steps of a training run.

/// Shape of the learning rate after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LrShape {
    /// Constant.
    Constant,
    /// Half a cosine down to zero.
    Cosine,
}

/// Learning rate of update `step` (from 0) of `total`, after a linear warm-up.
pub fn learning_rate(base: f64, shape: LrShape, warmup: usize, step: usize, total: usize) -> f64 {
    if step < warmup {
        return base * (step + 1) as f64 / warmup as f64;
    }
    match shape {
        LrShape::Constant => base,
        LrShape::Cosine => {
            let done = (step - warmup) as f64 / (total - warmup).max(1) as f64;
            base * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())
        }
    }
}
