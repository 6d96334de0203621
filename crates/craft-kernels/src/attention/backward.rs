//! The backward pass: probabilities are computed again, transposed as in the [forward
//! pass](super::forward).

use super::forward::{Head, KB, QB, ScaleRows, mask, whole_vectors};
use super::{Inputs, tail};
use crate::buffer::{Output, scratch, split};
use crate::gemm::Init;
use crate::gemm::operands::{Format, Multiplier};
use crate::simd::map::{for_vectors, read};
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

/// Turns scores into probabilities `p = exp(score - lse)` and gradients of `p` into those of the
/// scores, `p * (dp - delta)`; both
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

/// Output of a head and its gradient, each beginning at the head's first value, in rows at distance
/// `ld`, and the logarithms that the forward pass returned.
pub(crate) struct Above<'a> {
    pub out: &'a [f32],
    pub dout: &'a [f32],
    pub ld: usize,
    pub lse: &'a [f32],
}

impl Head<'_> {
    /// Gradients with respect to the queries, to `dq` in rows at distance `ldq`, and to keys and
    /// values, at distance `ldk`.
    ///
    /// # Safety
    /// `dq` is writable for all queries, `dk` and `dv` for all keys.
    pub(crate) unsafe fn backward(
        &self,
        level: Level,
        multiplier: &Multiplier,
        above: &Above<'_>,
        to_q: *mut f32,
        to_k: *mut f32,
        to_v: *mut f32,
    ) {
        self.check();
        let (d, keys) = (self.d, self.keys);
        let format = multiplier.format();
        let (tall, depth) = (format.tiles(d), format.depth(d));
        let of_keys = format.rows_len([keys, d]);
        let [turned, room] = format.rows_turned_len([QB, d], QB);
        let k_turned = format.columns_len(keys, tall);
        let lengths = [
            of_keys,
            of_keys,
            k_turned,
            k_turned.max(room),
            format.whole(keys) * tall,
            format.whole(keys) * tall,
            QB * tall,
            turned,
            turned,
            format.columns_len(QB, tall),
            format.columns_len(QB, tall),
            KB * QB,
            KB * QB,
            format.rows_len([KB, QB]).max(format.columns_len(KB, QB)),
            tall * QB,
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
            let (k, v, k_turned) = unsafe {
                (
                    multiplier.rows(k, ldk, [keys, d], k_rows),
                    multiplier.rows(v, ldk, [keys, d], v_rows),
                    multiplier.columns_turned(k, ldk, [keys, d], tall, room, k_turned),
                )
            };
            for q0 in (0..self.queries).step_by(QB) {
                let rows = (self.queries - q0).min(QB);
                let width = format.whole(whole_vectors(rows));
                let scaled = ScaleRows {
                    x: tail(self.q, q0 * self.ldq).as_ptr(),
                    ldx: self.ldq,
                    y: queries.as_mut_ptr(),
                    ldy: tall,
                    rows,
                    d,
                    factor: self.scale,
                };
                let (a, b, ld) =
                    (&above.out[q0 * above.ld..], &above.dout[q0 * above.ld..], above.ld);
                // Sees that their rows are there.
                level.run(RowDots { a, b, rows, d, ld, out: delta });
                let (up, shape) = (b.as_ptr(), [rows, d]);
                // SAFETY: rows q0.. of the head are inside q and dout; the copy holds QB rows.
                let (q, q_pairs, upper, upper_pairs) = unsafe {
                    level.run(scaled.ready());
                    let queries = queries.as_ptr();
                    (
                        multiplier.rows_turned(queries, tall, shape, width, room, q),
                        multiplier.columns(queries, tall, shape, tall, q_pairs),
                        multiplier.rows_turned(up, ld, shape, width, room, upper),
                        multiplier.columns(up, ld, shape, tall, upper_pairs),
                    )
                };
                delta[rows..width].fill(0.0);
                lse_of[..rows].copy_from_slice(&above.lse[q0..][..rows]);
                // Queries beyond the last see nothing.
                lse_of[rows..width].fill(f32::INFINITY);
                let end = if self.causal { (q0 + rows).min(keys) } else { keys };
                for k0 in (0..end).step_by(KB) {
                    let n = (keys - k0).min(KB);
                    let tiles = format.whole(n);
                    let (scores, slopes) =
                        (&mut scores[..tiles * width], &mut slopes[..tiles * width]);
                    let shape = [tiles, depth, width];
                    // SAFETY: k and v have these rows from k0 on, q and the upper gradient `depth`
                    // rows of `width`, scores and slopes these rows of `width`.
                    unsafe {
                        let to = scores.as_mut_ptr();
                        multiplier.product(shape, k.after_rows(k0), q, to, Init::Zero);
                        let to = slopes.as_mut_ptr();
                        multiplier.product(shape, v.after_rows(k0), upper, to, Init::Zero);
                    }
                    if self.causal {
                        mask(scores, width, n, q0, k0);
                    }
                    level.run(Gradients { scores, slopes, lse: lse_of, delta, keys: n, width });
                    let shape = [tiles, format.depth(rows), tall];
                    let (all, at) = ([tiles, width], k0 * tall);
                    // SAFETY: these rows of `width`; the pairs of queries have as many rows of
                    // `tall` as the sums are long, and dk and dv
                    // `tiles` rows from k0 on.
                    unsafe {
                        let p = multiplier.rows(scores.as_ptr(), width, all, words);
                        let to = dv[at..].as_mut_ptr();
                        multiplier.product(shape, p, upper_pairs, to, Init::Load);
                        let ds = multiplier.rows(slopes.as_ptr(), width, all, words);
                        multiplier.product(shape, ds, q_pairs, dk[at..].as_mut_ptr(), Init::Load);
                        let ds = multiplier.columns(slopes.as_ptr(), width, all, width, words);
                        let of_k = k_turned.after_depth(k0 / KB * format.depth(KB));
                        let (shape, init) = ([tall, format.depth(n), width], Init::load_if(k0 > 0));
                        multiplier.product(shape, of_k, ds, part.as_mut_ptr(), init);
                    }
                }
                let part = &mut part[..tall * width];
                part.iter_mut().for_each(|v| *v *= self.scale);
                // SAFETY: the caller vouches for these rows of dq.
                unsafe {
                    let to = to_q.add(q0 * self.ldq);
                    multiplier.turn(part.as_ptr(), width, [d, rows], to, self.ldq, 0);
                }
            }
            for (from, y) in [(&*dk, to_k), (&*dv, to_v)] {
                let x = from.as_ptr();
                let done = ScaleRows { x, ldx: tall, y, ldy: ldk, rows: keys, d, factor: 1.0 };
                // SAFETY: the caller vouches for all rows of dk and dv.
                unsafe { level.run(done.ready()) };
            }
        });
    }
}

/// See [`attention_backward`](super::attention_backward).
pub(super) fn attention_backward(
    level: Level,
    i: &Inputs<'_>,
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (s, format) = (i.shape, Format::active(level));
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
            i.head(pair).backward(level, &Multiplier::new(format), &above, dq, dk, dv);
        }
    });
    // SAFETY: the tasks cover all heads, queries and keys.
    unsafe { (dq.finish(), dk.finish(), dv.finish()) }
}
