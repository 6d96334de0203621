//! The forward pass in bf16.
//!
//! Scores and outputs lie transposed, keys or channels down and queries across: the softmax then runs down columns of vectors,
//! and the words that the second product takes pair rows of probabilities.

use super::forward::ScaleRows;
use super::{AttentionShape, Inputs, QUERIES};
use crate::buffer::{Output, Shared, scratch};
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
    pub(super) fn new(s: &AttentionShape) -> Self {
        Self {
            d: s.head_dim.next_multiple_of(TILE),
            words: whole(s.head_dim) / 2,
            keys: whole(s.keys),
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

/// See [`attention`](super::attention); scores and outputs are products of values rounded to bf16.
pub(super) fn attention(level: Level, pairs: Pairs, i: &Inputs<'_>) -> (Vec<f32>, Vec<f32>) {
    let s = i.shape;
    let l = Lengths::new(s);
    let (d, ld, keys) = (s.head_dim, s.width(), s.keys);
    let (mut out, mut lse) =
        (Output::new(s.query_len()), Output::new(s.batch * s.heads * s.queries));
    let (to, to_lse) = (out.ptr(), lse.ptr());
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
    s.for_each(QUERIES, s.flops(), |pair, queries_of| {
        let (first, last) = (queries_of.start, queries_of.end);
        let narrow = Narrow::new(level, pairs);
        let (b, h) = (pair / s.heads, pair % s.heads);
        let key_at = b * keys * ld + h * d;
        scratch(lengths.iter().sum(), |buffer| {
            let [k, v, room, queries, q, scores, words, part, largest, sums] =
                split(buffer, lengths);
            // SAFETY: head h of sequence b holds `keys` rows of d at distance ld.
            unsafe {
                narrow.rows(i.k.as_ptr().wrapping_add(key_at), ld, [keys, d], l.words, k);
                let v_at = i.v.as_ptr().wrapping_add(key_at);
                narrow.columns_turned(v_at, ld, [keys, d], l.d, room, v);
            }
            for q0 in (first..last).step_by(QB) {
                let rows = (last - q0).min(QB);
                let width = rows.next_multiple_of(TILE);
                let query_at = (b * s.queries + q0) * ld + h * d;
                let scaled = ScaleRows {
                    x: i.q.as_ptr().wrapping_add(query_at),
                    ldx: ld,
                    y: queries.as_mut_ptr(),
                    ldy: l.d,
                    rows,
                    d,
                    factor: i.scale,
                };
                // SAFETY: rows q0.. of the head are inside q; the copy holds QB rows.
                unsafe {
                    level.run(scaled.ready());
                    narrow.rows_turned(queries.as_ptr(), l.d, [rows, d], width, room, q);
                }
                let part = &mut part[..l.d * width];
                let end = if i.causal { (q0 + rows).min(keys) } else { keys };
                for k0 in (0..end).step_by(KB) {
                    let n = (keys - k0).min(KB);
                    let scores = &mut scores[..whole(n) * width];
                    let shape = [whole(n), l.words, width];
                    let of_k = (k[k0 * l.words..].as_ptr(), l.words);
                    // SAFETY: k has whole(n) rows from k0 on, q `words` rows of `width`, scores whole(n) of `width`.
                    unsafe {
                        narrow.product(shape, of_k, q.as_ptr(), scores.as_mut_ptr(), Init::Zero);
                    }
                    if i.causal {
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
                for r in 0..rows {
                    // SAFETY: this task alone writes the logarithms of this head's rows q0...
                    unsafe {
                        to_lse.at(pair * s.queries + q0 + r).write(largest[r] + sums[r].ln());
                    }
                }
                let y = Shared::new(to.at(query_at));
                // SAFETY: this task alone writes this head's rows q0.. of d values at distance ld.
                unsafe { narrow.turn(part.as_ptr(), width, [d, rows], y.get(), ld, 0) };
            }
        });
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
