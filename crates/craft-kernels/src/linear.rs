//! Fully connected layers and plain matmuls.

use crate::buffer::{Output, Shared};
use crate::gemm::{Bias, Left, Product, Right, product};
use crate::parallel;
use crate::simd::bf16::Pairs;
use crate::simd::{Level, level};

fn compute(p: &Product<'_>) -> Vec<f32> {
    let level = level();
    let mut out = Output::new(p.m * p.n);
    // SAFETY: the product writes all m * n values of the fresh vector.
    unsafe {
        product(level, Pairs::active(level), p, out.ptr());
        out.finish()
    }
}

/// `a [m, k]` times `b [k, n]`, row-major; returns `[m, n]`.
#[must_use]
pub fn matmul(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
    compute(&Product { m, n, k, a: Left::Rows(a), b: Right::Rows(b), bias: None })
}

/// `x [m, k]` times the transpose of `w [n, k]` plus `bias [n]`; returns `[m, n]`.
#[must_use]
pub fn linear(
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    m: usize,
    k: usize,
    n: usize,
) -> Vec<f32> {
    compute(&Product {
        m,
        n,
        k,
        a: Left::Rows(x),
        b: Right::Columns(w),
        bias: bias.map(Bias::Columns),
    })
}

/// Gradient of [`linear`] with respect to `x`: `dy [m, n]` times `w [n, k]`; returns `[m, k]`.
#[must_use]
pub fn linear_backward_input(dy: &[f32], w: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
    compute(&Product { m, n: k, k: n, a: Left::Rows(dy), b: Right::Rows(w), bias: None })
}

/// Gradient of [`linear`] with respect to `w`: the transpose of `dy [m, n]` times `x [m, k]`;
/// returns `[n, k]`.
#[must_use]
pub fn linear_backward_weight(x: &[f32], dy: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
    compute(&Product { m: n, n: k, k: m, a: Left::Columns(dy), b: Right::Rows(x), bias: None })
}

/// Gradient of [`linear`] with respect to the bias: the sum of `dy [m, n]` over its rows; returns
/// `[n]`.
#[must_use]
pub fn linear_backward_bias(dy: &[f32], m: usize, n: usize) -> Vec<f32> {
    assert_eq!(dy.len(), m * n, "dy");
    column_sums(level(), dy, m, n)
}

/// Rows added up in `f32` before the sum moves on to `f64`.
const CHUNK: usize = 64;

/// Sums over the rows of `x [m, n]`, by chunks of fixed size.
pub(crate) fn column_sums(_level: Level, x: &[f32], m: usize, n: usize) -> Vec<f32> {
    let mut out = Output::new(n);
    let to = out.ptr();
    parallel::for_ranges(n, 4 * m, |start, end| {
        let to = Shared::new(to.at(start));
        let width = end - start;
        let mut total = vec![0.0f64; width];
        let mut part = vec![0.0f32; width];
        for rows in (0..m).step_by(CHUNK) {
            part.fill(0.0);
            for r in rows..(rows + CHUNK).min(m) {
                for (p, &v) in part.iter_mut().zip(&x[r * n + start..r * n + end]) {
                    *p += v;
                }
            }
            for (t, &p) in total.iter_mut().zip(&part) {
                *t += f64::from(p);
            }
        }
        for (i, &t) in total.iter().enumerate() {
            // SAFETY: each range writes its own columns.
            unsafe { to.at(i).write(t as f32) };
        }
    });
    // SAFETY: the ranges cover all n columns.
    unsafe { out.finish() }
}
