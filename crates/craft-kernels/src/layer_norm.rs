//! Layer normalisation.

use crate::buffer::{Output, Shared, scratch};
use crate::parallel;
use crate::reduce::moments;
use crate::simd::map::{for_vectors, read, write};
use crate::simd::{Kernel, Level, Simd, level};

struct Row<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    y: Shared,
    eps: f32,
}

impl Kernel for Row<'_> {
    type Output = (f32, f32);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, f32) {
        let d = self.x.len();
        let (rounded, r) = moments(s, self.x, self.eps);
        let (mean, rstd) = (s.splat(rounded), s.splat(r));
        for_vectors!(S, d, |i, n| {
            // SAFETY: n values from index i are inside the row, weight, bias and y.
            unsafe {
                let xhat = s.mul(s.sub(read(s, self.x.as_ptr().add(i), n), mean), rstd);
                let (w, b) = (
                    read(s, self.weight.as_ptr().add(i), n),
                    read(s, self.bias.as_ptr().add(i), n),
                );
                write(s, self.y.at(i), s.fma(xhat, w, b), n);
            }
        });
        (rounded, r)
    }
}

/// The affine map of a layer norm, `weight [d]` and `bias [d]`, and what is added to the variance.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// Factor of each column.
    pub weight: &'a [f32],
    /// Summand of each column.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

impl Norm<'_> {
    /// Normalises rows `x` to `y`; `stats` receives mean and reciprocal deviation of each.
    pub(crate) fn rows(&self, level: Level, x: &[f32], y: &mut [f32], stats: &mut [f32]) {
        let (d, Self { weight, bias, eps }) = (self.weight.len(), *self);
        assert!(y.len() == x.len() && bias.len() == d, "x, y and bias");
        let rows = x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(stats.chunks_exact_mut(2));
        for ((x, y), stats) in rows {
            let y = Shared::new(y.as_mut_ptr());
            let (mean, rstd) = level.run(Row { x, weight, bias, y, eps });
            stats.copy_from_slice(&[mean, rstd]);
        }
    }

    /// Gradients of [`rows`](Self::rows): that of `x` to `dx`, those of weight and bias added to `sums`, one after the other.
    pub(crate) fn rows_backward(
        &self,
        level: Level,
        x: &[f32],
        dy: &[f32],
        stats: &[f32],
        dx: &mut [f32],
        sums: &mut [f32],
    ) {
        let (d, weight) = (self.weight.len(), self.weight);
        assert!(dy.len() == x.len() && dx.len() == x.len() && sums.len() == 2 * d, "rows");
        let (dw, db) = sums.split_at_mut(d);
        let (dw, db) = (Shared::new(dw.as_mut_ptr()), Shared::new(db.as_mut_ptr()));
        let rows = x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d));
        for (((x, dy), dx), stats) in rows.zip(stats.chunks_exact(2)) {
            let (mean, rstd, dx) = (stats[0], stats[1], Shared::new(dx.as_mut_ptr()));
            level.run(RowBackward { x, dy, weight, mean, rstd, dx, dw, db });
        }
    }
}

/// Normalises each row of `x [m, d]` and applies `weight [d]` and `bias [d]`; returns `y [m, d]`, and mean and
/// reciprocal deviation `[m]`.
#[must_use]
pub fn layer_norm(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    m: usize,
    d: usize,
    eps: f32,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    assert_eq!(x.len(), m * d, "x");
    assert!(weight.len() == d && bias.len() == d, "weight and bias need one value a column");
    let level = level();
    let (mut y, mut mean, mut rstd) = (Output::new(m * d), Output::new(m), Output::new(m));
    let (to, to_mean, to_rstd) = (y.ptr(), mean.ptr(), rstd.ptr());
    parallel::for_ranges(m, 12 * d, |start, end| {
        for i in start..end {
            let y = Shared::new(to.at(i * d));
            let (a, b) = level.run(Row { x: &x[i * d..(i + 1) * d], weight, bias, y, eps });
            // SAFETY: each row writes its own statistics.
            unsafe {
                to_mean.at(i).write(a);
                to_rstd.at(i).write(b);
            }
        }
    });
    // SAFETY: the ranges cover all rows.
    unsafe { (y.finish(), mean.finish(), rstd.finish()) }
}

/// One row of the backward pass; adds its part to `dw` and `db`.
struct RowBackward<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    weight: &'a [f32],
    mean: f32,
    rstd: f32,
    dx: Shared,
    dw: Shared,
    db: Shared,
}

impl Kernel for RowBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.x.len();
        let (mean, rstd) = (s.splat(self.mean), s.splat(self.rstd));
        let (mut sum, mut dot) = (s.zero(), s.zero());
        for_vectors!(S, d, |i, n| {
            // SAFETY: n values from index i are inside every row; lanes past them are zero in dy and weight.
            unsafe {
                let xhat = s.mul(s.sub(read(s, self.x.as_ptr().add(i), n), mean), rstd);
                let dy = read(s, self.dy.as_ptr().add(i), n);
                let g = s.mul(dy, read(s, self.weight.as_ptr().add(i), n));
                sum = s.add(sum, g);
                dot = s.fma(g, xhat, dot);
                write(s, self.dw.at(i), s.fma(dy, xhat, read(s, self.dw.at(i), n)), n);
                write(s, self.db.at(i), s.add(dy, read(s, self.db.at(i), n)), n);
            }
        });
        let r = self.rstd / d as f32;
        let b = s.splat(-r * s.reduce_add(dot));
        let c = s.splat(-r * s.reduce_add(sum));
        for_vectors!(S, d, |i, n| {
            // SAFETY: n values from index i are inside every row.
            unsafe {
                let xhat = s.mul(s.sub(read(s, self.x.as_ptr().add(i), n), mean), rstd);
                let g = s.mul(
                    read(s, self.dy.as_ptr().add(i), n),
                    read(s, self.weight.as_ptr().add(i), n),
                );
                write(s, self.dx.at(i), s.fma(g, rstd, s.fma(xhat, b, c)), n);
            }
        });
    }
}

/// Rows of one chunk of the affine gradients.
const CHUNK: usize = 64;

/// Gradients of [`layer_norm`]: takes its inputs, the statistics it returned and `dy [m, d]`; returns `dx [m, d]`,
/// `dweight [d]`, `dbias [d]`.
#[must_use]
pub fn layer_norm_backward(
    x: &[f32],
    dy: &[f32],
    weight: &[f32],
    mean: &[f32],
    rstd: &[f32],
    m: usize,
    d: usize,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    assert!(x.len() == m * d && dy.len() == m * d, "x and dy");
    assert_eq!(weight.len(), d, "weight");
    assert!(mean.len() == m && rstd.len() == m, "statistics need one value a row");
    let level = level();
    let mut dx = Output::new(m * d);
    let to = dx.ptr();
    let chunks = m.div_ceil(CHUNK);
    let (mut dw, mut db) = (vec![0.0f64; d], vec![0.0f64; d]);
    scratch(chunks * 2 * d, |parts| {
        let shared = Shared::new(parts.as_mut_ptr());
        parallel::for_each(chunks, 20 * m * d, |chunk| {
            let (dw, db) = (shared.at(chunk * 2 * d), shared.at((chunk * 2 + 1) * d));
            // SAFETY: each chunk owns 2 d values of the buffer.
            unsafe { std::slice::from_raw_parts_mut(dw, 2 * d).fill(0.0) };
            for i in chunk * CHUNK..((chunk + 1) * CHUNK).min(m) {
                level.run(RowBackward {
                    x: &x[i * d..(i + 1) * d],
                    dy: &dy[i * d..(i + 1) * d],
                    weight,
                    mean: mean[i],
                    rstd: rstd[i],
                    dx: Shared::new(to.at(i * d)),
                    dw: Shared::new(dw),
                    db: Shared::new(db),
                });
            }
        });
        for part in parts.chunks_exact(2 * d.max(1)) {
            dw.iter_mut().zip(&part[..d]).for_each(|(t, &v)| *t += f64::from(v));
            db.iter_mut().zip(&part[d..]).for_each(|(t, &v)| *t += f64::from(v));
        }
    });
    let narrow = |v: Vec<f64>| v.into_iter().map(|t| t as f32).collect();
    // SAFETY: the chunks cover all rows.
    (unsafe { dx.finish() }, narrow(dw), narrow(db))
}
