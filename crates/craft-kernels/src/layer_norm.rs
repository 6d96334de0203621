//! Layer normalisation.

use crate::buffer::{Output, Shared, scratch};
use crate::parallel;
use crate::reduce::moments;
use crate::simd::map::{for_vectors, read, write};
use crate::simd::{Kernel, Level, Simd, level};

/// Where the mean and the reciprocal deviation of a row are, those of the next one `step` values
/// later.
#[derive(Clone, Copy)]
struct Statistics {
    mean: Shared,
    rstd: Shared,
    step: usize,
}

impl Statistics {
    /// Mean and deviation of a row next to each other.
    fn pairs(stats: *mut f32) -> Self {
        Self { mean: Shared::new(stats), rstd: Shared::new(stats.wrapping_add(1)), step: 2 }
    }
}

/// Rows `x [rows, d]`, normalised to `y`.
struct Rows<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    y: Shared,
    stats: Statistics,
    eps: f32,
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.weight.len();
        for (r, x) in self.x.chunks_exact(d.max(1)).enumerate() {
            let (rounded, reciprocal) = moments(s, x, self.eps);
            let (mean, rstd) = (s.splat(rounded), s.splat(reciprocal));
            let y = self.y.at(r * d);
            for_vectors!(S, d, |i, n| {
                // SAFETY: n values from index i are inside the row, weight, bias and y.
                unsafe {
                    let xhat = s.mul(s.sub(read(s, x.as_ptr().add(i), n), mean), rstd);
                    let w = read(s, self.weight.as_ptr().add(i), n);
                    let b = read(s, self.bias.as_ptr().add(i), n);
                    write(s, y.add(i), s.fma(xhat, w, b), n);
                }
            });
            // SAFETY: whoever made this has room for the statistics of each row.
            unsafe {
                self.stats.mean.at(r * self.stats.step).write(rounded);
                self.stats.rstd.at(r * self.stats.step).write(reciprocal);
            }
        }
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
        assert!(stats.len() >= 2 * (x.len() / d.max(1)), "statistics need two values a row");
        let stats = Statistics::pairs(stats.as_mut_ptr());
        level.run(Rows { x, weight, bias, y: Shared::new(y.as_mut_ptr()), stats, eps });
    }

    /// Gradients of [`rows`](Self::rows): that of `x` to `dx`, those of weight and bias added to
    /// `sums`, one after the other.
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
        assert!(stats.len() >= 2 * (x.len() / d.max(1)), "statistics need two values a row");
        let (dx, step) = (Shared::new(dx.as_mut_ptr()), 2);
        let (mean, rstd) = (stats, stats.get(1..).unwrap_or_default());
        level.run(RowsBackward { x, dy, weight, mean, rstd, step, dx, dw, db });
    }
}

/// Normalises each row of `x [m, d]` and applies `weight [d]` and `bias [d]`; returns `y [m, d]`,
/// and mean and reciprocal deviation `[m]`.
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
        let [mean, rstd] = [&to_mean, &to_rstd].map(|to| Shared::new(to.at(start)));
        let (x, y) = (&x[start * d..end * d], Shared::new(to.at(start * d)));
        level.run(Rows { x, weight, bias, y, stats: Statistics { mean, rstd, step: 1 }, eps });
    });
    // SAFETY: the ranges cover all rows.
    unsafe { (y.finish(), mean.finish(), rstd.finish()) }
}

/// Rows of the backward pass; adds their part to `dw` and `db`.
struct RowsBackward<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    weight: &'a [f32],
    /// Statistics of the rows, those of the next one `step` values later.
    mean: &'a [f32],
    rstd: &'a [f32],
    step: usize,
    dx: Shared,
    dw: Shared,
    db: Shared,
}

impl Kernel for RowsBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.weight.len();
        let rows = self.x.chunks_exact(d.max(1)).zip(self.dy.chunks_exact(d.max(1)));
        for (r, (x, dy)) in rows.enumerate() {
            let (rstd, dx) = (self.rstd[r * self.step], self.dx.at(r * d));
            let (mean, by) = (s.splat(self.mean[r * self.step]), s.splat(rstd));
            let (mut sum, mut dot) = (s.zero(), s.zero());
            for_vectors!(S, d, |i, n| {
                // SAFETY: n values from index i are inside every row; lanes past them are zero in
                // dy and weight.
                unsafe {
                    let xhat = s.mul(s.sub(read(s, x.as_ptr().add(i), n), mean), by);
                    let dy = read(s, dy.as_ptr().add(i), n);
                    let g = s.mul(dy, read(s, self.weight.as_ptr().add(i), n));
                    sum = s.add(sum, g);
                    dot = s.fma(g, xhat, dot);
                    write(s, self.dw.at(i), s.fma(dy, xhat, read(s, self.dw.at(i), n)), n);
                    write(s, self.db.at(i), s.add(dy, read(s, self.db.at(i), n)), n);
                }
            });
            let share = rstd / d as f32;
            let b = s.splat(-share * s.reduce_add(dot));
            let c = s.splat(-share * s.reduce_add(sum));
            for_vectors!(S, d, |i, n| {
                // SAFETY: n values from index i are inside every row.
                unsafe {
                    let xhat = s.mul(s.sub(read(s, x.as_ptr().add(i), n), mean), by);
                    let weight = read(s, self.weight.as_ptr().add(i), n);
                    let g = s.mul(read(s, dy.as_ptr().add(i), n), weight);
                    write(s, dx.add(i), s.fma(g, by, s.fma(xhat, b, c)), n);
                }
            });
        }
    }
}

/// Rows of one chunk of the affine gradients.
const CHUNK: usize = 64;

/// Gradients of [`layer_norm`]: takes its inputs, the statistics it returned and `dy [m, d]`;
/// returns `dx [m, d]`,
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
            let rows = chunk * CHUNK..((chunk + 1) * CHUNK).min(m);
            let values = rows.start * d..rows.end * d;
            level.run(RowsBackward {
                x: &x[values.clone()],
                dy: &dy[values],
                weight,
                mean: &mean[rows.clone()],
                rstd: &rstd[rows.clone()],
                step: 1,
                dx: Shared::new(to.at(rows.start * d)),
                dw: Shared::new(dw),
                db: Shared::new(db),
            });
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
