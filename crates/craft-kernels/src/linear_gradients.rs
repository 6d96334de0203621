//! All gradients of a linear map in bf16, in one pass over the gradient of its output.

use std::ops::Range;

use crate::buffer::{Output, Shared, scratch};
use crate::gemm::Init;
use crate::gemm::narrow::{Narrow, split, whole};
use crate::linear::{linear_backward_bias, linear_backward_input, linear_backward_weight};
use crate::parallel;
use crate::simd::amx::TILE;
use crate::simd::bf16::Pairs;
use crate::simd::map::for_vectors;
use crate::simd::{Kernel, Level, Simd, level};

/// Rows whose gradients stay in the caches while they are packed twice and summed.
pub(crate) const ROWS: usize = 128;
/// Most tasks, each of which sums the weight's gradient over rows of its own.
const TASKS: usize = 16;
/// Fewest rows of one task.
const LEAST: usize = 256;
/// Values of the largest weight whose gradient is summed so.
const LARGEST: usize = 1 << 16;

/// Gradients of [`linear`](crate::linear) with respect to `x [m, k]`, `w [n, k]` and the bias `[n]`, each where it is wanted.
#[must_use]
pub fn linear_gradients(
    x: &[f32],
    w: &[f32],
    dy: &[f32],
    [m, k, n]: [usize; 3],
    wants: [bool; 3],
) -> [Option<Vec<f32>>; 3] {
    let level = level();
    match Pairs::active(level) {
        Some(pairs) if suits([m, k, n]) && wants[0] && wants[1] => {
            assert_eq!(dy.len(), m * n, "dy");
            let rows = |rows: Range<usize>, _: &mut [f32]| dy[rows.start * n..].as_ptr();
            // SAFETY: dy holds m rows of n.
            let [dx, dw, db] = unsafe { in_one_pass(level, pairs, x, w, [m, k, n], true, 0, rows) };
            [Some(dx), Some(dw), wants[2].then_some(db)]
        }
        _ => [
            wants[0].then(|| linear_backward_input(dy, w, m, k, n)),
            wants[1].then(|| linear_backward_weight(x, dy, m, k, n)),
            wants[2].then(|| linear_backward_bias(dy, m, n)),
        ],
    }
}

/// Whether a map of `m` rows of `k` values to `n` is one whose gradients are taken in one pass.
pub(crate) fn suits([m, k, n]: [usize; 3]) -> bool {
    let whole_tiles = [m, k, n].iter().all(|l| l.is_multiple_of(TILE));
    whole_tiles && m >= 2 * LEAST && n * k <= LARGEST && n * k > 0
}

/// Adds up columns: `to [n] += sum over the rows of x [rows, n]`.
struct AddColumns<'a> {
    x: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for AddColumns<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.to.len();
        assert!(n.is_multiple_of(S::LANES), "columns in whole vectors");
        for_vectors!(S, n, |i, _n| {
            let mut sum = s.zero();
            for row in self.x.chunks_exact(n) {
                // SAFETY: a whole vector from column i is inside the row.
                sum = s.add(sum, unsafe { s.load(row.as_ptr().add(i)) });
            }
            // SAFETY: as above, inside `to`.
            unsafe {
                let to = self.to.as_mut_ptr().add(i);
                s.store(to, s.add(s.load(to), sum));
            }
        });
    }
}

/// dx, dw, db. Tasks sum over rows of their own, then those sums are added in order: the number of tasks depends on the shape only.
///
/// Without `weights` dw and db are empty. `upper(rows, room)` says where those rows, at most [`ROWS`], of the output's gradient are:
/// somewhere that outlives the call, or in `room`, which holds [`ROWS`] times `room_len` values.
///
/// # Safety
/// What `upper` returns is readable for its rows of n values.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn in_one_pass(
    level: Level,
    pairs: Pairs,
    x: &[f32],
    w: &[f32],
    [m, k, n]: [usize; 3],
    weights: bool,
    room_len: usize,
    upper: impl Fn(Range<usize>, &mut [f32]) -> *const f32 + Sync,
) -> [Vec<f32>; 3] {
    assert!(x.len() == m * k && w.len() == n * k, "x and w");
    let each = m.div_ceil((m / LEAST).clamp(1, TASKS)).next_multiple_of(TILE);
    let tasks = m.div_ceil(each);
    // The weight's gradient is summed transposed where that turns the smaller factor.
    let turned = k < n;
    let words = whole(n) / 2;
    let mut dx = Output::new(m * k);
    let to_x = dx.ptr();
    scratch(words * k + tasks * (n * k + n), |shared| {
        let [packed, sums, biases] = split(shared, [words * k, tasks * n * k, tasks * n]);
        // SAFETY: w holds n rows of k.
        unsafe { Narrow::new(level, pairs).columns(w.as_ptr(), k, [n, k], k, packed) };
        let (packed, sums_at) = (&*packed, Shared::new(sums.as_mut_ptr()));
        let biases_at = Shared::new(biases.as_mut_ptr());
        parallel::for_each(tasks, 4 * m * k * n, |task| {
            let narrow = Narrow::new(level, pairs);
            // SAFETY: each task has a part of its own of both buffers.
            let (sum, bias) = unsafe {
                (
                    std::slice::from_raw_parts_mut(sums_at.at(task * n * k), n * k),
                    std::slice::from_raw_parts_mut(biases_at.at(task * n), n),
                )
            };
            bias.fill(0.0);
            let pairs_of = whole(ROWS) / 2;
            let (left, right) = if turned { (k, n) } else { (n, k) };
            let lengths = [
                whole(ROWS) * words,
                pairs_of * left,
                pairs_of * left,
                pairs_of * right,
                ROWS * room_len,
            ];
            scratch(lengths.iter().sum(), |buffer| {
                let [rows_of, room, a, b, upper_room] = split(buffer, lengths);
                let last = ((task + 1) * each).min(m);
                for r0 in (task * each..last).step_by(ROWS) {
                    let rows = (last - r0).min(ROWS);
                    let dy = upper(r0..r0 + rows, upper_room);
                    let (up, low) = ((dy, n), (x[r0 * k..][..rows * k].as_ptr(), k));
                    let (of_a, of_b) = if turned { (low, up) } else { (up, low) };
                    let depth = whole(rows) / 2;
                    // SAFETY: dy and x have `rows` rows of n and k values; the buffers hold ROWS of them; rows r0.. of dx and
                    // the sums are this task's own.
                    unsafe {
                        narrow.rows(up.0, n, [rows, n], words, rows_of);
                        let to = to_x.at(r0 * k);
                        let of_dy = (rows_of.as_ptr(), words);
                        narrow.product([rows, words, k], of_dy, packed.as_ptr(), to, Init::Zero);
                        if !weights {
                            continue;
                        }
                        narrow.columns_turned(of_a.0, of_a.1, [rows, left], left, room, a);
                        narrow.columns(of_b.0, of_b.1, [rows, right], right, b);
                        let (shape, a) = ([left, depth, right], (a.as_ptr(), depth));
                        let more = r0 > task * each;
                        narrow.product(shape, a, b.as_ptr(), sum.as_mut_ptr(), Init::load_if(more));
                        let dy = std::slice::from_raw_parts(dy, rows * n);
                        level.run(AddColumns { x: dy, to: bias });
                    }
                }
            });
        });
        if !weights {
            // SAFETY: the tasks cover all rows of dx.
            return [unsafe { dx.finish() }, Vec::new(), Vec::new()];
        }
        let dw = total(sums, tasks);
        let dw = if turned { crate::transpose(&dw, 1, k, n) } else { dw };
        // SAFETY: the tasks cover all rows of dx.
        [unsafe { dx.finish() }, dw, total(biases, tasks)]
    })
}

/// The sum of `tasks` parts that follow each other, in order.
fn total(parts: &[f32], tasks: usize) -> Vec<f32> {
    let len = parts.len() / tasks;
    let mut out = Output::new(len);
    let to = out.ptr();
    parallel::for_ranges(len, 4 * tasks, |start, end| {
        for i in start..end {
            let sum: f64 = (0..tasks).map(|t| f64::from(parts[t * len + i])).sum();
            // SAFETY: each range writes its own values.
            unsafe { to.at(i).write(sum as f32) };
        }
    });
    // SAFETY: the ranges cover all values.
    unsafe { out.finish() }
}
