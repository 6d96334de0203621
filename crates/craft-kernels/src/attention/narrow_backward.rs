//! The backward pass in bf16: probabilities are computed again, transposed as in the [forward pass](super::narrow).

use super::backward::RowDots;
use super::forward::ScaleRows;
use super::narrow::{Head, KB, Lengths, QB, mask};
use super::{Inputs, tail};
use crate::buffer::{Output, scratch};
use crate::gemm::Init;
use crate::gemm::narrow::{Narrow, split, whole};
use crate::simd::bf16::Pairs;
use crate::simd::math::exp;
use crate::simd::{Kernel, Level, Simd};

/// Turns scores into probabilities `p = exp(score - lse)` and gradients of `p` into those of the scores, `p * (dp - delta)`; both
/// `[whole(keys), width]`, zero beyond the keys.
struct Gradients<'a> {
    scores: &'a mut [f32],
    slopes: &'a mut [f32],
    lse: &'a [f32],
    delta: &'a [f32],
    keys: usize,
    width: usize,
}

impl Kernel for Gradients<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { scores, slopes, lse, delta, keys, width } = self;
        scores[keys * width..].fill(0.0);
        slopes[keys * width..].fill(0.0);
        let fits = width.is_multiple_of(S::LANES) && lse.len().min(delta.len()) >= width;
        assert!(fits, "columns in whole vectors");
        let rows = scores.chunks_exact_mut(width).zip(slopes.chunks_exact_mut(width));
        for (score, slope) in rows.take(keys) {
            for c in (0..width).step_by(S::LANES) {
                // SAFETY: column c and its neighbours are inside both rows, lse and delta.
                unsafe {
                    let (score, slope) = (score.as_mut_ptr().add(c), slope.as_mut_ptr().add(c));
                    let p = exp(s, s.sub(s.load(score), s.load(lse.as_ptr().add(c))));
                    s.store(score, p);
                    let above = s.sub(s.load(slope), s.load(delta.as_ptr().add(c)));
                    s.store(slope, s.mul(p, above));
                }
            }
        }
    }
}

/// Output of a head and its gradient, each beginning at the head's first value, in rows at distance `ld`, and the logarithms that the
/// forward pass returned.
pub(crate) struct Above<'a> {
    pub out: &'a [f32],
    pub dout: &'a [f32],
    pub ld: usize,
    pub lse: &'a [f32],
}

impl Head<'_> {
    /// Gradients with respect to the queries, to `dq` in rows at distance `ldq`, and to keys and values, at distance `ldk`.
    ///
    /// # Safety
    /// `dq` is writable for all queries, `dk` and `dv` for all keys.
    pub(crate) unsafe fn backward(
        &self,
        level: Level,
        narrow: &Narrow,
        above: &Above<'_>,
        to_q: *mut f32,
        to_k: *mut f32,
        to_v: *mut f32,
    ) {
        self.check();
        let (d, keys) = (self.d, self.keys);
        let l = Lengths::new(d, keys);
        let lengths = [
            l.keys * l.words,
            l.keys * l.words,
            l.d * l.keys / 2,
            (l.d * l.keys / 2).max(QB * l.words),
            l.keys * l.d,
            l.keys * l.d,
            QB * l.d,
            l.words * QB,
            l.words * QB,
            QB / 2 * l.d,
            QB / 2 * l.d,
            KB * QB,
            KB * QB,
            KB * QB / 2,
            l.d * QB,
            QB,
            QB,
        ];
        scratch(lengths.iter().sum(), |buffer| {
            let [
                k_rows,
                v_rows,
                k_turned,
                room,
                dk,
                dv,
                queries,
                q,
                upper,
                q_pairs,
                upper_pairs,
                scores,
                slopes,
                words,
                part,
                lse_of,
                delta,
            ] = split(buffer, lengths);
            dk.fill(0.0);
            dv.fill(0.0);
            let (k, v, ldk) = (self.k.as_ptr(), self.v.as_ptr(), self.ldk);
            // SAFETY: `check` saw `keys` rows of d.
            unsafe {
                narrow.rows(k, ldk, [keys, d], l.words, k_rows);
                narrow.rows(v, ldk, [keys, d], l.words, v_rows);
                narrow.columns_turned(k, ldk, [keys, d], l.d, room, k_turned);
            }
            for q0 in (0..self.queries).step_by(QB) {
                let rows = (self.queries - q0).min(QB);
                let width = whole(rows);
                let scaled = ScaleRows {
                    x: tail(self.q, q0 * self.ldq).as_ptr(),
                    ldx: self.ldq,
                    y: queries.as_mut_ptr(),
                    ldy: l.d,
                    rows,
                    d,
                    factor: self.scale,
                };
                let (a, b, ld) =
                    (&above.out[q0 * above.ld..], &above.dout[q0 * above.ld..], above.ld);
                // Sees that their rows are there.
                level.run(RowDots { a, b, rows, d, ld, out: delta });
                let up = b.as_ptr();
                // SAFETY: rows q0.. of the head are inside q and dout; the copy holds QB rows.
                unsafe {
                    level.run(scaled.ready());
                    let queries = queries.as_ptr();
                    narrow.rows_turned(queries, l.d, [rows, d], width, room, q);
                    narrow.columns(queries, l.d, [rows, d], l.d, q_pairs);
                    narrow.rows_turned(up, ld, [rows, d], width, room, upper);
                    narrow.columns(up, ld, [rows, d], l.d, upper_pairs);
                }
                delta[rows..width].fill(0.0);
                lse_of[..rows].copy_from_slice(&above.lse[q0..][..rows]);
                // Queries beyond the last see nothing.
                lse_of[rows..width].fill(f32::INFINITY);
                let end = if self.causal { (q0 + rows).min(keys) } else { keys };
                for k0 in (0..end).step_by(KB) {
                    let n = (keys - k0).min(KB);
                    let (scores, slopes) =
                        (&mut scores[..whole(n) * width], &mut slopes[..whole(n) * width]);
                    let shape = [whole(n), l.words, width];
                    let rows_at = k0 * l.words;
                    // SAFETY: k and v have whole(n) rows of words from k0 on, q and the upper gradient `words` rows of `width`, scores
                    // and slopes whole(n) rows of `width`.
                    unsafe {
                        let a = (k_rows[rows_at..].as_ptr(), l.words);
                        narrow.product(shape, a, q.as_ptr(), scores.as_mut_ptr(), Init::Zero);
                        let a = (v_rows[rows_at..].as_ptr(), l.words);
                        narrow.product(shape, a, upper.as_ptr(), slopes.as_mut_ptr(), Init::Zero);
                    }
                    if self.causal {
                        mask(scores, width, n, q0, k0);
                    }
                    level.run(Gradients { scores, slopes, lse: lse_of, delta, keys: n, width });
                    let (shape, all) = ([whole(n), width / 2, l.d], [whole(n), width]);
                    // SAFETY: rows of whole(n) times `width`, whose words are half as many; the pairs of queries have width / 2
                    // rows of d, and dk and dv whole(n) rows from k0 on.
                    unsafe {
                        narrow.rows(scores.as_ptr(), width, all, width / 2, words);
                        let (a, to) = ((words.as_ptr(), width / 2), dv[k0 * l.d..].as_mut_ptr());
                        narrow.product(shape, a, upper_pairs.as_ptr(), to, Init::Load);
                        narrow.rows(slopes.as_ptr(), width, all, width / 2, words);
                        let (a, to) = ((words.as_ptr(), width / 2), dk[k0 * l.d..].as_mut_ptr());
                        narrow.product(shape, a, q_pairs.as_ptr(), to, Init::Load);
                        narrow.columns(slopes.as_ptr(), width, all, width, words);
                        let a = (k_turned[k0 / 2..].as_ptr(), l.keys / 2);
                        let shape = [l.d, whole(n) / 2, width];
                        narrow.product(
                            shape,
                            a,
                            words.as_ptr(),
                            part.as_mut_ptr(),
                            Init::load_if(k0 > 0),
                        );
                    }
                }
                let part = &mut part[..l.d * width];
                part.iter_mut().for_each(|v| *v *= self.scale);
                // SAFETY: the caller vouches for these rows of dq.
                unsafe {
                    let to = to_q.add(q0 * self.ldq);
                    narrow.turn(part.as_ptr(), width, [d, rows], to, self.ldq, 0);
                }
            }
            for (from, y) in [(&*dk, to_k), (&*dv, to_v)] {
                let x = from.as_ptr();
                let done = ScaleRows { x, ldx: l.d, y, ldy: ldk, rows: keys, d, factor: 1.0 };
                // SAFETY: the caller vouches for all rows of dk and dv.
                unsafe { level.run(done.ready()) };
            }
        });
    }
}

/// See [`attention_backward`](super::attention_backward); every product is one of values rounded to bf16.
pub(super) fn attention_backward(
    level: Level,
    pairs: Pairs,
    i: &Inputs<'_>,
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let s = i.shape;
    let (mut dq, mut dk, mut dv) =
        (Output::new(i.q.len()), Output::new(i.k.len()), Output::new(i.k.len()));
    let (to_q, to_k, to_v) = (dq.ptr(), dk.ptr(), dv.ptr());
    s.for_each(s.queries.max(1), 5 * s.flops() / 2, |pair, _| {
        let (query_at, key_at) = (i.query_at(pair), i.key_at(pair));
        let lse = &lse[pair * s.queries..];
        let above =
            Above { out: tail(out, query_at), dout: tail(dout, query_at), ld: s.width(), lse };
        // SAFETY: this task alone writes this head's rows of the three.
        unsafe {
            let (dq, dk, dv) = (to_q.at(query_at), to_k.at(key_at), to_v.at(key_at));
            i.head(pair).backward(level, &Narrow::new(level, pairs), &above, dq, dk, dv);
        }
    });
    // SAFETY: the tasks cover all heads, queries and keys.
    unsafe { (dq.finish(), dk.finish(), dv.finish()) }
}
