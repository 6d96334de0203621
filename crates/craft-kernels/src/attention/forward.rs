//! The forward pass.
//!
//! Scores and outputs lie transposed, keys or channels down and queries across: the softmax then
//! runs down columns of vectors, and the words that the second product takes pair rows of
//! probabilities.

use std::ops::Range;

use super::{Inputs, QUERIES, tail};
use crate::buffer::{Output, scratch, split};
use crate::gemm::Init;
use crate::gemm::operands::{Format, Multiplier};
use crate::simd::map::{for_vectors, read, write};
use crate::simd::math::exp_at_most_88;
use crate::simd::{Kernel, Level, Simd};

/// Queries of one tile of scores.
pub(super) const QB: usize = 64;
/// Keys of one tile of scores.
pub(super) const KB: usize = 64;

/// Queries of a tile up to whole vectors.
pub(super) fn whole_vectors(queries: usize) -> usize {
    queries.next_multiple_of(16)
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

/// Puts minus infinity where key `k0 + j` comes after query `q0 + i`, `width` queries a row.
pub(super) fn mask(scores: &mut [f32], width: usize, keys: usize, q0: usize, k0: usize) {
    for (j, row) in scores.chunks_exact_mut(width).take(keys).enumerate() {
        row[..(k0 + j).saturating_sub(q0).min(width)].fill(f32::NEG_INFINITY);
    }
}

/// One step of the running softmax over the columns of a tile of scores.
struct Softmax<'a> {
    /// `[keys up to whole tiles, width]`: scores in, exponentials out, zero beyond the keys.
    scores: &'a mut [f32],
    keys: usize,
    width: usize,
    largest: &'a mut [f32],
    sums: &'a mut [f32],
    /// `[d, width]`
    out: &'a mut [f32],
    first: bool,
}

impl Kernel for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { scores, keys, width, largest, sums, out, first } = self;
        scores[keys * width..].fill(0.0);
        let fits = width.is_multiple_of(S::LANES) && largest.len().min(sums.len()) >= width;
        assert!(fits, "columns in whole vectors");
        for c in (0..width).step_by(S::LANES) {
            // SAFETY: column c and its neighbours are inside each row of `width`, and in `largest`
            // and `sums`.
            unsafe {
                let (to_largest, to_sum) = (largest.as_mut_ptr().add(c), sums.as_mut_ptr().add(c));
                let before = if first { s.splat(f32::NEG_INFINITY) } else { s.load(to_largest) };
                let of_keys = &mut scores[..keys * width];
                // Two side by side, so that not every one waits for the one before.
                let mut tops = [before; 2];
                for rows in of_keys.chunks(2 * width) {
                    for (top, row) in tops.iter_mut().zip(rows.chunks_exact(width)) {
                        *top = s.max(*top, s.load(row.as_ptr().add(c)));
                    }
                }
                let top = s.max(tops[0], tops[1]);
                let mut sums = [s.zero(); 2];
                for rows in of_keys.chunks_mut(2 * width) {
                    for (sum, row) in sums.iter_mut().zip(rows.chunks_exact_mut(width)) {
                        let p = row.as_mut_ptr().add(c);
                        let e = exp_at_most_88(s, s.sub(s.load(p), top));
                        s.store(p, e);
                        *sum = s.add(*sum, e);
                    }
                }
                let mut sum = s.add(sums[0], sums[1]);
                if !first {
                    let shrink = exp_at_most_88(s, s.sub(before, top));
                    sum = s.fma(s.load(to_sum), shrink, sum);
                    for row in out.chunks_exact_mut(width) {
                        let p = row.as_mut_ptr().add(c);
                        s.store(p, s.mul(shrink, s.load(p)));
                    }
                }
                s.store(to_largest, top);
                s.store(to_sum, sum);
            }
        }
    }
}

/// Queries, keys and values of one head of one sequence, each beginning at its first value, in rows
/// at these distances.
pub(crate) struct Head<'a> {
    pub q: &'a [f32],
    pub ldq: usize,
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub ldk: usize,
    pub queries: usize,
    pub keys: usize,
    /// Channels.
    pub d: usize,
    pub scale: f32,
    pub causal: bool,
}

impl Head<'_> {
    pub(super) fn check(&self) {
        let enough = |x: &[f32], rows: usize, ld: usize| {
            rows == 0 || (ld >= self.d && x.len() >= (rows - 1) * ld + self.d)
        };
        assert!(enough(self.q, self.queries, self.ldq), "q");
        assert!(enough(self.k, self.keys, self.ldk) && enough(self.v, self.keys, self.ldk), "k, v");
    }

    /// The output of these queries, and the logarithms of their softmax's denominators where they
    /// are wanted.
    ///
    /// # Safety
    /// `out` is writable for a row of `d` values at distance `ld`, and `lse` for a value, of each
    /// of the head's queries.
    pub(crate) unsafe fn forward(
        &self,
        level: Level,
        multiplier: &Multiplier,
        queries_of: Range<usize>,
        (out, ld): (*mut f32, usize),
        lse: Option<*mut f32>,
    ) {
        self.check();
        let (d, keys, causal) = (self.d, self.keys, self.causal);
        let format = multiplier.format();
        let (tall, depth) = (format.tiles(d), format.depth(d));
        let (first, last) = (queries_of.start, queries_of.end);
        let [q_len, q_room] = format.rows_turned_len([QB, d], QB);
        let v_len = format.columns_len(keys, tall);
        let lengths = [
            format.rows_len([keys, d]),
            v_len,
            v_len.max(q_room),
            QB * tall,
            q_len,
            KB * QB,
            format.columns_len(KB, QB),
            tall * QB,
            QB,
            QB,
        ];
        scratch(lengths.iter().sum(), |buffer| {
            let [k, v, room, queries, q, scores, words, part, largest, sums] =
                split(buffer, lengths);
            // SAFETY: `check` saw `keys` rows of d.
            let (k, v) = unsafe {
                (
                    multiplier.rows(self.k.as_ptr(), self.ldk, [keys, d], k),
                    multiplier.columns_turned(self.v.as_ptr(), self.ldk, [keys, d], tall, room, v),
                )
            };
            for q0 in (first..last).step_by(QB) {
                let rows = (last - q0).min(QB);
                let width = whole_vectors(rows);
                let scaled = ScaleRows {
                    x: tail(self.q, q0 * self.ldq).as_ptr(),
                    ldx: self.ldq,
                    y: queries.as_mut_ptr(),
                    ldy: tall,
                    rows,
                    d,
                    factor: self.scale,
                };
                // SAFETY: rows q0.. of the head are inside q; the copy holds QB rows.
                let q = unsafe {
                    level.run(scaled.ready());
                    multiplier.rows_turned(queries.as_ptr(), tall, [rows, d], width, room, q)
                };
                let part = &mut part[..tall * width];
                let end = if causal { (q0 + rows).min(keys) } else { keys };
                for k0 in (0..end).step_by(KB) {
                    let n = (keys - k0).min(KB);
                    let scores = &mut scores[..format.whole(n) * width];
                    let shape = [format.whole(n), depth, width];
                    let to = scores.as_mut_ptr();
                    // SAFETY: k has these rows from k0 on, q `depth` rows of `width`, scores these
                    // rows of `width`.
                    unsafe { multiplier.product(shape, k.after_rows(k0), q, to, Init::Zero) };
                    if causal {
                        mask(scores, width, n, q0, k0);
                    }
                    level.run(Softmax {
                        scores,
                        keys: n,
                        width,
                        largest,
                        sums,
                        out: part,
                        first: k0 == 0,
                    });
                    let (shape, init) = ([tall, format.depth(n), width], Init::load_if(k0 > 0));
                    let of_v = v.after_depth(k0 / KB * format.depth(KB));
                    let all = [format.whole(n), width];
                    // SAFETY: scores have these rows of `width`; v has `tall` rows of these keys.
                    unsafe {
                        let p = multiplier.columns(scores.as_ptr(), width, all, width, words);
                        multiplier.product(shape, of_v, p, part.as_mut_ptr(), init);
                    }
                }
                level.run(Divide { part, by: sums, width });
                // SAFETY: the caller vouches for rows q0.. of the output and of the logarithms.
                unsafe {
                    if let Some(lse) = lse {
                        for r in 0..rows {
                            lse.add(q0 + r).write(largest[r] + sums[r].ln());
                        }
                    }
                    multiplier.turn(part.as_ptr(), width, [d, rows], out.add(q0 * ld), ld, 0);
                }
            }
        });
    }
}

/// See [`attention`](super::attention).
pub(super) fn attention(level: Level, i: &Inputs<'_>) -> (Vec<f32>, Vec<f32>) {
    let s = i.shape;
    let (format, ld) = (Format::active(level), s.width());
    let (mut out, mut lse) =
        (Output::new(s.query_len()), Output::new(s.batch * s.heads * s.queries));
    let (to, to_lse) = (out.ptr(), lse.ptr());
    s.for_each(QUERIES, s.flops(), |pair, queries| {
        let (at, multiplier) = (i.query_at(pair), Multiplier::new(format));
        // SAFETY: this task alone writes this head's rows and logarithms of these queries.
        unsafe {
            let (out, lse) = (to.at(at), to_lse.at(pair * s.queries));
            i.head(pair).forward(level, &multiplier, queries, (out, ld), Some(lse));
        }
    });
    // SAFETY: the tasks cover all heads and queries.
    unsafe { (out.finish(), lse.finish()) }
}

/// Divides each column of `part [d, width]`.
struct Divide<'a> {
    part: &'a mut [f32],
    by: &'a [f32],
    width: usize,
}

impl Kernel for Divide<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { part, by, width } = self;
        assert!(width.is_multiple_of(S::LANES) && by.len() >= width, "columns in whole vectors");
        for c in (0..width).step_by(S::LANES) {
            // SAFETY: column c and its neighbours are inside each row of `width`, and in `by`.
            unsafe {
                let factor = s.div(s.splat(1.0), s.load(by.as_ptr().add(c)));
                for row in part.chunks_exact_mut(width) {
                    let p = row.as_mut_ptr().add(c);
                    s.store(p, s.mul(factor, s.load(p)));
                }
            }
        }
    }
}
