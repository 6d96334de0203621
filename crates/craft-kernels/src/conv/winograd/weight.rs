//! Gradient with respect to the weight.
//!
//! Tiles of the input and of the output gradient are transformed, a chunk of the batch at a time; one product a point
//! adds up over the tiles, and the sums are transformed to 3 by 3 weights at the end.

use super::correlate::input_tiles;
use super::transform::{IN, OUT, POINTS, TileRow, Tiles, Weights};
use super::{Grid, spaced};
use crate::buffer::{Output, Shared, scratch};
use crate::conv::shape::ConvShape;
use crate::gemm::pack::Transpose;
use crate::gemm::{Block, Init};
use crate::parallel;
use crate::simd::Level;

/// Transformed values of one chunk, which stay in the third-level cache.
const VALUES: usize = 1 << 20;
/// Least tiles of a chunk: below, the sums would be read and written too often.
const LEAST_TILES: usize = 64;
/// Tiles of a chunk at most, which is the length of a chain of sums.
const MOST_TILES: usize = 512;
/// Input channels of one product.
const BLOCK: usize = 64;

/// See [`conv2d_backward_weight`](crate::conv2d_backward_weight).
pub(in crate::conv) fn weight_gradient(
    level: Level,
    x: &[f32],
    dy: &[f32],
    s: &ConvShape,
) -> Vec<f32> {
    let (ci, co) = (s.in_channels, s.out_channels);
    let grid = Grid::new(s.batch, s.out_height(), s.out_width());
    let tiles = (VALUES / (POINTS * (ci + co))).clamp(LEAST_TILES, MOST_TILES);
    let chunk = (tiles / grid.columns).clamp(1, grid.all);
    let tiles = chunk * grid.columns;
    let (v_point, t_point, sum_point) = (spaced(tiles * ci), spaced(tiles * co), spaced(ci * co));
    let mut dw = Output::new(s.weight_len());
    let to = dw.ptr();
    let sizes = [v_point, t_point, sum_point].map(|point| POINTS * point);
    scratch(sizes.iter().sum(), |buffer| {
        let (v, rest) = buffer.split_at_mut(sizes[0]);
        let (t, sums) = rest.split_at_mut(sizes[1]);
        let shared = [&mut *v, &mut *t, &mut *sums].map(|part| Shared::new(part.as_mut_ptr()));
        let [v, t, sums] = shared;
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
            let blocks = ci.div_ceil(BLOCK);
            let flops = 2 * POINTS * tiles * ci * co;
            parallel::for_each(POINTS * blocks, flops, |task| {
                let (p, c0) = (task / blocks, task % blocks * BLOCK);
                let mut g = Block::<true, false>::new((ci - c0).min(BLOCK), co, tiles);
                (g.a, g.a_step) = (v.at(p * v_point + c0), ci);
                (g.b, g.ldb) = (t.at(p * t_point), co);
                (g.c, g.ldc) = (sums.at(p * sum_point + c0 * co), co);
                g.init = if first == 0 { Init::Zero } else { Init::Load };
                // SAFETY: point p holds the tiles of the chunk; the task adds to its own rows of the sums.
                unsafe { level.run(g.ready()) };
            });
        }
        parallel::for_each(ci.div_ceil(8), 16 * s.weight_len(), |task| {
            let (c0, channels) = (task * 8, (ci - task * 8).min(8));
            scratch(channels * 9 * co, |taps| {
                for c in 0..channels {
                    let weights = Weights {
                        taps: taps[c * 9 * co..].as_mut_ptr(),
                        n: co,
                        row: co,
                        points: sums.at((c0 + c) * co),
                        stride: sum_point,
                        back: true,
                    };
                    // SAFETY: nine rows of co values; the products filled the sums.
                    unsafe { level.run(weights.ready()) };
                }
                // SAFETY: the taps are [channels * 9, co]; this task owns those columns of dw [co, ci * 9].
                unsafe {
                    let (from, to) = (taps.as_ptr(), to.at(c0 * 9));
                    level.run(Transpose::new(from, co, channels * 9, co, to, ci * 9, 0));
                }
            });
        });
    });
    // SAFETY: the last loop covers all input channels.
    unsafe { dw.finish() }
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
            // SAFETY: both hold the image; the stage has room for the pixel rows that either reads; the caller vouches
            // for the points.
            unsafe {
                input_tiles(level, x, end - first, row, Tiles::Input);
                input_tiles(level, dy, end - first, gradient, Tiles::OutputGradient);
            }
        }
    });
}
