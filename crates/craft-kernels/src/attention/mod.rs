//! Scaled dot-product attention in tiles: the matrix of scores never exists as a whole.

mod backward;
mod forward;

pub(crate) use backward::Above;
pub(crate) use forward::Head;

use std::ops::Range;

use crate::parallel;
use crate::simd::level;

/// Queries of one task of the forward pass if there are few heads.
const QUERIES: usize = 256;

/// Shape of multi-head attention: `q` and the output `[batch, queries, heads * head_dim]`, `k` and
/// `v`
/// `[batch, keys, heads * head_dim]`; the heads lie side by side in the last axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Length of the query sequence.
    pub queries: usize,
    /// Length of the key sequence; at least 1.
    pub keys: usize,
    /// Width of one head.
    pub head_dim: usize,
}

impl AttentionShape {
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }
    fn query_len(&self) -> usize {
        self.batch * self.queries * self.width()
    }
    fn key_len(&self) -> usize {
        self.batch * self.keys * self.width()
    }
    fn flops(&self) -> usize {
        4 * self.query_len() * self.keys
    }
    /// Runs `f(head, queries)` for every head of every sequence, counted as one, and range of at
    /// most `chunk` queries. One thread takes all heads of a sequence, whose rows lie side by side
    /// in memory, where there are enough sequences.
    fn for_each(&self, chunk: usize, flops: usize, f: impl Fn(usize, Range<usize>) + Sync + Send) {
        let group = if self.batch >= 8 { self.heads } else { 1 };
        let chunk = if self.batch * self.heads >= 8 { self.queries.max(1) } else { chunk };
        let chunks = self.queries.div_ceil(chunk).max(1);
        parallel::for_each(self.batch * self.heads / group * chunks, flops, |task| {
            let (first, q0) = (task / chunks * group, task % chunks * chunk);
            for head in first..first + group {
                f(head, q0..(q0 + chunk).min(self.queries));
            }
        });
    }
    fn check(&self) {
        assert!(self.keys > 0, "attention needs at least one key");
    }
}

/// What the passes are given.
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    shape: &'a AttentionShape,
    scale: f32,
    causal: bool,
}

impl Inputs<'_> {
    /// Where the queries of a head of a sequence, counted as one, begin.
    fn query_at(&self, pair: usize) -> usize {
        self.at(pair, self.shape.queries)
    }

    /// The same of its keys.
    fn key_at(&self, pair: usize) -> usize {
        self.at(pair, self.shape.keys)
    }

    fn at(&self, pair: usize, rows: usize) -> usize {
        let s = self.shape;
        pair / s.heads * rows * s.width() + pair % s.heads * s.head_dim
    }

    fn head(&self, pair: usize) -> Head<'_> {
        let (s, key_at) = (self.shape, self.key_at(pair));
        Head {
            q: tail(self.q, self.query_at(pair)),
            ldq: s.width(),
            k: tail(self.k, key_at),
            v: tail(self.v, key_at),
            ldk: s.width(),
            queries: s.queries,
            keys: s.keys,
            d: s.head_dim,
            scale: self.scale,
            causal: self.causal,
        }
    }
}

/// What follows `at`; nothing where that is past the end, as of heads without channels or sequences
/// without queries.
fn tail(x: &[f32], at: usize) -> &[f32] {
    x.get(at..).unwrap_or_default()
}

/// `softmax(scale * q k^T) v` a head, with query `i` seeing keys `0..=i` only where `causal`.
///
/// Returns the output `[batch, queries, heads * head_dim]` and the logarithm of each softmax's
/// denominator
/// `[batch, heads, queries]`, which [`attention_backward`](crate::attention_backward) needs.
#[must_use]
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    s: &AttentionShape,
    scale: f32,
    causal: bool,
) -> (Vec<f32>, Vec<f32>) {
    s.check();
    assert_eq!(q.len(), s.query_len(), "q");
    assert!(k.len() == s.key_len() && v.len() == k.len(), "k and v");
    forward::attention(level(), &Inputs { q, k, v, shape: s, scale, causal })
}

/// Gradients of [`attention`](crate::attention) with respect to `q`, `k` and `v`, in their shapes.
///
/// Takes the inputs and both results of the forward pass, and `dout` in the shape of its output.
#[must_use]
#[allow(clippy::too_many_arguments)]
pub fn attention_backward(
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
    s.check();
    assert!(
        q.len() == s.query_len() && out.len() == q.len() && dout.len() == q.len(),
        "q, out and dout"
    );
    assert!(k.len() == s.key_len() && v.len() == k.len(), "k and v");
    assert_eq!(lse.len(), s.batch * s.heads * s.queries, "lse");
    let inputs = Inputs { q, k, v, shape: s, scale, causal };
    backward::attention_backward(level(), &inputs, out, lse, dout)
}
