//! The fused feed-forward block of a transformer: `x + geglu(norm(x) W1ᵀ + b1) W2ᵀ + b2`, with
//! everything between kept in the caches. For the backward pass the gate's input is kept, rounded,
//! if matmuls are in bf16, and computed again otherwise.

use crate::activation::{GegluRow, GegluRowBackward};
use crate::buffer::{Output, Shared, scratch, split};
use crate::gemm::Init;
use crate::gemm::operands::{Format, Multiplier};
use crate::layer_norm::Norm;
use crate::linear_gradients::{ROWS, WeightSums, fuses, rows_and_tasks, total};
use crate::parallel;
use crate::rows::AddRow;
use crate::simd::level;

/// Rows that go through both maps of the forward pass at once.
const BLOCK: usize = 32;
/// Rows of one of its tasks, where there are enough for several tasks a thread.
const TASK: usize = 128;

/// Inputs of the feed-forward block: `x [m, k]`, `w1 [2 d, k]`, `b1 [2 d]`, `w2 [k, d]`, `b2 [k]`.
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

/// Whether [`feed_forward`] serves `m` rows of `k` values and an inner width of `d`: whole tiles of
/// a size that fits the caches, and in bf16 enough rows.
#[must_use]
pub fn fuses_feed_forward([m, k, d]: [usize; 3]) -> bool {
    fuses(m, &[[k, 2 * d], [d, k]])
}

fn check(shape: [usize; 3]) {
    assert!(fuses_feed_forward(shape), "{shape:?} is not fused: ask `fuses_feed_forward` first");
}

/// The output `[m, k]`, and, if matmuls are in bf16 and it is to be kept for the backward pass,
/// `[m, d]` words that hold a value and its gate as bf16.
///
/// # Panics
/// Where [`fuses_feed_forward`] says no.
#[must_use]
pub fn feed_forward(
    f: &FeedForward<'_>,
    [m, k, d]: [usize; 3],
    keep: bool,
) -> (Vec<f32>, Option<Vec<f32>>) {
    check([m, k, d]);
    let level = level();
    let format = Format::active(level);
    let (keep, n) = (format.pairs().filter(|_| keep), 2 * d);
    assert!(f.x.len() == m * k && f.norm.weight.len() == k, "x and norm");
    assert!(f.w1.len() == n * k && f.b1.len() == n, "w1 and b1");
    assert!(f.w2.len() == k * d && f.b2.len() == k, "w2 and b2");
    let (mut out, mut kept) =
        (Output::new(m * k), Output::new(if keep.is_some() { m * d } else { 0 }));
    let (to, to_kept) = (out.ptr(), kept.ptr());
    let ([first, room], [second, more]) =
        (format.rows_turned_len([n, k], n), format.rows_turned_len([k, d], k));
    let lengths = [first, second, room.max(more)];
    scratch(lengths.iter().sum(), |shared| {
        let [first, second, room] = split(shared, lengths);
        // SAFETY: w1 holds n rows of k, w2 k rows of d.
        let (first, second) = unsafe {
            let multiplier = Multiplier::new(format);
            (
                multiplier.rows_turned(f.w1.as_ptr(), k, [n, k], n, room, first),
                multiplier.rows_turned(f.w2.as_ptr(), d, [k, d], k, room, second),
            )
        };
        let each = if m < 8 * TASK { BLOCK } else { TASK };
        parallel::for_each(m.div_ceil(each), 6 * m * k * d, |task| {
            let multiplier = Multiplier::new(format);
            let lengths = [
                BLOCK * k,
                2 * BLOCK,
                format.rows_len([BLOCK, k]),
                BLOCK * n,
                BLOCK * d,
                format.rows_len([BLOCK, d]),
            ];
            scratch(lengths.iter().sum(), |buffer| {
                let [normed, stats, a, h, y, b] = split(buffer, lengths);
                let last = ((task + 1) * each).min(m);
                for r0 in (task * each..last).step_by(BLOCK) {
                    let rows = (last - r0).min(BLOCK);
                    let x = &f.x[r0 * k..][..rows * k];
                    f.norm.rows(level, x, &mut normed[..rows * k], stats);
                    // SAFETY: the buffers hold `rows` rows of k and of n.
                    unsafe {
                        let a = multiplier.rows(normed.as_ptr(), k, [rows, k], a);
                        let shape = [rows, format.depth(k), n];
                        multiplier.product(shape, a, first, h.as_mut_ptr(), Init::Zero);
                    }
                    // The bias is added here: on tiles, sums that start from it would have to be
                    // written and read back first.
                    for (r, (row, y)) in
                        h.chunks_exact_mut(n).zip(y.chunks_exact_mut(d)).take(rows).enumerate()
                    {
                        let own = row.as_mut_ptr();
                        let (bias, kept) = (Some(f.b1), keep.map(|_| Shared::new(own)));
                        let (x, y) = (own.cast_const(), Shared::new(y.as_mut_ptr()));
                        level.run(GegluRow { x, d, bias, kept, y });
                        if let Some(pairs) = keep {
                            let at = to_kept.at((r0 + r) * d);
                            // SAFETY: values and gates are two rows of d; this task alone writes
                            // this row's words.
                            unsafe { pairs.columns(row.as_ptr(), d, 2, d, at, d, 0) };
                        }
                    }
                    let to = to.at(r0 * k);
                    // SAFETY: y holds `rows` rows of d; these rows of the output are this task's
                    // own.
                    unsafe {
                        let b = multiplier.rows(y.as_ptr(), d, [rows, d], b);
                        let start = Init::ColumnsAnd(f.b2.as_ptr(), x.as_ptr());
                        multiplier.product([rows, format.depth(d), k], b, second, to, start);
                    }
                }
            });
        });
    });
    // SAFETY: the tasks cover all rows.
    unsafe { (out.finish(), keep.map(|_| kept.finish())) }
}

/// Gradients of [`feed_forward`] with respect to `x`, the norm's weight and bias and, where
/// `weights` are wanted, `w1`, `b1`, `w2` and
/// `b2`. Takes `dy [m, k]` and the words that the forward pass kept, if it did; `b2` is not read,
/// nor is `b1` where there are words.
///
/// # Panics
/// Where [`fuses_feed_forward`] says no.
#[must_use]
pub fn feed_forward_backward(
    f: &FeedForward<'_>,
    kept: Option<&[f32]>,
    dy: &[f32],
    [m, k, d]: [usize; 3],
    weights: bool,
) -> [Option<Vec<f32>>; 7] {
    check([m, k, d]);
    let level = level();
    let (format, n) = (Format::active(level), 2 * d);
    let kept = format.pairs().map(|pairs| (pairs, kept.expect("words")));
    assert!(f.x.len() == m * k && dy.len() == m * k, "x and dy");
    assert!(kept.is_none_or(|(_, kept)| kept.len() == m * d), "words");
    assert!(f.w1.len() == n * k && f.b1.len() == n && f.w2.len() == k * d, "w1, b1 and w2");
    let (maps, [each, tasks]) = ([[k, n], [d, k]], rows_and_tasks(m));
    let mut dx = Output::new(m * k);
    let to_x = dx.ptr();
    let sums = maps.map(|map| if weights { tasks * WeightSums::len(map) } else { 0 });
    let again = if kept.is_none() { format.rows_turned_len([n, k], n) } else { [0; 2] };
    let lengths = [
        format.columns_len(k, d),
        format.columns_len(n, k),
        again[0],
        again[1],
        tasks * 2 * k,
        sums[0],
        sums[1],
    ];
    scratch(lengths.iter().sum(), |shared| {
        let [back, front, again, room, norms, first, second] = split(shared, lengths);
        // SAFETY: w2 holds k rows of d, w1 n rows of k.
        let (back, front, again) = unsafe {
            let multiplier = Multiplier::new(format);
            (
                multiplier.columns(f.w2.as_ptr(), d, [k, d], d, back),
                multiplier.columns(f.w1.as_ptr(), k, [n, k], k, front),
                kept.is_none()
                    .then(|| multiplier.rows_turned(f.w1.as_ptr(), k, [n, k], n, room, again)),
            )
        };
        let all = [Shared::new(first.as_mut_ptr()), Shared::new(second.as_mut_ptr())];
        let norms_at = Shared::new(norms.as_mut_ptr());
        parallel::for_each(tasks, 12 * m * k * d, |task| {
            let multiplier = Multiplier::new(format);
            // SAFETY: the buffers hold the sums of all tasks.
            let mut sums = weights
                .then(|| unsafe { [0, 1].map(|i| WeightSums::of(all[i], task, tasks, maps[i])) });
            // SAFETY: each task has 2 k values of the buffer to itself.
            let of_norm =
                unsafe { std::slice::from_raw_parts_mut(norms_at.at(task * 2 * k), 2 * k) };
            of_norm.fill(0.0);
            let room = maps.map(|map| WeightSums::room(format, map));
            let lengths = [
                ROWS * k,
                2 * ROWS,
                ROWS * k,
                format.rows_len([ROWS, k]),
                ROWS * d,
                if again.is_some() { ROWS * n } else { n },
                ROWS * d,
                ROWS * n,
                format.rows_len([ROWS, n]),
                room[0].max(room[1]),
            ];
            scratch(lengths.iter().sum(), |buffer| {
                let [normed, stats, dnormed, upper, dh, h, y, slopes, words, room] =
                    split(buffer, lengths);
                let last = ((task + 1) * each).min(m);
                for r0 in (task * each..last).step_by(ROWS) {
                    let rows = (last - r0).min(ROWS);
                    let (x, dy) = (&f.x[r0 * k..][..rows * k], &dy[r0 * k..][..rows * k]);
                    let (normed, dnormed) = (&mut normed[..rows * k], &mut dnormed[..rows * k]);
                    f.norm.rows(level, x, normed, stats);
                    let depth = format.depth(k);
                    // SAFETY: dy and the normalised input hold `rows` rows of k, dh as many of d
                    // and h of n.
                    unsafe {
                        let upper = multiplier.rows(dy.as_ptr(), k, [rows, k], upper);
                        let dh = dh.as_mut_ptr();
                        multiplier.product([rows, depth, d], upper, back, dh, Init::Zero);
                        if let Some(again) = again {
                            let a = multiplier.rows(normed.as_ptr(), k, [rows, k], &mut []);
                            let (to, init) = (h.as_mut_ptr(), Init::Columns(f.b1.as_ptr()));
                            multiplier.product([rows, depth, n], a, again, to, init);
                        }
                    }
                    let (y, slopes) = (&mut y[..rows * d], &mut slopes[..rows * n]);
                    for (r, (y, slope)) in
                        y.chunks_exact_mut(d).zip(slopes.chunks_exact_mut(n)).enumerate()
                    {
                        let (value, gate) = match kept {
                            Some((pairs, kept)) => {
                                let (values, gates) = h.split_at_mut(d);
                                pairs.split(&kept[(r0 + r) * d..][..d], values, gates);
                                (&*values, &*gates)
                            }
                            None => h[r * n..][..n].split_at(d),
                        };
                        level.run(GegluRowBackward {
                            value,
                            gate,
                            dy: &dh[r * d..][..d],
                            y: Some(Shared::new(y.as_mut_ptr())),
                            dx: Shared::new(slope.as_mut_ptr()),
                        });
                    }
                    // SAFETY: the buffers hold `rows` rows; rows r0.. of dx are this task's own.
                    unsafe {
                        let slopes = multiplier.rows(slopes.as_ptr(), n, [rows, n], words);
                        let (shape, to) = ([rows, format.depth(n), k], dnormed.as_mut_ptr());
                        multiplier.product(shape, slopes, front, to, Init::Zero);
                        let dx = std::slice::from_raw_parts_mut(to_x.at(r0 * k), rows * k);
                        f.norm.rows_backward(level, x, dnormed, stats, dx, of_norm);
                        level.run(AddRow::new(dx.as_mut_ptr(), dy));
                    }
                    if let Some([first, second]) = &mut sums {
                        first.add(level, &multiplier, normed, slopes, room);
                        second.add(level, &multiplier, y, dy, room);
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
        let [dw1, db1] = WeightSums::total(format, first, tasks, maps[0]).map(Some);
        let [dw2, db2] = WeightSums::total(format, second, tasks, maps[1]).map(Some);
        [dx, dw, db, dw1, db1, dw2, db2]
    })
}
