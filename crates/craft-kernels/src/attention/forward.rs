//! The forward pass in `f32`.

use crate::buffer::{Output, Shared, scratch};
use crate::gemm::block::panel_vectors;
use crate::gemm::pack::Transpose;
use crate::gemm::{Block, Init};
use crate::simd::map::{for_vectors, read, write};
use crate::simd::math::exp;
use crate::simd::{Kernel, Level, Simd};

use super::{AttentionShape, QUERIES};

/// Queries of one tile.
pub(super) const QB: usize = 32;
/// Keys of one tile.
pub(super) const KB: usize = 128;

/// `x [rows, d]` at row distance `ld`, turned into column panels of `[d, width]` for every [`KB`] rows.
pub(super) struct Turned {
    width: usize,
    tile: usize,
}

impl Turned {
    pub(super) fn new(level: Level, keys: usize, d: usize) -> Self {
        let width = panel_vectors(keys.min(KB), level.lanes()) * level.lanes();
        Self { width, tile: keys.min(KB).div_ceil(width) * width * d }
    }

    pub(super) fn len(&self, keys: usize) -> usize {
        keys.div_ceil(KB) * self.tile
    }

    /// # Safety
    /// `x + r * ld` is readable for `d` values for `r < keys`; `to` is writable for [`Turned::len`] values.
    pub(super) unsafe fn fill(
        &self,
        level: Level,
        x: *const f32,
        ld: usize,
        keys: usize,
        d: usize,
        to: *mut f32,
    ) {
        for (t, k0) in (0..keys).step_by(KB).enumerate() {
            let rows = (keys - k0).min(KB);
            let width = panel_vectors(rows, level.lanes()) * level.lanes();
            for (panel, j) in (0..rows).step_by(width).enumerate() {
                // SAFETY: the rows are inside x, and the panel inside its tile: width <= self.width by construction,
                // and the panels of a shorter tile need no more room than those of a whole one.
                unsafe {
                    let dst = to.add(t * self.tile + panel * width * d);
                    level.run(Transpose::new(
                        x.add((k0 + j) * ld),
                        ld,
                        (rows - j).min(width),
                        d,
                        dst,
                        width,
                        width,
                    ));
                }
            }
        }
    }

    /// `c [m, keys] = a [m, d] x^T` for the tile of keys that begins at `k0`; `c` has rows of [`KB`].
    ///
    /// # Safety
    /// `a` is readable for `m` rows of `d` at distance `lda`, `c` writable for `m` rows of [`KB`], and `from` was filled.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn scores(
        &self,
        level: Level,
        a: *const f32,
        lda: usize,
        from: *const f32,
        m: usize,
        keys: usize,
        d: usize,
        k0: usize,
        c: *mut f32,
    ) {
        let width = panel_vectors(keys, level.lanes()) * level.lanes();
        debug_assert!(width <= self.width);
        let mut g = Block::<false, false>::new(m, keys, d);
        (g.a, g.a_step) = (a, lda);
        (g.b, g.ldb, g.b_panel, g.b_padded) =
            (from.wrapping_add(k0 / KB * self.tile), width, width * d, true);
        (g.c, g.ldc) = (c, KB);
        // SAFETY: the caller vouches for a, c and the filled tile.
        unsafe { level.run(g.ready()) };
    }
}

/// Copies rows times a factor.
pub(super) struct ScaleRows {
    pub x: *const f32,
    pub ldx: usize,
    pub y: *mut f32,
    pub ldy: usize,
    pub rows: usize,
    pub d: usize,
    pub factor: f32,
}

impl ScaleRows {
    /// # Safety
    /// `x` is readable and `y` writable for `rows` rows of `d` values at their distances.
    pub(super) unsafe fn ready(self) -> ReadyScale {
        ReadyScale(self)
    }
}

/// A [`ScaleRows`] whose pointers were vouched for.
pub(super) struct ReadyScale(ScaleRows);

impl Kernel for ReadyScale {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let h = self.0;
        let f = s.splat(h.factor);
        for r in 0..h.rows {
            for_vectors!(S, h.d, |i, n| {
                // SAFETY: `ready` vouched for every row.
                unsafe {
                    write(
                        s,
                        h.y.add(r * h.ldy + i),
                        s.mul(f, read(s, h.x.add(r * h.ldx + i), n)),
                        n,
                    )
                };
            });
        }
    }
}

/// Puts minus infinity where key `k0 + j` comes after query `q0 + i`.
pub(super) fn mask(scores: &mut [f32], rows: usize, keys: usize, q0: usize, k0: usize) {
    for i in 0..rows {
        let visible = (q0 + i + 1).saturating_sub(k0).min(keys);
        scores[i * KB + visible..i * KB + keys].fill(f32::NEG_INFINITY);
    }
}

/// One step of the running softmax over the rows of a tile of scores.
struct Softmax<'a> {
    scores: &'a mut [f32],
    rows: usize,
    keys: usize,
    largest: &'a mut [f32],
    sums: &'a mut [f32],
    out: &'a mut [f32],
    d: usize,
    first: bool,
}

impl Kernel for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(
            self.rows * KB <= self.scores.len()
                && self.keys <= KB
                && self.rows * self.d <= self.out.len()
        );
        for r in 0..self.rows {
            let row = self.scores[r * KB..].as_mut_ptr();
            let whole = self.keys / S::LANES * S::LANES;
            let mut top = s.splat(f32::NEG_INFINITY);
            let mut m = if self.first { f32::NEG_INFINITY } else { self.largest[r] };
            for_vectors!(S, whole, |i, _n| {
                // SAFETY: i + LANES <= keys <= KB, the length of a row.
                top = s.max(top, unsafe { s.load(row.add(i)) });
            });
            m = m.max(s.reduce_max(top));
            for i in whole..self.keys {
                // SAFETY: i < keys.
                m = m.max(unsafe { *row.add(i) });
            }
            let base = s.splat(m);
            let mut sum = s.zero();
            for_vectors!(S, whole, |i, _n| {
                // SAFETY: i + LANES <= keys.
                unsafe {
                    let p = exp(s, s.sub(s.load(row.add(i)), base));
                    s.store(row.add(i), p);
                    sum = s.add(sum, p);
                }
            });
            let rest = self.keys - whole;
            if rest > 0 {
                // SAFETY: `rest` values from index `whole` are inside the row; loading them again clears the other
                // lanes, which must not reach the sum.
                unsafe {
                    let p = exp(s, s.sub(s.load_partial(row.add(whole), rest), base));
                    s.store_partial(row.add(whole), p, rest);
                    sum = s.add(sum, s.load_partial(row.add(whole), rest));
                }
            }
            let added = s.reduce_add(sum);
            if self.first {
                self.sums[r] = added;
            } else {
                let a = exp(s, s.splat(self.largest[r] - m));
                let mut one = [0.0f32; 1];
                // SAFETY: one lane into an array of one.
                unsafe { s.store_partial(one.as_mut_ptr(), a, 1) };
                self.sums[r] = self.sums[r] * one[0] + added;
                let out = self.out[r * self.d..].as_mut_ptr();
                for_vectors!(S, self.d, |i, n| {
                    // SAFETY: n values from index i are inside row r of the output.
                    unsafe { write(s, out.add(i), s.mul(a, read(s, out.add(i), n)), n) };
                });
            }
            self.largest[r] = m;
        }
    }
}

/// See [`attention`](super::attention); in `f32`.
pub(super) fn attention(
    level: Level,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    s: &AttentionShape,
    scale: f32,
    causal: bool,
) -> (Vec<f32>, Vec<f32>) {
    let (d, ld, keys) = (s.head_dim, s.width(), s.keys);
    let (mut out, mut lse) =
        (Output::new(s.query_len()), Output::new(s.batch * s.heads * s.queries));
    let (to, to_lse) = (out.ptr(), lse.ptr());
    let turned = Turned::new(level, keys, d);
    s.for_each(QUERIES, s.flops(), |pair, queries_of| {
        let (first, last) = (queries_of.start, queries_of.end);
        let (b, h) = (pair / s.heads, pair % s.heads);
        let key_at = b * keys * ld + h * d;
        let turned_len = turned.len(keys);
        scratch(turned_len + QB * (KB + 2 * d + 2), |buffer| {
            let (kt, rest) = buffer.split_at_mut(turned_len);
            let (scores, rest) = rest.split_at_mut(QB * KB);
            let (queries, rest) = rest.split_at_mut(QB * d);
            let (part, rest) = rest.split_at_mut(QB * d);
            let (largest, sums) = rest.split_at_mut(QB);
            // SAFETY: head h of sequence b holds `keys` rows of d at distance ld; kt has the length `turned` wants.
            unsafe {
                turned.fill(level, k.as_ptr().wrapping_add(key_at), ld, keys, d, kt.as_mut_ptr())
            };
            for q0 in (first..last).step_by(QB) {
                let rows = (last - q0).min(QB);
                let query_at = (b * s.queries + q0) * ld + h * d;
                let x = q.as_ptr().wrapping_add(query_at);
                let copy = ScaleRows {
                    x,
                    ldx: ld,
                    y: queries.as_mut_ptr(),
                    ldy: d,
                    rows,
                    d,
                    factor: scale,
                };
                // SAFETY: rows q0.. of the head are inside q; the copy holds QB rows.
                unsafe { level.run(copy.ready()) };
                let end = if causal { (q0 + rows).min(keys) } else { keys };
                for k0 in (0..end).step_by(KB) {
                    let n = (keys - k0).min(KB);
                    // SAFETY: `queries` holds `rows` rows of d, `scores` QB rows of KB, and kt was filled.
                    unsafe {
                        turned.scores(
                            level,
                            queries.as_ptr(),
                            d,
                            kt.as_ptr(),
                            rows,
                            n,
                            d,
                            k0,
                            scores.as_mut_ptr(),
                        );
                    }
                    if causal {
                        mask(scores, rows, n, q0, k0);
                    }
                    level.run(Softmax {
                        scores,
                        rows,
                        keys: n,
                        largest,
                        sums,
                        out: part,
                        d,
                        first: k0 == 0,
                    });
                    let mut g = Block::<false, false>::new(rows, d, n);
                    (g.a, g.a_step) = (scores.as_ptr(), KB);
                    (g.b, g.ldb) = (v.as_ptr().wrapping_add(key_at + k0 * ld), ld);
                    (g.c, g.ldc) = (part.as_mut_ptr(), d);
                    g.init = if k0 == 0 { Init::Zero } else { Init::Load };
                    // SAFETY: `scores` and `part` hold the rows; keys k0.. of the head are inside v.
                    unsafe { level.run(g.ready()) };
                }
                for r in 0..rows {
                    let y = Shared::new(to.at(query_at + r * ld));
                    let row = part[r * d..].as_ptr();
                    let copy = ScaleRows {
                        x: row,
                        ldx: d,
                        y: y.get(),
                        ldy: ld,
                        rows: 1,
                        d,
                        factor: 1.0 / sums[r],
                    };
                    // SAFETY: this task alone writes row q0 + r of this head, and its logarithm.
                    unsafe {
                        level.run(copy.ready());
                        to_lse.at(pair * s.queries + q0 + r).write(largest[r] + sums[r].ln());
                    }
                }
            }
        });
    });
    // SAFETY: the tasks cover all heads and queries.
    unsafe { (out.finish(), lse.finish()) }
}
