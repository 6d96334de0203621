//! Convolutions with kernels of one by one, image by image as plain matmuls, `y [co, hw] = w [co,
//! ci] x [ci, hw]`.
//!
//! Read in place, the rows of a large image lie a multiple of a page apart and push each other out
//! of the nearest cache; the product copies panels of them.

use super::shape::ConvShape;
use crate::buffer::Shared;
use crate::gemm::{Bias, Left, Product, Right, product};
use crate::simd::Level;

/// Multiplications of an image below which a task an image is better.
const LEAST: usize = 4 << 20;

impl ConvShape {
    /// Whether passes in `f32` are plain matmuls: depends on one image, not on the batch.
    pub(super) fn pointwise(&self) -> bool {
        let size = self.in_channels * self.out_channels * self.height * self.width;
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0; 4] && size >= LEAST
    }
}

/// The output, or, from its gradient `x`, that of the input where `back`.
///
/// # Safety
/// `x` and `w` have the lengths that `s` says, and `y` is writable for that of the result.
pub(super) unsafe fn multiply(
    level: Level,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    s: &ConvShape,
    back: bool,
    y: Shared,
) {
    let (ci, co, hw) = (s.in_channels, s.out_channels, s.height * s.width);
    let [m, k] = if back { [ci, co] } else { [co, ci] };
    for (n, x) in x.chunks_exact(k * hw).enumerate() {
        let p = Product {
            m,
            n: hw,
            k,
            a: if back { Left::Columns(w) } else { Left::Rows(w) },
            b: Right::Rows(x),
            bias: bias.map(Bias::Rows),
        };
        // SAFETY: image n of the result is inside y.
        unsafe { product(level, None, &p, Shared::new(y.at(n * m * hw))) };
    }
}
