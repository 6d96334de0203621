//! The forward pass in bf16.
//!
//! Scores and outputs lie transposed, keys or channels down and queries across: the softmax then runs down columns of vectors,
//! and the words that the second product takes pair rows of probabilities.

use std::ops::Range;

use super::forward::ScaleRows;
use super::{Inputs, QUERIES, tail};
use crate::buffer::{Output, scratch};
use crate::gemm::Init;
use crate::gemm::narrow::{Narrow, split, whole};
use crate::simd::amx::TILE;
use crate::simd::bf16::Pairs;
use crate::simd::math::exp;
use crate::simd::{Kernel, Level, Simd};

/// Queries of one tile of scores.
pub(super) const QB: usize = 64;
/// Keys of one tile of scores.
pub(super) const KB: usize = 64;

/// Lengths of one head up to whole tiles.
#[derive(Clone, Copy)]
pub(super) struct Lengths {
    /// Channels as rows or columns of a product.
    pub d: usize,
    /// Words of the channels.
    pub words: usize,
    /// Keys.
    pub keys: usize,
}

impl Lengths {
    pub(super) fn new(d: usize, keys: usize) -> Self {
        Self { d: d.next_multiple_of(TILE), words: whole(d) / 2, keys: whole(keys) }
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
            // SAFETY: column c and its neighbours are inside each row of `width`, and in `largest` and `sums`.
            unsafe {
                let (to_largest, to_sum) = (largest.as_mut_ptr().add(c), sums.as_mut_ptr().add(c));
                let before = if first { s.splat(f32::NEG_INFINITY) } else { s.load(to_largest) };
                let mut top = before;
                for row in scores.chunks_exact(width).take(keys) {
                    top = s.max(top, s.load(row.as_ptr().add(c)));
                }
                let mut sum = s.zero();
                for row in scores.chunks_exact_mut(width).take(keys) {
                    let p = row.as_mut_ptr().add(c);
                    let e = exp(s, s.sub(s.load(p), top));
                    s.store(p, e);
                    sum = s.add(sum, e);
                }
                if !first {
                    let shrink = exp(s, s.sub(before, top));
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

/// Queries, keys and values of one head of one sequence, each beginning at its first value, in rows at these distances.
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

    /// The output of these queries, and the logarithms of their softmax's denominators where they are wanted.
    ///
    /// # Safety
    /// `out` is writable for a row of `d` values at distance `ld`, and `lse` for a value, of each of the head's queries.
    pub(crate) unsafe fn forward(
        &self,
        level: Level,
        narrow: &Narrow,
        queries_of: Range<usize>,
        (out, ld): (*mut f32, usize),
        lse: Option<*mut f32>,
    ) {
        self.check();
        let (d, keys, causal) = (self.d, self.keys, self.causal);
        let l = Lengths::new(d, keys);
        let (first, last) = (queries_of.start, queries_of.end);
        let lengths = [
            l.keys * l.words,
            l.d * l.keys / 2,
            (l.d * l.keys / 2).max(QB * l.words),
            QB * l.d,
            QB * l.words,
            KB * QB,
            KB / 2 * QB,
            l.d * QB,
            QB,
            QB,
        ];
        scratch(lengths.iter().sum(), |buffer| {
            let [k, v, room, queries, q, scores, words, part, largest, sums] =
                split(buffer, lengths);
            // SAFETY: `check` saw `keys` rows of d.
            unsafe {
                narrow.rows(self.k.as_ptr(), self.ldk, [keys, d], l.words, k);
                narrow.columns_turned(self.v.as_ptr(), self.ldk, [keys, d], l.d, room, v);
            }
            for q0 in (first..last).step_by(QB) {
                let rows = (last - q0).min(QB);
                let width = rows.next_multiple_of(TILE);
                let scaled = ScaleRows {
                    x: tail(self.q, q0 * self.ldq).as_ptr(),
                    ldx: self.ldq,
                    y: queries.as_mut_ptr(),
                    ldy: l.d,
                    rows,
                    d,
                    factor: self.scale,
                };
                // SAFETY: rows q0.. of the head are inside q; the copy holds QB rows.
                unsafe {
                    level.run(scaled.ready());
                    narrow.rows_turned(queries.as_ptr(), l.d, [rows, d], width, room, q);
                }
                let part = &mut part[..l.d * width];
                let end = if causal { (q0 + rows).min(keys) } else { keys };
                for k0 in (0..end).step_by(KB) {
                    let n = (keys - k0).min(KB);
                    let scores = &mut scores[..whole(n) * width];
                    let shape = [whole(n), l.words, width];
                    let of_k = (k[k0 * l.words..].as_ptr(), l.words);
                    // SAFETY: k has whole(n) rows from k0 on, q `words` rows of `width`, scores whole(n) of `width`.
                    unsafe {
                        narrow.product(shape, of_k, q.as_ptr(), scores.as_mut_ptr(), Init::Zero);
                    }
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
                    let shape = [l.d, whole(n) / 2, width];
                    let of_v = (v[k0 / 2..].as_ptr(), l.keys / 2);
                    // SAFETY: scores have whole(n) rows; v has d rows with whole(n) / 2 words from k0 / 2 on.
                    unsafe {
                        narrow.columns(scores.as_ptr(), width, [whole(n), width], width, words);
                        narrow.product(
                            shape,
                            of_v,
                            words.as_ptr(),
                            part.as_mut_ptr(),
                            Init::load_if(k0 > 0),
                        );
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
                    narrow.turn(part.as_ptr(), width, [d, rows], out.add(q0 * ld), ld, 0);
                }
            }
        });
    }
}

/// See [`attention`](super::attention); scores and outputs are products of values rounded to bf16.
pub(super) fn attention(level: Level, pairs: Pairs, i: &Inputs<'_>) -> (Vec<f32>, Vec<f32>) {
    let s = i.shape;
    let ld = s.width();
    let (mut out, mut lse) =
        (Output::new(s.query_len()), Output::new(s.batch * s.heads * s.queries));
    let (to, to_lse) = (out.ptr(), lse.ptr());
    s.for_each(QUERIES, s.flops(), |pair, queries| {
        let at = i.query_at(pair);
        // SAFETY: this task alone writes this head's rows and logarithms of these queries.
        unsafe {
            let (out, lse) = (to.at(at), to_lse.at(pair * s.queries));
            i.head(pair).forward(level, &Narrow::new(level, pairs), queries, (out, ld), Some(lse));
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
