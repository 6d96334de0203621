//! Sums in a fixed order: `f32` vectors within short runs, `f64` across them.

use crate::parallel;
use crate::simd::map::{for_vectors, read};
use crate::simd::{Kernel, Level, Simd, level};

/// Values added in `f32` before the sum moves on to `f64`.
const RUN: usize = 512;

/// Sums that are kept side by side, so that none waits for the one before.
const SIDE: usize = 4;

/// The sum of sums.
#[inline(always)]
fn together<S: Simd>(s: S, [a, b, c, d]: [S::V; SIDE]) -> f64 {
    f64::from(s.reduce_add(s.add(s.add(a, b), s.add(c, d))))
}

/// Sum of `x`.
pub(crate) struct Sum<'a>(pub(crate) &'a [f32]);
impl Kernel for Sum<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let mut total = 0.0;
        for run in self.0.chunks(RUN) {
            let mut sums = [s.zero(); SIDE];
            let blocks = run.chunks_exact(SIDE * S::LANES);
            let rest = blocks.remainder();
            for block in blocks {
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: a block is that many vectors.
                    *sum = s.add(*sum, unsafe { s.load(block.as_ptr().add(i * S::LANES)) });
                }
            }
            for_vectors!(S, rest.len(), |i, n| {
                // SAFETY: n values from index i are inside the rest.
                sums[0] = s.add(sums[0], unsafe { read(s, rest.as_ptr().add(i), n) });
            });
            total += together(s, sums);
        }
        total
    }
}

/// Sum of `(x - mean)^2`.
pub(crate) struct Deviation<'a>(pub(crate) &'a [f32], pub(crate) f32);
impl Kernel for Deviation<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let mean = s.splat(self.1);
        let mut total = 0.0;
        for run in self.0.chunks(RUN) {
            let mut sums = [s.zero(); SIDE];
            let blocks = run.chunks_exact(SIDE * S::LANES);
            let vectors = blocks.remainder().chunks_exact(S::LANES);
            let rest = vectors.remainder();
            for block in blocks {
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: a block is that many vectors.
                    let d = s.sub(unsafe { s.load(block.as_ptr().add(i * S::LANES)) }, mean);
                    *sum = s.fma(d, d, *sum);
                }
            }
            for vector in vectors {
                // SAFETY: it is a whole vector.
                let d = s.sub(unsafe { s.load(vector.as_ptr()) }, mean);
                sums[0] = s.fma(d, d, sums[0]);
            }
            total += together(s, sums);
            for &x in rest {
                let d = f64::from(x - self.1);
                total += d * d;
            }
        }
        total
    }
}

/// Mean of `x`, and the reciprocal of its deviation with `eps` added to the variance.
#[inline(always)]
pub(crate) fn moments<S: Simd>(s: S, x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f64;
    let mean = Sum(x).run(s) / n;
    // The deviation is taken from the rounded mean, and corrected for the rounding.
    let rounded = mean as f32;
    let off = mean - f64::from(rounded);
    let variance = (Deviation(x, rounded).run(s) / n - off * off).max(0.0);
    (rounded, (1.0 / (variance + f64::from(eps)).sqrt()) as f32)
}

/// Values of one task of [`sum_squares`]; fixed, so that the order of the sum is.
const TASK: usize = 1 << 16;

/// Sum of the squares of `x`, in the same order for any number of threads.
#[must_use]
pub fn sum_squares(x: &[f32]) -> f64 {
    let level: Level = level();
    if x.len() <= TASK {
        return level.run(Deviation(x, 0.0));
    }
    let tasks = x.len().div_ceil(TASK);
    let parts: Vec<std::sync::OnceLock<f64>> =
        (0..tasks).map(|_| std::sync::OnceLock::new()).collect();
    parallel::for_each(tasks, 2 * x.len(), |i| {
        let part = level.run(Deviation(&x[i * TASK..((i + 1) * TASK).min(x.len())], 0.0));
        parts[i].get_or_init(|| part);
    });
    parts.iter().filter_map(|p| p.get()).sum()
}
