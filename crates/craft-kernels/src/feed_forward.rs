//! The feed-forward part of a transformer block, `x + geglu(norm(x) W1ᵀ + b1) W2ᵀ + b2`, in bf16: what lies between stays in the
//! caches, and only the gate's rounded input is kept for the backward pass.

use crate::activation::{GegluRow, GegluRowBackward};
use crate::buffer::{Output, Shared, scratch};
use crate::gemm::Init;
use crate::gemm::narrow::{Narrow, split, whole};
use crate::layer_norm::Norm;
use crate::linear_gradients::{ROWS, WeightSums, rows_and_tasks, suits, total};
use crate::parallel;
use crate::rows::AddRow;
use crate::simd::bf16::Pairs;
use crate::simd::{Level, level};

/// Rows that go through both maps of the forward pass at once.
const BLOCK: usize = 32;
/// Rows of one of its tasks.
const TASK: usize = 128;

/// What the feed-forward part computes with: `x [m, k]`, `w1 [2 d, k]`, `b1 [2 d]`, `w2 [k, d]`, `b2 [k]`.
#[derive(Clone, Copy)]
pub struct FeedForward<'a> {
    /// Input, which the output is added to.
    pub x: &'a [f32],
    /// Normalises it first.
    pub norm: Norm<'a>,
    /// Weight of the projection to values and gates.
    pub w1: &'a [f32],
    /// Its bias.
    pub b1: &'a [f32],
    /// Weight of the projection back.
    pub w2: &'a [f32],
    /// Its bias.
    pub b2: &'a [f32],
}

/// Whether [`feed_forward`] serves `m` rows of `k` values and an inner width of `d`: whole tiles of a size that fits the caches, with
/// products in bf16.
#[must_use]
pub fn fuses_feed_forward([m, k, d]: [usize; 3]) -> bool {
    Pairs::active(level()).is_some() && suits([m, k, 2 * d]) && suits([m, d, k])
}

fn expect_pairs(level: Level, shape: [usize; 3]) -> Pairs {
    let pairs = Pairs::active(level).filter(|_| fuses_feed_forward(shape));
    pairs.unwrap_or_else(|| panic!("{shape:?} is not fused: ask `fuses_feed_forward` first"))
}

/// The output `[m, k]`, and, where it is to be kept for the backward pass, `[m, d]` words that hold a value and its gate as bf16.
///
/// # Panics
/// Where [`fuses_feed_forward`] says no.
#[must_use]
pub fn feed_forward(
    f: &FeedForward<'_>,
    [m, k, d]: [usize; 3],
    keep: bool,
) -> (Vec<f32>, Option<Vec<f32>>) {
    let level = level();
    let pairs = expect_pairs(level, [m, k, d]);
    let n = 2 * d;
    assert!(f.x.len() == m * k && f.norm.weight.len() == k, "x and norm");
    assert!(f.w1.len() == n * k && f.b1.len() == n, "w1 and b1");
    assert!(f.w2.len() == k * d && f.b2.len() == k, "w2 and b2");
    let (words, inner) = (whole(k) / 2, whole(d) / 2);
    let (mut out, mut kept) = (Output::new(m * k), Output::new(if keep { m * d } else { 0 }));
    let (to, to_kept) = (out.ptr(), kept.ptr());
    let lengths = [words * n, inner * k, (n * words).max(k * inner)];
    scratch(lengths.iter().sum(), |shared| {
        let [first, second, room] = split(shared, lengths);
        // SAFETY: w1 holds n rows of k, w2 k rows of d.
        unsafe {
            let narrow = Narrow::new(level, pairs);
            narrow.rows_turned(f.w1.as_ptr(), k, [n, k], n, room, first);
            narrow.rows_turned(f.w2.as_ptr(), d, [k, d], k, room, second);
        }
        let (first, second) = (&*first, &*second);
        parallel::for_each(m.div_ceil(TASK), 6 * m * k * d, |task| {
            let narrow = Narrow::new(level, pairs);
            let lengths = [
                BLOCK * k,
                2 * BLOCK,
                whole(BLOCK) * words,
                BLOCK * n,
                BLOCK * d,
                whole(BLOCK) * inner,
            ];
            scratch(lengths.iter().sum(), |buffer| {
                let [normed, stats, a, h, y, b] = split(buffer, lengths);
                let last = ((task + 1) * TASK).min(m);
                for r0 in (task * TASK..last).step_by(BLOCK) {
                    let rows = (last - r0).min(BLOCK);
                    let x = &f.x[r0 * k..][..rows * k];
                    f.norm.rows(level, x, &mut normed[..rows * k], stats);
                    // SAFETY: the buffers hold `rows` rows of k and of n.
                    unsafe {
                        narrow.rows(normed.as_ptr(), k, [rows, k], words, a);
                        let a = (a.as_ptr(), words);
                        let shape = [rows, words, n];
                        narrow.product(shape, a, first.as_ptr(), h.as_mut_ptr(), Init::Zero);
                    }
                    // The bias is added here: sums that start from it would have to be written and read back first.
                    for (r, (row, y)) in
                        h.chunks_exact_mut(n).zip(y.chunks_exact_mut(d)).take(rows).enumerate()
                    {
                        let own = row.as_mut_ptr();
                        let (bias, kept) = (Some(f.b1), keep.then(|| Shared::new(own)));
                        let (x, y) = (own.cast_const(), Shared::new(y.as_mut_ptr()));
                        level.run(GegluRow { x, d, bias, kept, y });
                        if keep {
                            let at = to_kept.at((r0 + r) * d);
                            // SAFETY: values and gates are two rows of d; this task alone writes this row's words.
                            unsafe { pairs.columns(row.as_ptr(), d, 2, d, at, d, 0) };
                        }
                    }
                    let to = to.at(r0 * k);
                    // SAFETY: y holds `rows` rows of d; these rows of the output are this task's own.
                    unsafe {
                        narrow.rows(y.as_ptr(), d, [rows, d], inner, b);
                        let start = Init::ColumnsAnd(f.b2.as_ptr(), x.as_ptr());
                        let b = (b.as_ptr(), inner);
                        narrow.product([rows, inner, k], b, second.as_ptr(), to, start);
                    }
                }
            });
        });
    });
    // SAFETY: the tasks cover all rows.
    unsafe { (out.finish(), keep.then(|| kept.finish())) }
}

/// Gradients of [`feed_forward`] with respect to `x`, the norm's weight and bias and, where `weights` are wanted, `w1`, `b1`, `w2` and
/// `b2`. Takes the words that the forward pass kept and `dy [m, k]`; the biases of the two maps are not read.
///
/// # Panics
/// Where [`fuses_feed_forward`] says no.
#[must_use]
pub fn feed_forward_backward(
    f: &FeedForward<'_>,
    kept: &[f32],
    dy: &[f32],
    [m, k, d]: [usize; 3],
    weights: bool,
) -> [Option<Vec<f32>>; 7] {
    let level = level();
    let pairs = expect_pairs(level, [m, k, d]);
    let n = 2 * d;
    assert!(f.x.len() == m * k && dy.len() == m * k && kept.len() == m * d, "x, dy and words");
    assert!(f.w1.len() == n * k && f.w2.len() == k * d, "w1 and w2");
    let (maps, [each, tasks]) = ([[k, n], [d, k]], rows_and_tasks(m));
    let (words, inner) = (whole(k) / 2, whole(n) / 2);
    let mut dx = Output::new(m * k);
    let to_x = dx.ptr();
    let sums = maps.map(|map| if weights { tasks * WeightSums::len(map) } else { 0 });
    let lengths = [words * d, inner * k, tasks * 2 * k, sums[0], sums[1]];
    scratch(lengths.iter().sum(), |shared| {
        let [back, front, norms, first, second] = split(shared, lengths);
        // SAFETY: w2 holds k rows of d, w1 n rows of k.
        unsafe {
            let narrow = Narrow::new(level, pairs);
            narrow.columns(f.w2.as_ptr(), d, [k, d], d, back);
            narrow.columns(f.w1.as_ptr(), k, [n, k], k, front);
        }
        let (back, front) = (&*back, &*front);
        let all = [Shared::new(first.as_mut_ptr()), Shared::new(second.as_mut_ptr())];
        let norms_at = Shared::new(norms.as_mut_ptr());
        parallel::for_each(tasks, 12 * m * k * d, |task| {
            let narrow = Narrow::new(level, pairs);
            // SAFETY: the buffers hold the sums of all tasks.
            let mut sums = weights
                .then(|| unsafe { [0, 1].map(|i| WeightSums::of(all[i], task, tasks, maps[i])) });
            // SAFETY: each task has 2 k values of the buffer to itself.
            let of_norm =
                unsafe { std::slice::from_raw_parts_mut(norms_at.at(task * 2 * k), 2 * k) };
            of_norm.fill(0.0);
            let room = maps.map(WeightSums::room);
            let lengths = [
                ROWS * k,
                2 * ROWS,
                ROWS * k,
                whole(ROWS) * words,
                ROWS * d,
                n,
                ROWS * d,
                ROWS * n,
                whole(ROWS) * inner,
                room[0].max(room[1]),
            ];
            scratch(lengths.iter().sum(), |buffer| {
                let [normed, stats, dnormed, upper, dh, row, y, slopes, words_of, room] =
                    split(buffer, lengths);
                let last = ((task + 1) * each).min(m);
                for r0 in (task * each..last).step_by(ROWS) {
                    let rows = (last - r0).min(ROWS);
                    let (x, dy) = (&f.x[r0 * k..][..rows * k], &dy[r0 * k..][..rows * k]);
                    let (normed, dnormed) = (&mut normed[..rows * k], &mut dnormed[..rows * k]);
                    f.norm.rows(level, x, normed, stats);
                    // SAFETY: dy holds `rows` rows of k, dh as many of d.
                    unsafe {
                        narrow.rows(dy.as_ptr(), k, [rows, k], words, upper);
                        let upper = (upper.as_ptr(), words);
                        let dh = dh.as_mut_ptr();
                        narrow.product([rows, words, d], upper, back.as_ptr(), dh, Init::Zero);
                    }
                    let (y, slopes) = (&mut y[..rows * d], &mut slopes[..rows * n]);
                    let (values, gates) = row.split_at_mut(d);
                    for (r, (y, slope)) in
                        y.chunks_exact_mut(d).zip(slopes.chunks_exact_mut(n)).enumerate()
                    {
                        pairs.split(&kept[(r0 + r) * d..][..d], values, gates);
                        level.run(GegluRowBackward {
                            value: values,
                            gate: gates,
                            dy: &dh[r * d..][..d],
                            y: Some(Shared::new(y.as_mut_ptr())),
                            dx: Shared::new(slope.as_mut_ptr()),
                        });
                    }
                    // SAFETY: the buffers hold `rows` rows; rows r0.. of dx are this task's own.
                    unsafe {
                        narrow.rows(slopes.as_ptr(), n, [rows, n], inner, words_of);
                        let slopes = (words_of.as_ptr(), inner);
                        let to = dnormed.as_mut_ptr();
                        narrow.product([rows, inner, k], slopes, front.as_ptr(), to, Init::Zero);
                        let dx = std::slice::from_raw_parts_mut(to_x.at(r0 * k), rows * k);
                        f.norm.rows_backward(level, x, dnormed, stats, dx, of_norm);
                        level.run(AddRow::new(dx.as_mut_ptr(), dy));
                    }
                    if let Some([first, second]) = &mut sums {
                        first.add(level, &narrow, normed, slopes, room);
                        second.add(level, &narrow, y, dy, room);
                    }
                }
            });
        });
        // SAFETY: the tasks cover all rows of dx.
        let dx = Some(unsafe { dx.finish() });
        let mut of_norm = total(norms, tasks);
        let db = Some(of_norm.split_off(k));
        let dw = Some(of_norm);
        if !weights {
            return [dx, dw, db, None, None, None, None];
        }
        let [dw1, db1] = WeightSums::total(first, tasks, maps[0]).map(Some);
        let [dw2, db2] = WeightSums::total(second, tasks, maps[1]).map(Some);
        [dx, dw, db, dw1, db1, dw2, db2]
    })
}
