//! Work on several threads: on those of [`crate::pool`], or, inside a rayon pool, on that pool.
//! What a task computes never depends on how many threads there are.

use crate::pool;
use rayon::prelude::*;

/// Work below this many floating-point operations (a few microseconds) is not worth a second
/// thread.
const SMALL: usize = 1 << 18;

/// Runs `f(0) .. f(tasks - 1)`, in parallel where `flops`, the size of the whole, is worth it.
pub(crate) fn for_each(tasks: usize, flops: usize, f: impl Fn(usize) + Sync + Send) {
    if tasks <= 1 || flops < SMALL {
        (0..tasks).for_each(f);
    } else if rayon::current_thread_index().is_some() || !pool::run(tasks, &f) {
        (0..tasks).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// Cuts `len` into pieces of a size that depends on `len` only and runs `f(start, end)` for each.
pub(crate) fn for_ranges(len: usize, flops_each: usize, f: impl Fn(usize, usize) + Sync + Send) {
    let pieces = (len.saturating_mul(flops_each) / (SMALL / 2)).clamp(1, 64);
    let piece = len.div_ceil(pieces).next_multiple_of(64).max(64);
    for_each(len.div_ceil(piece), len.saturating_mul(flops_each), |i| {
        f(i * piece, ((i + 1) * piece).min(len))
    });
}
