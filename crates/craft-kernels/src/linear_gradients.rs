//! All gradients of a linear map, in one pass over the gradient of its output.

use crate::buffer::{Output, Shared, scratch, split};
use crate::gemm::Init;
use crate::gemm::operands::{Format, Multiplier};
use crate::linear::{linear_backward_bias, linear_backward_input, linear_backward_weight};
use crate::parallel;
use crate::simd::amx::TILE;
use crate::simd::map::for_vectors;
use crate::simd::{Kernel, Level, Simd, level};

/// Rows whose gradients stay in the caches while they are packed twice and summed.
pub(crate) const ROWS: usize = 128;
/// Most tasks, each of which sums the weight's gradient over rows of its own.
const TASKS: usize = 16;
/// Fewest rows of one task.
const LEAST: usize = 256;
/// Values of the largest weight whose gradient is summed so.
const LARGEST: usize = 1 << 17;

/// Gradients of [`linear`](crate::linear) with respect to `x [m, k]`, `w [n, k]` and the bias
/// `[n]`, each if it is wanted.
#[must_use]
pub fn linear_gradients(
    x: &[f32],
    w: &[f32],
    dy: &[f32],
    [m, k, n]: [usize; 3],
    wants: [bool; 3],
) -> [Option<Vec<f32>>; 3] {
    let level = level();
    if suits([m, k, n]) && wants[0] && wants[1] {
        let [dx, dw, db] = in_one_pass(level, x, w, dy, [m, k, n]);
        return [Some(dx), Some(dw), wants[2].then_some(db)];
    }
    [
        wants[0].then(|| linear_backward_input(dy, w, m, k, n)),
        wants[1].then(|| linear_backward_weight(x, dy, m, k, n)),
        wants[2].then(|| linear_backward_bias(dy, m, n)),
    ]
}

/// Whether a map of `m` rows of `k` values to `n` is one whose gradients are taken in one pass.
fn suits([m, k, n]: [usize; 3]) -> bool {
    enough(m) && fits([k, n])
}

/// Whether a part of a block whose maps are such as these is one operation. In `f32` that does not
/// depend on the rows, so that no batch changes a result; in bf16 they are enough, and whole tiles.
pub(crate) fn fuses(m: usize, maps: &[[usize; 2]]) -> bool {
    let narrow = Format::active(level()).pairs().is_some();
    m > 0 && maps.iter().all(|&map| fits(map)) && (!narrow || enough(m))
}

/// Enough rows for all threads, in whole tiles.
fn enough(m: usize) -> bool {
    m.is_multiple_of(TILE) && m >= 2 * LEAST
}

/// Whether a weight has whole tiles and stays in the caches.
fn fits([k, n]: [usize; 2]) -> bool {
    k.is_multiple_of(TILE) && n.is_multiple_of(TILE) && (1..=LARGEST).contains(&(n * k))
}

/// Rows of one task, and the number of tasks: depends on `m` only.
pub(crate) fn rows_and_tasks(m: usize) -> [usize; 2] {
    let each = m.div_ceil((m / LEAST).clamp(1, TASKS)).next_multiple_of(TILE);
    [each, m.div_ceil(each)]
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

/// Gradients of the weight and the bias of one linear map, summed over the rows of one task.
pub(crate) struct WeightSums<'a> {
    k: usize,
    n: usize,
    /// `[n, k]`, or `[k, n]` where [`turned`](Self::turned).
    weight: &'a mut [f32],
    bias: &'a mut [f32],
    started: bool,
}

impl<'a> WeightSums<'a> {
    /// Whether the weight's gradient is summed transposed: done if that transposes the smaller
    /// operand, which in `f32` stays as it is.
    fn turned(format: Format, [k, n]: [usize; 2]) -> bool {
        format.pairs().is_some() && k < n
    }

    /// Values of the sums of one map with `k` inputs and `n` outputs.
    pub(crate) fn len([k, n]: [usize; 2]) -> usize {
        n * k + n
    }

    /// Values of the room that [`add`](Self::add) asks for.
    pub(crate) fn room(format: Format, [k, n]: [usize; 2]) -> usize {
        format.columns_len(ROWS, k + n + k.min(n))
    }

    /// Sums in the `task`th part of a buffer that holds those of all `tasks`: first their weights,
    /// then their biases.
    ///
    /// # Safety
    /// `all` is writable for [`len`](Self::len) values a task, and no one else has this task's.
    pub(crate) unsafe fn of(all: Shared, task: usize, tasks: usize, [k, n]: [usize; 2]) -> Self {
        // SAFETY: the parts are inside the buffer and this task's own.
        let (weight, bias) = unsafe {
            (
                std::slice::from_raw_parts_mut(all.at(task * n * k), n * k),
                std::slice::from_raw_parts_mut(all.at(tasks * n * k + task * n), n),
            )
        };
        bias.fill(0.0);
        Self { k, n, weight, bias, started: false }
    }

    /// Adds what rows of the map's input and of its output's gradient contribute.
    pub(crate) fn add(
        &mut self,
        level: Level,
        multiplier: &Multiplier,
        x: &[f32],
        dy: &[f32],
        room: &mut [f32],
    ) {
        let Self { k, n, .. } = *self;
        assert!(dy.len() / n * n == dy.len() && x.len() / k * n == dy.len(), "rows of x and dy");
        for (x, dy) in x.chunks(ROWS * k).zip(dy.chunks(ROWS * n)) {
            self.add_few(level, multiplier, x, dy, room);
        }
    }

    /// The same of at most [`ROWS`] rows.
    fn add_few(
        &mut self,
        level: Level,
        multiplier: &Multiplier,
        x: &[f32],
        dy: &[f32],
        room: &mut [f32],
    ) {
        let Self { k, n, .. } = *self;
        let (format, rows) = (multiplier.format(), dy.len() / n);
        let ((a, left), (b, right)) =
            if Self::turned(format, [k, n]) { ((x, k), (dy, n)) } else { ((dy, n), (x, k)) };
        let [room, turned, packed] =
            split(room, [left, left, right].map(|width| format.columns_len(ROWS, width)));
        // SAFETY: the slices hold `rows` rows, the buffers as many words, and the sum [left,
        // right].
        unsafe {
            let (a, shape) = (a.as_ptr(), [rows, left]);
            let a = multiplier.columns_turned(a, left, shape, left, room, turned);
            let b = multiplier.columns(b.as_ptr(), right, [rows, right], right, packed);
            let (shape, to) = ([left, format.depth(rows), right], self.weight.as_mut_ptr());
            multiplier.product(shape, a, b, to, Init::load_if(self.started));
        }
        level.run(AddColumns { x: dy, to: &mut *self.bias });
        self.started = true;
    }

    /// The gradients: the sums of all tasks, in order.
    pub(crate) fn total(
        format: Format,
        all: &[f32],
        tasks: usize,
        [k, n]: [usize; 2],
    ) -> [Vec<f32>; 2] {
        let (weights, biases) = all.split_at(tasks * n * k);
        let dw = total(weights, tasks);
        let dw = if Self::turned(format, [k, n]) { crate::transpose(&dw, 1, k, n) } else { dw };
        [dw, total(biases, tasks)]
    }
}

/// dx, dw, db. Tasks sum over rows of their own, then those sums are added.
fn in_one_pass(
    level: Level,
    x: &[f32],
    w: &[f32],
    dy: &[f32],
    [m, k, n]: [usize; 3],
) -> [Vec<f32>; 3] {
    assert!(x.len() == m * k && w.len() == n * k && dy.len() == m * n, "x, w and dy");
    let (format, [each, tasks]) = (Format::active(level), rows_and_tasks(m));
    let mut dx = Output::new(m * k);
    let to_x = dx.ptr();
    let lengths = [format.columns_len(n, k), tasks * WeightSums::len([k, n])];
    scratch(lengths.iter().sum(), |shared| {
        let [packed, sums] = split(shared, lengths);
        // SAFETY: w holds n rows of k.
        let w = unsafe { Multiplier::new(format).columns(w.as_ptr(), k, [n, k], k, packed) };
        let all = Shared::new(sums.as_mut_ptr());
        parallel::for_each(tasks, 4 * m * k * n, |task| {
            let multiplier = Multiplier::new(format);
            // SAFETY: the buffer holds the sums of all tasks.
            let mut sums = unsafe { WeightSums::of(all, task, tasks, [k, n]) };
            let lengths = [format.rows_len([ROWS, n]), WeightSums::room(format, [k, n])];
            scratch(lengths.iter().sum(), |buffer| {
                let [rows_of, room] = split(buffer, lengths);
                let last = ((task + 1) * each).min(m);
                for r0 in (task * each..last).step_by(ROWS) {
                    let rows = (last - r0).min(ROWS);
                    let (x, dy) = (&x[r0 * k..][..rows * k], &dy[r0 * n..][..rows * n]);
                    // SAFETY: the buffer holds ROWS rows; rows r0.. of dx are this task's own.
                    unsafe {
                        let a = multiplier.rows(dy.as_ptr(), n, [rows, n], rows_of);
                        let (shape, to) = ([rows, format.depth(n), k], to_x.at(r0 * k));
                        multiplier.product(shape, a, w, to, Init::Zero);
                    }
                    sums.add(level, &multiplier, x, dy, room);
                }
            });
        });
        let [dw, db] = WeightSums::total(format, sums, tasks, [k, n]);
        // SAFETY: the tasks cover all rows of dx.
        [unsafe { dx.finish() }, dw, db]
    })
}

/// The sum of `tasks` parts that follow each other, in order.
pub(crate) fn total(parts: &[f32], tasks: usize) -> Vec<f32> {
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
