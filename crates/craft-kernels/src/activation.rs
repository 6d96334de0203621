//! Activation functions, forward and backward, and the gated GELU of the transformer blocks.

use crate::buffer::{Output, Shared};
use crate::parallel;
use crate::simd::map::{Binary, Unary, for_vectors, map1, map2, read, write};
use crate::simd::math::{exp, normal, sigmoid};
use crate::simd::{Kernel, Simd, level};

#[derive(Clone, Copy)]
struct Gelu;
impl Unary for Gelu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        s.mul(x, normal(s, x).0)
    }
}
impl Binary for Gelu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V, dy: S::V) -> S::V {
        let (cdf, pdf) = normal(s, x);
        s.mul(dy, s.fma(x, pdf, cdf))
    }
}

/// `x * sigmoid(a x)`.
#[derive(Clone, Copy)]
pub(crate) struct Swish(pub(crate) f32);
impl Unary for Swish {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        s.mul(x, sigmoid(s, s.mul(s.splat(self.0), x)))
    }
}
impl Swish {
    /// The value at `x`, and the gradient there times `dy`.
    #[inline(always)]
    pub(crate) fn with_gradient<S: Simd>(self, s: S, x: S::V, dy: S::V) -> (S::V, S::V) {
        let ax = s.mul(s.splat(self.0), x);
        let one = s.splat(1.0);
        let e = exp(s, s.sub(s.zero(), ax));
        let g = s.reciprocal(s.add(one, e));
        // 1 - g without cancellation, and without infinity times zero.
        let other = s.select_lt(e, s.splat(1e37), s.mul(e, g), one);
        let rest = s.mul(ax, other);
        (s.mul(x, g), s.mul(dy, s.fma(g, rest, g)))
    }
}
impl Binary for Swish {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V, dy: S::V) -> S::V {
        self.with_gradient(s, x, dy).1
    }
}

const COST: usize = 32;

/// `x * Phi(x)` with the exact normal distribution function.
#[must_use]
pub fn gelu(x: &[f32]) -> Vec<f32> {
    map1(level(), x, COST, Gelu)
}

/// Gradient of [`gelu`] at `x`, times `dy`.
#[must_use]
pub fn gelu_backward(x: &[f32], dy: &[f32]) -> Vec<f32> {
    map2(level(), x, dy, 2 * COST, Gelu)
}

/// `x * sigmoid(1.702 x)`, the approximation of GELU that the CLIP models were trained with.
#[must_use]
pub fn quick_gelu(x: &[f32]) -> Vec<f32> {
    map1(level(), x, COST, Swish(1.702))
}

/// Gradient of [`quick_gelu`] at `x`, times `dy`.
#[must_use]
pub fn quick_gelu_backward(x: &[f32], dy: &[f32]) -> Vec<f32> {
    map2(level(), x, dy, COST, Swish(1.702))
}

/// `x * sigmoid(x)`.
#[must_use]
pub fn silu(x: &[f32]) -> Vec<f32> {
    map1(level(), x, COST, Swish(1.0))
}

/// Gradient of [`silu`] at `x`, times `dy`.
#[must_use]
pub fn silu_backward(x: &[f32], dy: &[f32]) -> Vec<f32> {
    map2(level(), x, dy, COST, Swish(1.0))
}

/// `y` of a row `[2 d]` and of an optional bias that is added to it first; the sum goes where it is
/// to be `kept`, which may be the row itself: so that is no slice.
pub(crate) struct GegluRow<'a> {
    pub x: *const f32,
    pub d: usize,
    pub bias: Option<&'a [f32]>,
    pub kept: Option<Shared>,
    pub y: Shared,
}

impl Kernel for GegluRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.d;
        for_vectors!(S, d, |i, n| {
            // SAFETY: n values from index i are inside each half of x, of the bias and of what is
            // kept, and inside y.
            unsafe {
                let mut value = read(s, self.x.add(i), n);
                let mut gate = read(s, self.x.add(d + i), n);
                if let Some(bias) = self.bias {
                    value = s.add(value, read(s, bias.as_ptr().add(i), n));
                    gate = s.add(gate, read(s, bias.as_ptr().add(d + i), n));
                }
                if let Some(kept) = self.kept {
                    write(s, kept.at(i), value, n);
                    write(s, kept.at(d + i), gate, n);
                }
                write(s, self.y.at(i), s.mul(value, s.mul(gate, normal(s, gate).0)), n);
            }
        });
    }
}

/// Gated GELU over rows of length `2 d`: first half times [`gelu`] of the second half. `x [m, 2
/// d]`; returns `[m, d]`.
#[must_use]
pub fn geglu(x: &[f32], m: usize, d: usize) -> Vec<f32> {
    assert_eq!(x.len(), m * 2 * d, "x");
    let level = level();
    let mut out = Output::new(m * d);
    let y = out.ptr();
    parallel::for_ranges(m, COST * d, |start, end| {
        for r in start..end {
            let (x, y) = (x[2 * d * r..2 * d * (r + 1)].as_ptr(), Shared::new(y.at(r * d)));
            level.run(GegluRow { x, d, bias: None, kept: None, y });
        }
    });
    // SAFETY: the ranges cover all rows.
    unsafe { out.finish() }
}

/// A row of the gradient of [`geglu`], and of [`geglu`] itself where there is a `y` for it.
pub(crate) struct GegluRowBackward<'a> {
    pub value: &'a [f32],
    pub gate: &'a [f32],
    pub dy: &'a [f32],
    pub dx: Shared,
    pub y: Option<Shared>,
}

impl Kernel for GegluRowBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.dy.len();
        for_vectors!(S, d, |i, n| {
            // SAFETY: n values from index i are inside value, gate, dy and y and inside each half
            // of dx.
            unsafe {
                let value = read(s, self.value.as_ptr().add(i), n);
                let gate = read(s, self.gate.as_ptr().add(i), n);
                let dy = read(s, self.dy.as_ptr().add(i), n);
                let (cdf, pdf) = normal(s, gate);
                let (gelu, slope) = (s.mul(gate, cdf), s.fma(gate, pdf, cdf));
                if let Some(y) = self.y {
                    write(s, y.at(i), s.mul(value, gelu), n);
                }
                write(s, self.dx.at(i), s.mul(dy, gelu), n);
                write(s, self.dx.at(d + i), s.mul(s.mul(dy, value), slope), n);
            }
        });
    }
}

/// Gradient of [`geglu`]: `x [m, 2 d]`, `dy [m, d]`; returns `[m, 2 d]`.
#[must_use]
pub fn geglu_backward(x: &[f32], dy: &[f32], m: usize, d: usize) -> Vec<f32> {
    assert_eq!(x.len(), m * 2 * d, "x");
    assert_eq!(dy.len(), m * d, "dy");
    let level = level();
    let mut out = Output::new(m * 2 * d);
    let dx = out.ptr();
    parallel::for_ranges(m, 2 * COST * d, |start, end| {
        for r in start..end {
            let (value, gate) = x[2 * d * r..2 * d * (r + 1)].split_at(d);
            level.run(GegluRowBackward {
                value,
                gate,
                dy: &dy[d * r..d * (r + 1)],
                dx: Shared::new(dx.at(2 * d * r)),
                y: None,
            });
        }
    });
    // SAFETY: the ranges cover all rows.
    unsafe { out.finish() }
}
