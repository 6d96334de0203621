//! Gradient with respect to the weight.
//!
//! Tiles of the input and of the output gradient are transformed, a chunk of the batch at a time;
//! one product a point adds up over the tiles, and the sums are transformed back to 3 by 3 weights.

use super::stage::input_tiles;
use super::transform::{IN, OUT, POINTS, TileRow, Tiles, Weights};
use super::{Grid, spaced};
use crate::buffer::{Output, Shared, scratch};
use crate::conv::shape::ConvShape;
use crate::gemm::Block;
use crate::gemm::block::panel_vectors;
use crate::gemm::micro::MR;
use crate::gemm::pack::Transpose;
use crate::parallel;
use crate::simd::Level;

/// Transformed values of one chunk, which stay in the caches.
const VALUES: usize = 1 << 19;
/// Least tiles of a chunk: below, the sums would be read and written too often.
const LEAST_TILES: usize = 64;
/// Tiles of a chunk at most: the sums are longest chains of additions.
const MOST_TILES: usize = 512;
/// Tasks wanted, and bounds of the input channels of one.
const TASKS: usize = 8;
const LEAST: usize = 16;
const MOST: usize = 32;

/// See [`conv2d_backward_weight`](crate::conv2d_backward_weight).
pub(in crate::conv) fn weight_gradient(
    level: Level,
    x: &[f32],
    dy: &[f32],
    s: &ConvShape,
) -> Vec<f32> {
    let (ci, co) = (s.in_channels, s.out_channels);
    let grid = Grid::new(s.batch, s.out_height(), s.out_width());
    if grid.all == 0 {
        return vec![0.0; s.weight_len()];
    }
    let tiles = (VALUES / (POINTS * (ci + co))).clamp(LEAST_TILES, MOST_TILES);
    let chunk = (tiles / grid.columns).clamp(1, grid.all);
    let tiles = chunk * grid.columns;
    let (v_point, t_point) = (spaced(tiles * ci), spaced(tiles * co));
    let mut dw = Output::new(s.weight_len());
    let to = dw.ptr();
    scratch(POINTS * (v_point + t_point), |buffer| {
        let (v, t) = buffer.split_at_mut(POINTS * v_point);
        let (v, t) = (Shared::new(v.as_mut_ptr()), Shared::new(t.as_mut_ptr()));
        for first in (0..grid.all).step_by(chunk) {
            let end = (first + chunk).min(grid.all);
            let each = (end - first).div_ceil(8);
            parallel::for_each((end - first).div_ceil(each), s.flops() / 4, |task| {
                let from = first + task * each;
                let until = (from + each).min(end);
                let at = (from - first) * grid.columns;
                let (v, t) = (v.at(at * ci), t.at(at * co));
                // SAFETY: each task writes the points of its own tiles.
                unsafe {
                    transform(level, x, dy, s, grid, (from, until), (v, v_point), (t, t_point));
                }
            });
            let tiles = (end - first) * grid.columns;
            let chunk = Chunk { level, v, t, v_point, t_point, tiles, ci, co, first: first == 0 };
            // SAFETY: the points hold the tiles of the chunk, and dw the sums of earlier chunks.
            unsafe { chunk.add_to(to) };
        }
    });
    // SAFETY: every chunk adds to all weights.
    unsafe { dw.finish() }
}

/// Transforms sums of `[channels, columns]` a point back to `taps [channels * 9, columns]`.
///
/// # Safety
/// `sums` is readable at points `stride` apart; the taps have room.
unsafe fn back(
    level: Level,
    sums: *mut f32,
    stride: usize,
    channels: usize,
    columns: usize,
    taps: &mut [f32],
) {
    for (c, taps) in taps.chunks_exact_mut(9 * columns).enumerate().take(channels) {
        let weights = Weights {
            taps: taps.as_mut_ptr(),
            n: columns,
            row: columns as isize,
            points: sums.wrapping_add(c * columns),
            stride,
            back: true,
        };
        // SAFETY: nine rows of values; the caller vouches for the sums.
        unsafe { level.run(weights.ready()) };
    }
}

/// The transformed tiles of both operands of a chunk.
#[derive(Clone, Copy)]
struct Chunk {
    level: Level,
    v: Shared,
    t: Shared,
    v_point: usize,
    t_point: usize,
    tiles: usize,
    ci: usize,
    co: usize,
    first: bool,
}

impl Chunk {
    /// Multiplies, a task a block of weights, whose sums are transformed back and added to `dw [co,
    /// ci * 9]`.
    ///
    /// # Safety
    /// The points hold the tiles; `dw` is writable and, but for the first chunk, holds values.
    unsafe fn add_to(self, dw: Shared) {
        let Self { level, v, t, tiles, ci, co, .. } = self;
        let width = panel_vectors(co, level.lanes()) * level.lanes();
        let panels = co.div_ceil(width);
        let block = (ci * panels / TASKS).next_multiple_of(MR).clamp(LEAST, MOST);
        let flops = 2 * POINTS * tiles * ci * co;
        parallel::for_each(panels * ci.div_ceil(block), flops, |task| {
            let (o, c0) = (task % panels * width, task / panels * block);
            let (columns, channels) = ((co - o).min(width), (ci - c0).min(block));
            let stride = spaced(channels * columns);
            let taps_len = channels * 9 * columns;
            scratch(POINTS * stride + 2 * taps_len, |buffer| {
                let (sums, rest) = buffer.split_at_mut(POINTS * stride);
                let (taps, turned) = rest.split_at_mut(taps_len);
                for p in 0..POINTS {
                    let mut g = Block::<true, false>::new(channels, columns, tiles);
                    (g.a, g.a_step) = (v.at(p * self.v_point + c0), ci);
                    (g.b, g.ldb) = (t.at(p * self.t_point + o), co);
                    (g.c, g.ldc) = (sums[p * stride..].as_mut_ptr(), columns);
                    // SAFETY: the caller vouches for the points; the sums have room for the block.
                    unsafe { level.run(g.ready()) };
                }
                let (n, row) = (channels * 9, ci * 9);
                // SAFETY: the products filled the sums; the taps are [n, columns].
                unsafe {
                    back(level, sums.as_mut_ptr(), stride, channels, columns, taps);
                    let to = turned.as_mut_ptr();
                    level.run(Transpose::new(taps.as_ptr(), columns, n, columns, to, n, 0));
                }
                for (c, from) in turned.chunks_exact(n).enumerate() {
                    let to = dw.at((o + c) * row + c0 * 9);
                    // SAFETY: this task owns these weights of output channel o + c, which hold
                    // values if not `first`.
                    unsafe {
                        if self.first {
                            std::ptr::copy_nonoverlapping(from.as_ptr(), to, n);
                        } else {
                            let to = std::slice::from_raw_parts_mut(to, n);
                            to.iter_mut().zip(from).for_each(|(to, &v)| *to += v);
                        }
                    }
                }
            });
        });
    }
}

/// Transforms the tiles of both operands in the rows `from..until`.
///
/// # Safety
/// The points of those tiles are writable at both places, `.1` being the distance between points.
#[allow(clippy::too_many_arguments)]
unsafe fn transform(
    level: Level,
    x: &[f32],
    dy: &[f32],
    s: &ConvShape,
    grid: Grid,
    (from, until): (usize, usize),
    v: (*mut f32, usize),
    t: (*mut f32, usize),
) {
    let (ci, co) = (s.in_channels, s.out_channels);
    let (out_height, out_width) = (s.out_height(), s.out_width());
    let rows = (until - from).min(grid.rows) * OUT + IN - OUT;
    let staged = (rows.min(s.height) * s.width * ci)
        .max(rows.min(out_height) * out_width * co)
        .next_multiple_of(16);
    let outside = ci.max(co);
    scratch(staged + outside, |buffer| {
        let (stage, outside) = buffer.split_at_mut(staged);
        outside.fill(0.0);
        for (image, first, end) in grid.images(from, until) {
            let at = (image * grid.rows + first - from) * grid.columns;
            let row = TileRow {
                image: stage.as_mut_ptr(),
                shape: [s.height, s.width, ci],
                top: (first * OUT) as isize - s.padding[0] as isize,
                left: -(s.padding[2] as isize),
                tiles: grid.columns,
                outside: outside.as_mut_ptr(),
                points: v.0.wrapping_add(at * ci),
                stride: v.1,
            };
            let gradient = TileRow {
                shape: [out_height, out_width, co],
                top: (first * OUT) as isize,
                left: 0,
                points: t.0.wrapping_add(at * co),
                stride: t.1,
                ..row
            };
            let x = x[image * ci * s.height * s.width..].as_ptr();
            let dy = dy[image * co * out_height * out_width..].as_ptr();
            // SAFETY: both hold the image; the stage has room for the pixel rows that either reads;
            // the caller vouches for the points.
            unsafe {
                input_tiles(level, x, None, end - first, row, Tiles::Input);
                input_tiles(level, dy, None, end - first, gradient, Tiles::OutputGradient);
            }
        }
    });
}
