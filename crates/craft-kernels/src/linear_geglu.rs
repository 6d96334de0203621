//! The first half of a transformer block's feed-forward part, `geglu(x Wᵀ + bias)`, in bf16: what goes into the gate stays in the
//! caches, and only its rounded values are kept for the backward pass.

use std::ops::Range;

use crate::activation::{GegluRow, GegluRowBackward};
use crate::buffer::{Output, Shared, scratch};
use crate::gemm::Init;
use crate::gemm::narrow::{Narrow, split, whole};
use crate::linear_gradients::{ROWS, in_one_pass, suits};
use crate::parallel;
use crate::simd::bf16::Pairs;
use crate::simd::map::for_vectors;
use crate::simd::{Kernel, Level, Simd, level};

/// Adds `bias` to a row. Sums that start from the bias would have it written and read back tile by tile: a third slower.
struct AddBias<'a> {
    row: &'a mut [f32],
    bias: &'a [f32],
}

impl Kernel for AddBias<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(self.bias.len() == self.row.len() && self.row.len().is_multiple_of(S::LANES));
        for_vectors!(S, self.row.len(), |i, _n| {
            // SAFETY: a whole vector from index i is inside both.
            unsafe {
                let to = self.row.as_mut_ptr().add(i);
                s.store(to, s.add(s.load(to), s.load(self.bias.as_ptr().add(i))));
            }
        });
    }
}

/// Whether [`linear_geglu`] serves `m` rows of `k` values and an output of `d`: whole tiles of a size that fits the caches, with
/// products in bf16.
#[must_use]
pub fn fuses_linear_geglu([m, k, d]: [usize; 3]) -> bool {
    Pairs::active(level()).is_some() && suits([m, k, 2 * d])
}

fn expect_pairs(level: Level, shape: [usize; 3]) -> Pairs {
    let pairs = Pairs::active(level).filter(|_| fuses_linear_geglu(shape));
    pairs.unwrap_or_else(|| panic!("{shape:?} is not fused: ask `fuses_linear_geglu` first"))
}

/// `x [m, k]` times the transpose of `w [2 d, k]` plus `bias [2 d]`, then [`geglu`](crate::geglu): returns `y [m, d]`, and for the
/// backward pass `[m, d]` words that hold a value and its gate as bf16.
///
/// # Panics
/// Where [`fuses_linear_geglu`] says no.
#[must_use]
pub fn linear_geglu(
    x: &[f32],
    w: &[f32],
    bias: &[f32],
    [m, k, d]: [usize; 3],
) -> (Vec<f32>, Vec<f32>) {
    let level = level();
    let pairs = expect_pairs(level, [m, k, d]);
    let n = 2 * d;
    assert!(x.len() == m * k && w.len() == n * k && bias.len() == n, "x, w and bias");
    let words = whole(k) / 2;
    let (mut y, mut kept) = (Output::new(m * d), Output::new(m * d));
    let (to, to_kept) = (y.ptr(), kept.ptr());
    scratch(words * n + n * words, |shared| {
        let [packed, room] = split(shared, [words * n, n * words]);
        // SAFETY: w holds n rows of k.
        unsafe {
            Narrow::new(level, pairs).rows_turned(w.as_ptr(), k, [n, k], n, room, packed);
        }
        let packed = &*packed;
        parallel::for_each(m.div_ceil(ROWS), 2 * m * k * n, |task| {
            let (r0, narrow) = (task * ROWS, Narrow::new(level, pairs));
            let rows = (m - r0).min(ROWS);
            let lengths = [whole(ROWS) * words, ROWS * n];
            scratch(lengths.iter().sum(), |buffer| {
                let [a, h] = split(buffer, lengths);
                // SAFETY: rows r0.. are inside x; h holds `rows` rows of n.
                unsafe {
                    narrow.rows(x[r0 * k..].as_ptr(), k, [rows, k], words, a);
                    let (shape, a) = ([rows, words, n], (a.as_ptr(), words));
                    narrow.product(shape, a, packed.as_ptr(), h.as_mut_ptr(), Init::Zero);
                }
                for (r, row) in h.chunks_exact_mut(n).take(rows).enumerate() {
                    level.run(AddBias { row: &mut *row, bias });
                    let at = (r0 + r) * d;
                    level.run(GegluRow { x: row, y: Shared::new(to.at(at)) });
                    // SAFETY: values and gates are two rows of d; this task alone writes this row's words.
                    unsafe { pairs.columns(row.as_ptr(), d, 2, d, to_kept.at(at), d, 0) };
                }
            });
        });
    });
    // SAFETY: the tasks cover all rows.
    unsafe { (y.finish(), kept.finish()) }
}

/// Gradients of [`linear_geglu`] with respect to `x [m, k]` and, where `weights` are wanted, `w [2 d, k]` and the bias `[2 d]`. Takes
/// the words that it kept, and `dy [m, d]`.
///
/// # Panics
/// Where [`fuses_linear_geglu`] says no.
#[must_use]
pub fn linear_geglu_backward(
    x: &[f32],
    w: &[f32],
    kept: &[f32],
    dy: &[f32],
    [m, k, d]: [usize; 3],
    weights: bool,
) -> [Option<Vec<f32>>; 3] {
    let level = level();
    let pairs = expect_pairs(level, [m, k, d]);
    let n = 2 * d;
    assert!(kept.len() == m * d && dy.len() == m * d, "words and dy");
    // One row of values and gates beside the rows of their gradients.
    let room = n + n.div_ceil(ROWS);
    let slopes_of = |rows: Range<usize>, room: &mut [f32]| {
        let (slopes, row) = room.split_at_mut(ROWS * n);
        let row = &mut row[..n];
        for (r, slope) in rows.zip(slopes.chunks_exact_mut(n)) {
            let (values, gates) = row.split_at_mut(d);
            pairs.split(&kept[r * d..][..d], values, gates);
            level.run(GegluRowBackward {
                x: row,
                dy: &dy[r * d..][..d],
                dx: Shared::new(slope.as_mut_ptr()),
            });
        }
        slopes.as_ptr()
    };
    // SAFETY: `room` begins with ROWS rows of n slopes.
    let [dx, dw, db] =
        unsafe { in_one_pass(level, pairs, x, w, [m, k, n], weights, room, slopes_of) };
    [Some(dx), weights.then_some(dw), weights.then_some(db)]
}
