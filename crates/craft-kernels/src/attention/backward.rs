//! The backward pass in `f32`: the probabilities are computed again, tile by tile.

use super::AttentionShape;
use super::forward::{KB, QB, ScaleRows, Turned, mask};
use crate::buffer::{Output, scratch};
use crate::gemm::{Block, Init};
use crate::simd::map::{for_vectors, read, write};
use crate::simd::math::exp;
use crate::simd::{Kernel, Level, Simd};

/// Sum of `a * b` over each row of one head.
pub(super) struct RowDots<'a> {
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub rows: usize,
    pub d: usize,
    pub ld: usize,
    pub out: &'a mut [f32],
}

impl Kernel for RowDots<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for r in 0..self.rows {
            let (a, b) = (&self.a[r * self.ld..][..self.d], &self.b[r * self.ld..][..self.d]);
            let mut sum = s.zero();
            for_vectors!(S, self.d, |i, n| {
                // SAFETY: n values from index i are inside both rows.
                sum = unsafe {
                    s.fma(read(s, a.as_ptr().add(i), n), read(s, b.as_ptr().add(i), n), sum)
                };
            });
            self.out[r] = s.reduce_add(sum);
        }
    }
}

/// Turns scores into probabilities `p = exp(score - lse)` and gradients of `p` into those of the scores,
/// `p * (dp - delta)`.
struct Gradients<'a> {
    scores: &'a mut [f32],
    slopes: &'a mut [f32],
    lse: &'a [f32],
    delta: &'a [f32],
    rows: usize,
    keys: usize,
}

impl Kernel for Gradients<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for r in 0..self.rows {
            let row = self.scores[r * KB..][..self.keys].as_mut_ptr();
            let slope = self.slopes[r * KB..][..self.keys].as_mut_ptr();
            let (lse, delta) = (s.splat(self.lse[r]), s.splat(self.delta[r]));
            for_vectors!(S, self.keys, |i, n| {
                // SAFETY: n values from index i are inside both rows.
                unsafe {
                    let p = exp(s, s.sub(read(s, row.add(i), n), lse));
                    write(s, row.add(i), p, n);
                    write(s, slope.add(i), s.mul(p, s.sub(read(s, slope.add(i), n), delta)), n);
                }
            });
        }
    }
}

/// See [`attention_backward`](super::attention_backward); in `f32`.
#[allow(clippy::too_many_arguments)]
pub(super) fn attention_backward(
    level: Level,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    s: &AttentionShape,
    scale: f32,
    causal: bool,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (d, ld, keys) = (s.head_dim, s.width(), s.keys);
    let (mut dq, mut dk, mut dv) =
        (Output::new(q.len()), Output::new(k.len()), Output::new(k.len()));
    let (to_q, to_k, to_v) = (dq.ptr(), dk.ptr(), dv.ptr());
    let turned = Turned::new(level, keys, d);
    let turned_len = turned.len(keys);
    s.for_each(s.queries.max(1), 5 * s.flops() / 2, |pair, _| {
        let (b, h) = (pair / s.heads, pair % s.heads);
        let key_at = b * keys * ld + h * d;
        scratch(2 * turned_len + 2 * keys * d + QB * (2 * KB + 3 * d + 1), |buffer| {
            let (kt, rest) = buffer.split_at_mut(turned_len);
            let (vt, rest) = rest.split_at_mut(turned_len);
            let (dk, rest) = rest.split_at_mut(keys * d);
            let (dv, rest) = rest.split_at_mut(keys * d);
            let (scores, rest) = rest.split_at_mut(QB * KB);
            let (slopes, rest) = rest.split_at_mut(QB * KB);
            let (queries, rest) = rest.split_at_mut(QB * d);
            let (upper, rest) = rest.split_at_mut(QB * d);
            let (part, delta) = rest.split_at_mut(QB * d);
            dk.fill(0.0);
            dv.fill(0.0);
            // SAFETY: head h of sequence b holds `keys` rows of d at distance ld; both buffers are long enough.
            unsafe {
                turned.fill(level, k.as_ptr().wrapping_add(key_at), ld, keys, d, kt.as_mut_ptr());
                turned.fill(level, v.as_ptr().wrapping_add(key_at), ld, keys, d, vt.as_mut_ptr());
            }
            for q0 in (0..s.queries).step_by(QB) {
                let rows = (s.queries - q0).min(QB);
                let at = (b * s.queries + q0) * ld + h * d;
                let scaled = ScaleRows {
                    x: q[at..].as_ptr(),
                    ldx: ld,
                    y: queries.as_mut_ptr(),
                    ldy: d,
                    rows,
                    d,
                    factor: scale,
                };
                let copied = ScaleRows {
                    x: dout[at..].as_ptr(),
                    y: upper.as_mut_ptr(),
                    factor: 1.0,
                    ..scaled
                };
                // SAFETY: rows q0.. of the head are inside q and dout; the copies hold QB rows.
                unsafe {
                    level.run(scaled.ready());
                    level.run(copied.ready());
                }
                level.run(RowDots { a: &out[at..], b: &dout[at..], rows, d, ld, out: delta });
                let end = if causal { (q0 + rows).min(keys) } else { keys };
                for k0 in (0..end).step_by(KB) {
                    let n = (keys - k0).min(KB);
                    // SAFETY: the copies hold `rows` rows of d, scores and slopes QB rows of KB; kt, vt were filled.
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
                        turned.scores(
                            level,
                            upper.as_ptr(),
                            d,
                            vt.as_ptr(),
                            rows,
                            n,
                            d,
                            k0,
                            slopes.as_mut_ptr(),
                        );
                    }
                    if causal {
                        mask(scores, rows, n, q0, k0);
                    }
                    let lse = &lse[pair * s.queries + q0..][..rows];
                    level.run(Gradients { scores, slopes, lse, delta, rows, keys: n });
                    let mut g = Block::<true, false>::new(n, d, rows);
                    (g.a_step, g.ldb, g.ldc, g.init) = (KB, d, d, Init::Load);
                    // SAFETY: P and dS are [rows, KB], read by columns; dk and dv hold keys k0.. of d values.
                    unsafe {
                        (g.a, g.b, g.c) =
                            (scores.as_ptr(), upper.as_ptr(), dv[k0 * d..].as_mut_ptr());
                        level.run(g.ready());
                        (g.a, g.b, g.c) =
                            (slopes.as_ptr(), queries.as_ptr(), dk[k0 * d..].as_mut_ptr());
                        level.run(g.ready());
                    }
                    let mut g = Block::<false, false>::new(rows, d, n);
                    (g.a, g.a_step) = (slopes.as_ptr(), KB);
                    (g.b, g.ldb) = (k.as_ptr().wrapping_add(key_at + k0 * ld), ld);
                    (g.c, g.ldc) = (part.as_mut_ptr(), d);
                    g.init = if k0 == 0 { Init::Zero } else { Init::Load };
                    // SAFETY: keys k0.. of the head are inside k; `part` holds `rows` rows of d.
                    unsafe { level.run(g.ready()) };
                }
                let done = ScaleRows {
                    x: part.as_ptr(),
                    ldx: d,
                    y: to_q.at(at),
                    ldy: ld,
                    rows,
                    d,
                    factor: scale,
                };
                // SAFETY: this task alone writes this head's rows of dq.
                unsafe { level.run(done.ready()) };
            }
            for (from, to) in [(&*dk, to_k), (&*dv, to_v)] {
                let y = to.at(key_at);
                let done =
                    ScaleRows { x: from.as_ptr(), ldx: d, y, ldy: ld, rows: keys, d, factor: 1.0 };
                // SAFETY: this task alone writes this head's rows of dk and dv.
                unsafe { level.run(done.ready()) };
            }
        });
    });
    // SAFETY: the tasks cover all heads, queries and keys.
    unsafe { (dq.finish(), dk.finish(), dv.finish()) }
}
