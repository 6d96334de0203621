//! The fused attention block of a transformer, `x + attention(norm(x) Wqᵀ, c Wkᵀ, c Wvᵀ) Woᵀ + bo`
//! with `c` the context or `norm(x)` itself: a few sequences at a time go through all of it while
//! they are in the caches. The heads' outputs are kept for the backward pass; queries, keys and
//! values are computed again.

mod backward;

pub use backward::{FusedAttentionGradients, fused_attention_backward};

use crate::attention::{AttentionShape, Head};
use crate::buffer::{Output, scratch, split};
use crate::gemm::Init;
use crate::gemm::operands::{Format, LeftFactor, Multiplier, RightFactor};
use crate::layer_norm::Norm;
use crate::linear_gradients::{ROWS, fuses};
use crate::parallel;
use crate::simd::{Level, level};

/// Most tokens of a sequence: more would not stay in the caches.
const LONGEST: usize = 256;

/// Inputs of the block: `x [batch, queries, width]`, `context [batch, keys, context_width]`, `wq
/// [inner, width]`, `wk` and
/// `wv` `[inner, context_width]`, `wo [width, inner]`, `bo [width]`, where the heads together are
/// `inner` wide.
#[derive(Clone, Copy)]
pub struct FusedAttention<'a> {
    /// Input, which the output is added to.
    pub x: &'a [f32],
    /// Normalises it first.
    pub norm: Norm<'a>,
    /// What is attended to; the normalised input if `None`.
    pub context: Option<&'a [f32]>,
    /// Weight of the queries.
    pub wq: &'a [f32],
    /// Weight of the keys.
    pub wk: &'a [f32],
    /// Weight of the values.
    pub wv: &'a [f32],
    /// Weight of the output.
    pub wo: &'a [f32],
    /// Bias of the output.
    pub bo: &'a [f32],
}

/// Its shape.
#[derive(Clone, Copy, Debug)]
pub struct FusedAttentionShape {
    /// Shape of the attention itself.
    pub attention: AttentionShape,
    /// Width of the tokens.
    pub width: usize,
    /// Width of the context's tokens, or that of the tokens.
    pub context_width: usize,
}

impl FusedAttentionShape {
    fn inner(&self) -> usize {
        self.attention.heads * self.attention.head_dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.attention.head_dim as f32).sqrt()
    }

    /// Inputs and outputs of the maps to queries, to keys and values, and to the output.
    fn maps(&self) -> [[usize; 2]; 3] {
        let inner = self.inner();
        [[self.width, inner], [self.context_width, 2 * inner], [inner, self.width]]
    }

    /// Sequences that are taken at once.
    fn group(&self) -> usize {
        (ROWS / self.attention.queries.max(self.attention.keys)).clamp(1, self.attention.batch)
    }

    /// Multiplications and additions of the forward pass.
    fn flops(&self) -> usize {
        let s = &self.attention;
        let of = |rows: usize, [k, n]: [usize; 2]| 2 * s.batch * rows * k * n;
        let [q, kv, o] = self.maps();
        of(s.queries, q)
            + of(s.keys, kv)
            + of(s.queries, o)
            + of(s.queries, [s.keys, 2 * self.inner()])
    }

    fn check(&self, p: &FusedAttention<'_>) {
        let fused = fuses_attention(self);
        assert!(fused, "{self:?} is not fused: ask `fuses_attention` first");
        let (s, inner) = (&self.attention, self.inner());
        let [m, width] = [s.batch * s.queries, self.width];
        assert!(p.x.len() == m * width && p.norm.weight.len() == width, "x and norm");
        match p.context {
            Some(c) => assert_eq!(c.len(), s.batch * s.keys * self.context_width, "context"),
            None => assert!(s.keys == s.queries && self.context_width == width, "own context"),
        }
        assert_eq!(p.wq.len(), inner * width, "wq");
        let of_context = inner * self.context_width;
        assert!(p.wk.len() == of_context && p.wv.len() == of_context, "wk and wv");
        assert_eq!(p.wo.len(), width * inner, "wo");
    }
}

/// Whether [`fused_attention`] serves a shape: widths of whole tiles, sequences and weights of a
/// size that fits the caches, and in bf16 enough tokens.
#[must_use]
pub fn fuses_attention(shape: &FusedAttentionShape) -> bool {
    let s = &shape.attention;
    let rows = s.batch * s.queries;
    (1..=LONGEST).contains(&s.queries)
        && (1..=LONGEST).contains(&s.keys)
        && fuses(rows.next_multiple_of(16), &shape.maps())
}

/// Weights of queries, and of keys and values, as matmuls take them.
struct Weights {
    q: RightFactor,
    kv: RightFactor,
}

impl Weights {
    /// Values of the two, of both next to each other, and of the room that [`pack`](Self::pack)
    /// asks for.
    fn lengths(format: Format, s: &FusedAttentionShape) -> [usize; 4] {
        let [[q, room], [kv, more], _] = s.maps().map(|[k, n]| format.rows_turned_len([n, k], n));
        [q, kv, 2 * s.inner() * s.context_width, room.max(more)]
    }

    /// Leaves the weights of keys and values one after the other in `stacked`.
    fn pack(
        multiplier: &Multiplier,
        p: &FusedAttention<'_>,
        s: &FusedAttentionShape,
        [q, kv, stacked, room]: [&mut [f32]; 4],
    ) -> Self {
        let [[width, inner], [context, both], _] = s.maps();
        stacked[..inner * context].copy_from_slice(p.wk);
        stacked[inner * context..].copy_from_slice(p.wv);
        // SAFETY: the weights hold rows of `width` and of `context`.
        unsafe {
            Self {
                q: multiplier.rows_turned(p.wq.as_ptr(), width, [inner, width], inner, room, q),
                kv: multiplier.rows_turned(
                    stacked.as_ptr(),
                    context,
                    [both, context],
                    both,
                    room,
                    kv,
                ),
            }
        }
    }
}

/// What a few sequences are turned into before their heads attend.
struct Projected<'a> {
    normed: &'a mut [f32],
    /// Mean and reciprocal deviation of each row.
    stats: &'a mut [f32],
    words: &'a mut [f32],
    q: &'a mut [f32],
    /// Keys and values side by side.
    kv: &'a mut [f32],
}

impl<'a> Projected<'a> {
    fn lengths(format: Format, s: &FusedAttentionShape) -> [usize; 5] {
        let [[width, inner], [context, both], _] = s.maps();
        let queries = s.group() * s.attention.queries;
        let keys = s.group() * s.attention.keys;
        let words = format.rows_len([queries, width]).max(format.rows_len([keys, context]));
        [queries * width, 2 * queries, words, queries * inner, keys * both]
    }

    fn new([normed, stats, words, q, kv]: [&'a mut [f32]; 5]) -> Self {
        Self { normed, stats, words, q, kv }
    }

    /// Fills them for `count` sequences from `first` on.
    fn fill(
        &mut self,
        level: Level,
        multiplier: &Multiplier,
        (p, s): (&FusedAttention<'_>, &FusedAttentionShape),
        weights: &Weights,
        [first, count]: [usize; 2],
    ) {
        let [[width, inner], [context, both], _] = s.maps();
        let (queries, keys) = (count * s.attention.queries, count * s.attention.keys);
        let x = &p.x[first * s.attention.queries * width..][..queries * width];
        let normed = &mut self.normed[..queries * width];
        p.norm.rows(level, x, normed, self.stats);
        let format = multiplier.format();
        // SAFETY: the buffers hold the rows of a group of sequences.
        unsafe {
            let a = multiplier.rows(normed.as_ptr(), width, [queries, width], self.words);
            let (shape, q) = ([queries, format.depth(width), inner], self.q.as_mut_ptr());
            multiplier.product(shape, a, weights.q, q, Init::Zero);
            let a: LeftFactor = match p.context {
                Some(all) => {
                    let rows = &all[first * s.attention.keys * context..][..keys * context];
                    multiplier.rows(rows.as_ptr(), context, [keys, context], self.words)
                }
                None => a,
            };
            let (shape, kv) = ([keys, format.depth(context), both], self.kv.as_mut_ptr());
            multiplier.product(shape, a, weights.kv, kv, Init::Zero);
        }
    }

    /// Head `h` of the `n`th of these sequences.
    fn head(&self, s: &FusedAttentionShape, n: usize, h: usize) -> Head<'_> {
        let (a, inner) = (&s.attention, s.inner());
        let key_at = n * a.keys * 2 * inner + h * a.head_dim;
        Head {
            q: &self.q[n * a.queries * inner + h * a.head_dim..],
            ldq: inner,
            k: &self.kv[key_at..],
            v: &self.kv[key_at + inner..],
            ldk: 2 * inner,
            queries: a.queries,
            keys: a.keys,
            d: a.head_dim,
            scale: s.scale(),
            causal: false,
        }
    }
}

/// The output `[batch, queries, width]`, and, if they are to be kept for the backward pass, the
/// heads' outputs
/// `[batch, queries, inner]` and the logarithms of their softmax's denominators `[batch, heads,
/// queries]`.
///
/// # Panics
/// Where [`fuses_attention`] says no.
#[must_use]
pub fn fused_attention(
    p: &FusedAttention<'_>,
    s: &FusedAttentionShape,
    keep: bool,
) -> (Vec<f32>, Option<[Vec<f32>; 2]>) {
    s.check(p);
    let level = level();
    let format = Format::active(level);
    assert_eq!(p.bo.len(), s.width, "bo");
    let (a, width, inner) = (s.attention, s.width, s.inner());
    let (m, group) = (a.batch * a.queries, s.group());
    let mut y = Output::new(m * width);
    let [mut out, mut lse] = if keep { [m * inner, m * a.heads] } else { [0, 0] }.map(Output::new);
    let (to, to_out, to_lse) = (y.ptr(), out.ptr(), lse.ptr());
    let [q, kv, stacked, room] = Weights::lengths(format, s);
    let [back, more] = format.rows_turned_len([width, inner], width);
    let lengths = [q, kv, stacked, room.max(more), back];
    scratch(lengths.iter().sum(), |shared| {
        let [q, kv, stacked, room, back] = split(shared, lengths);
        let (back, weights) = {
            let (m, wo) = (Multiplier::new(format), p.wo.as_ptr());
            // SAFETY: wo holds `width` rows of `inner`.
            let back = unsafe { m.rows_turned(wo, inner, [width, inner], width, room, back) };
            (back, Weights::pack(&m, p, s, [q, kv, stacked, room]))
        };
        parallel::for_each(a.batch.div_ceil(group), s.flops(), |task| {
            let multiplier = Multiplier::new(format);
            let first = task * group;
            let count = (a.batch - first).min(group);
            let rows = count * a.queries;
            let parts = Projected::lengths(format, s);
            let own = [rows * inner, format.rows_len([rows, inner])];
            scratch(parts.iter().chain(&own).sum(), |buffer| {
                let (buffer, rest) = buffer.split_at_mut(parts.iter().sum());
                let mut projected = Projected::new(split(buffer, parts));
                projected.fill(level, &multiplier, (p, s), &weights, [first, count]);
                let [local, packed] = split(rest, own);
                let logs = keep.then(|| to_lse.at(first * a.heads * a.queries));
                let heads_out =
                    if keep { to_out.at(first * a.queries * inner) } else { local.as_mut_ptr() };
                for (n, h) in (0..count).flat_map(|n| (0..a.heads).map(move |h| (n, h))) {
                    let head = projected.head(s, n, h);
                    let at = n * a.queries * inner + h * a.head_dim;
                    let logs = logs.map(|l| l.wrapping_add((n * a.heads + h) * a.queries));
                    // SAFETY: these rows and logarithms are this task's own.
                    unsafe {
                        let to = (heads_out.add(at), inner);
                        head.forward(level, &multiplier, 0..a.queries, to, logs);
                    }
                }
                let at = first * a.queries * width;
                // SAFETY: the heads have written `rows` rows of `inner`; these rows of the output
                // are this task's own.
                unsafe {
                    let out = multiplier.rows(heads_out, inner, [rows, inner], packed);
                    let x = &p.x[at..][..rows * width];
                    let start = Init::ColumnsAnd(p.bo.as_ptr(), x.as_ptr());
                    let shape = [rows, format.depth(inner), width];
                    multiplier.product(shape, out, back, to.at(at), start);
                }
            });
        });
    });
    // SAFETY: the tasks cover all sequences.
    unsafe { (y.finish(), keep.then(|| [out.finish(), lse.finish()])) }
}
