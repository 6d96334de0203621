//! Where the time of the kernels goes, by kind of operation. Off unless [`start`] was called.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Convolutions; where halves of residual blocks are one operation, with their norms and
    /// additions.
    Convolution,
    /// Scaled dot-product attention; with norm, projections and addition in fused blocks.
    Attention,
    /// Linear maps, and fused feed-forward blocks.
    Linear,
    /// Norms, activations and gates.
    NormAndActivation,
    /// Additions, concatenation, changes of layout.
    Layout,
}

impl Phase {
    /// All of them, in the order of a [`Profile`].
    pub const ALL: [Self; 5] =
        [Self::Convolution, Self::Attention, Self::Linear, Self::NormAndActivation, Self::Layout];

    /// As reports call it.
    pub fn as_str(self) -> &'static str {
        ["convolution", "attention", "linear", "norm and activation", "additions and layout"]
            [self as usize]
    }
}

/// What one kind of operation took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Wall-clock seconds on the thread that asked, its helpers included.
    pub seconds: f64,
    /// Multiplications and additions of matmuls; 0 if it has none.
    pub flops: f64,
}

/// Time by [`Phase`].
pub type Profile = [Spent; 5];

static ON: AtomicBool = AtomicBool::new(false);
static NANOSECONDS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
static FLOPS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// Starts counting from 0. Process-wide.
pub fn start() {
    for counter in NANOSECONDS.iter().chain(&FLOPS) {
        counter.store(0, Relaxed);
    }
    ON.store(true, Relaxed);
}

/// Stops counting and returns what was counted.
pub fn stop() -> Profile {
    ON.store(false, Relaxed);
    std::array::from_fn(|i| Spent {
        seconds: NANOSECONDS[i].load(Relaxed) as f64 / 1e9,
        flops: FLOPS[i].load(Relaxed) as f64,
    })
}

/// Runs an operation and counts it.
pub(super) fn timed<T>(phase: Phase, flops: f64, run: impl FnOnce() -> T) -> T {
    if !ON.load(Relaxed) {
        return run();
    }
    let start = Instant::now();
    let out = run();
    let i = phase as usize;
    NANOSECONDS[i].fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
    FLOPS[i].fetch_add(flops as u64, Relaxed);
    out
}
