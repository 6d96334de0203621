//! The forward pass and the input gradient.
//!
//! Where the transformed weights stay in the cache, each task takes some tiles through all steps. Where they would not,
//! the tiles are transformed first; then each task takes a panel of output channels and transforms its weights block by
//! block, so that they are never written to memory. Either way an element of a product is one sum over the input channels
//! in ascending order.

use super::transform::{IN, OUT, POINTS, TileRow, Tiles, Weights};
use super::{Grid, spaced};
use crate::buffer::{Shared, scratch};
use crate::gemm::block::panel_vectors;
use crate::gemm::pack::Transpose;
use crate::gemm::{Block, Init};
use crate::parallel;
use crate::simd::Level;

/// Transformed values of one task that stay in the second-level cache.
const VALUES: usize = 192 << 10;
/// Tiles below which reading the transformed weights would cost more than the products.
const LEAST_TILES: usize = 48;
/// Transformed weights that stay in the caches.
const WEIGHTS: usize = 3900 << 10;
/// For panels: transformed inputs at a time, tiles at a time, and input channels of a block of weights.
const INPUTS: usize = 3 << 20;
const TILES: usize = 96;
const BLOCK: usize = 32;

/// A correlation of `[batch, inputs, height, width]` to `[batch, outputs, out_height, out_width]`, stride 1.
pub(in crate::conv) struct Correlation<'a> {
    pub batch: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub height: usize,
    pub width: usize,
    pub out_height: usize,
    pub out_width: usize,
    /// Padding at the top and on the left.
    pub top: usize,
    pub left: usize,
    /// `[outputs, inputs, 3, 3]`, or `[inputs, outputs, 3, 3]` to be turned around and `flipped`.
    pub w: &'a [f32],
    pub flipped: bool,
    pub bias: Option<&'a [f32]>,
}

/// Points of the tiles in the rows `first..end` of a [`Grid`], `stride` apart.
#[derive(Clone, Copy)]
struct Points {
    at: Shared,
    stride: usize,
    first: usize,
    end: usize,
}

impl Correlation<'_> {
    /// # Safety
    /// `y` is writable for `batch * outputs * out_height * out_width` values, and `x`, `w`, `bias` have their lengths.
    pub(in crate::conv) unsafe fn run(&self, level: Level, x: &[f32], y: Shared) {
        let (ci, co) = (self.inputs, self.outputs);
        let grid = Grid::new(self.batch, self.out_height, self.out_width);
        if grid.all == 0 {
            return;
        }
        let width = panel_vectors(co, level.lanes()) * level.lanes();
        let flops = 2 * grid.all * grid.columns * POINTS * ci * co;
        // SAFETY: the tasks write different parts of `y`, for which the caller vouches.
        unsafe {
            if POINTS * ci * co > WEIGHTS {
                let tiles = (INPUTS / (POINTS * ci)).clamp(LEAST_TILES, TILES);
                let each = grid.rows_each(tiles);
                for first in (0..grid.all).step_by(each) {
                    let end = (first + each).min(grid.all);
                    self.by_panels(level, x, y, grid, (first, end), width);
                }
            } else {
                let tiles = (VALUES / (POINTS * (ci + co))).max(LEAST_TILES);
                let each = grid.rows_each(tiles);
                let panels = co.div_ceil(width);
                let stride = spaced(panels * ci * width);
                scratch(POINTS * stride, |u| {
                    let to = Shared::new(u.as_mut_ptr());
                    parallel::for_each(ci.div_ceil(8), 16 * 9 * ci * co, |task| {
                        let channels = (task * 8, (ci - task * 8).min(8));
                        for panel in 0..panels {
                            let to = to.at((panel * ci + task * 8) * width);
                            self.weights(level, channels, panel, width, to, stride);
                        }
                    });
                    parallel::for_each(grid.all.div_ceil(each), flops, |task| {
                        let (first, end) = (task * each, ((task + 1) * each).min(grid.all));
                        self.by_tiles(level, x, y, grid, (first, end), width, (&*u, stride));
                    });
                });
            }
        }
    }

    /// All steps for the tiles of some rows; `u` holds the transformed weights, panels of `width` columns.
    ///
    /// # Safety
    /// As [`Correlation::run`].
    #[allow(clippy::too_many_arguments)]
    unsafe fn by_tiles(
        &self,
        level: Level,
        x: &[f32],
        y: Shared,
        grid: Grid,
        (first, end): (usize, usize),
        width: usize,
        (u, stride): (&[f32], usize),
    ) {
        let (ci, co) = (self.inputs, self.outputs);
        let tiles = (end - first) * grid.columns;
        let (v_stride, m_stride) = (spaced(tiles * ci), spaced(tiles * co));
        scratch(POINTS * (v_stride + m_stride), |buffer| {
            let (v, m) = buffer.split_at_mut(POINTS * v_stride);
            let v = Points { at: Shared::new(v.as_mut_ptr()), stride: v_stride, first, end };
            let m = Points { at: Shared::new(m.as_mut_ptr()), stride: m_stride, first, end };
            // SAFETY: the points have room for the tiles; point p of v holds tiles * ci values, of m tiles * co, of u
            // panels of ci rows.
            unsafe {
                self.transform_inputs(level, x, grid, (first, end), v);
                for p in 0..POINTS {
                    let mut g = Block::<false, false>::new(tiles, co, ci);
                    (g.a, g.a_step) = (v.at.at(p * v_stride), ci);
                    (g.b, g.ldb, g.b_panel, g.b_padded) =
                        (u[p * stride..].as_ptr(), width, ci * width, true);
                    (g.c, g.ldc) = (m.at.at(p * m_stride), co);
                    level.run(g.ready());
                }
                self.transform_outputs(level, y, grid, m, (0, co));
            }
        });
    }

    /// The same, panel by panel of `width` output channels.
    ///
    /// # Safety
    /// As [`Correlation::run`].
    unsafe fn by_panels(
        &self,
        level: Level,
        x: &[f32],
        y: Shared,
        grid: Grid,
        (first, end): (usize, usize),
        width: usize,
    ) {
        let (ci, co) = (self.inputs, self.outputs);
        let tiles = (end - first) * grid.columns;
        let flops = 2 * tiles * POINTS * ci * co;
        let (v_stride, u_stride) = (spaced(tiles * ci), spaced(BLOCK * width));
        scratch(POINTS * v_stride, |v| {
            let v = Points { at: Shared::new(v.as_mut_ptr()), stride: v_stride, first, end };
            let each = (end - first).div_ceil(8);
            parallel::for_each((end - first).div_ceil(each), flops, |task| {
                let from = first + task * each;
                // SAFETY: the points have room for the tiles; each task transforms its own.
                unsafe {
                    self.transform_inputs(level, x, grid, (from, (from + each).min(end)), v);
                }
            });
            parallel::for_each(co.div_ceil(width), flops, |panel| {
                let (o, columns) = (panel * width, (co - panel * width).min(width));
                let m_stride = spaced(tiles * columns);
                scratch(POINTS * (u_stride + m_stride), |buffer| {
                    let (u, m) = buffer.split_at_mut(POINTS * u_stride);
                    let m = Points { at: Shared::new(m.as_mut_ptr()), stride: m_stride, ..v };
                    for c0 in (0..ci).step_by(BLOCK) {
                        let channels = (ci - c0).min(BLOCK);
                        self.weights(level, (c0, channels), panel, width, u.as_mut_ptr(), u_stride);
                        for p in 0..POINTS {
                            let mut g = Block::<false, false>::new(tiles, columns, channels);
                            (g.a, g.a_step) = (v.at.at(p * v_stride + c0), ci);
                            (g.b, g.ldb, g.b_padded) = (u[p * u_stride..].as_ptr(), width, true);
                            (g.c, g.ldc) = (m.at.at(p * m_stride), columns);
                            g.init = if c0 == 0 { Init::Zero } else { Init::Load };
                            // SAFETY: point p of v holds tiles rows of ci values, of u a row a channel, of m tiles
                            // rows of this task's columns.
                            unsafe { level.run(g.ready()) };
                        }
                    }
                    // SAFETY: the products filled m; the task writes its own channels of y.
                    unsafe { self.transform_outputs(level, y, grid, m, (o, columns)) };
                });
            });
        });
    }

    /// # Safety
    /// `v` is writable for the tiles of the rows `from..until`, `x` holds the images.
    unsafe fn transform_inputs(
        &self,
        level: Level,
        x: &[f32],
        grid: Grid,
        (from, until): (usize, usize),
        v: Points,
    ) {
        let c = self.inputs;
        let rows = ((until - from).min(grid.rows) * OUT + IN - OUT).min(self.height);
        let staged = (rows * self.width * c).next_multiple_of(16);
        scratch(staged + c, |buffer| {
            let (stage, outside) = buffer.split_at_mut(staged);
            outside.fill(0.0);
            for (image, first, end) in grid.images(from, until) {
                let at = (image * grid.rows + first - v.first) * grid.columns;
                let row = TileRow {
                    image: stage.as_mut_ptr(),
                    shape: [self.height, self.width, c],
                    top: (first * OUT) as isize - self.top as isize,
                    left: -(self.left as isize),
                    tiles: grid.columns,
                    outside: outside.as_mut_ptr(),
                    points: v.at.at(at * c),
                    stride: v.stride,
                };
                let x = x[image * c * self.height * self.width..].as_ptr();
                // SAFETY: x holds the image; the stage has room for the pixel rows that these tiles read; the caller
                // vouches for the points.
                unsafe { input_tiles(level, x, end - first, row, Tiles::Input) };
            }
        });
    }

    /// Writes `channels` (first and number) of the results from their points `m`.
    ///
    /// # Safety
    /// `m` holds all its tiles; those channels of their pixels in `y` belong to the caller.
    unsafe fn transform_outputs(
        &self,
        level: Level,
        y: Shared,
        grid: Grid,
        m: Points,
        (o, c): (usize, usize),
    ) {
        let rows = (m.end - m.first).min(grid.rows) * OUT;
        let staged = (rows * self.out_width * c).next_multiple_of(16);
        let image_len = self.out_height * self.out_width;
        scratch(staged + c, |buffer| {
            let (stage, outside) = buffer.split_at_mut(staged);
            for (image, first, end) in grid.images(m.first, m.end) {
                let height = (end * OUT).min(self.out_height) - first * OUT;
                for row in first..end {
                    let at = (image * grid.rows + row - m.first) * grid.columns;
                    let tiles = TileRow {
                        image: stage.as_mut_ptr(),
                        shape: [height, self.out_width, c],
                        top: ((row - first) * OUT) as isize,
                        left: 0,
                        tiles: grid.columns,
                        outside: outside.as_mut_ptr(),
                        points: m.at.at(at * c),
                        stride: m.stride,
                    };
                    let bias = self.bias.map(|bias| bias[o..].as_ptr());
                    // SAFETY: the stage has room for these pixel rows; the caller vouches for the points; the bias has a
                    // value for each channel.
                    unsafe { level.run(Tiles::Output(tiles, bias).ready()) };
                }
                let to = (image * self.outputs + o) * image_len + first * OUT * self.out_width;
                let pixels = height * self.out_width;
                // SAFETY: the tiles covered all of these pixels of the stage; the caller vouches for those of y.
                unsafe {
                    let from = stage.as_ptr();
                    level.run(Transpose::new(from, c, pixels, c, y.at(to), image_len, 0));
                }
            }
        });
    }

    /// Transforms the weights from some input channels (first and number) to one panel of output channels: point after
    /// point at distance `stride`, a row of `width` a channel, padded with zeros.
    fn weights(
        &self,
        level: Level,
        (c0, channels): (usize, usize),
        panel: usize,
        width: usize,
        to: *mut f32,
        stride: usize,
    ) {
        let (ci, co, o) = (self.inputs, self.outputs, panel * width);
        let columns = (co - o).min(width);
        scratch(channels * 9 * width, |taps| {
            let taps = taps.as_mut_ptr();
            for c in 0..if self.flipped { channels } else { 1 } {
                let (from, taps_each) = if self.flipped {
                    (self.w[((c0 + c) * co + o) * 9..].as_ptr(), 9)
                } else {
                    (self.w[(o * ci + c0) * 9..].as_ptr(), channels * 9)
                };
                let (ld, dst) =
                    (if self.flipped { 9 } else { ci * 9 }, taps.wrapping_add(c * 9 * width));
                // SAFETY: w is [outputs, inputs * 9], or, flipped, [inputs, outputs, 9]; the taps have 9 rows of `width`
                // for each channel.
                unsafe {
                    level.run(Transpose::new(from, ld, columns, taps_each, dst, width, width));
                }
            }
            for c in 0..channels {
                let step = width as isize;
                let (first, row) = if self.flipped { (8 * width, -step) } else { (0, step) };
                let weights = Weights {
                    taps: taps.wrapping_add(c * 9 * width + first),
                    n: width,
                    row,
                    points: to.wrapping_add(c * width),
                    stride,
                    back: false,
                };
                // SAFETY: nine rows of `width` values; the caller owns these rows of the panel.
                unsafe { level.run(weights.ready()) };
            }
        });
    }
}

/// Transforms `count` rows of tiles of one image `x [c, height, width]`, of which `first` is the first: the pixel rows
/// that they read are turned channels-last at `first.image`.
///
/// # Safety
/// `x` is readable as an image; `first.image` has room for those rows, and [`Tiles::ready`] holds for every row of tiles.
pub(super) unsafe fn input_tiles(
    level: Level,
    x: *const f32,
    count: usize,
    first: TileRow,
    kind: fn(TileRow) -> Tiles,
) {
    let [height, width, c] = first.shape;
    // No tile reads more than IN rows.
    let (top, bottom) = (first.top, first.top + ((count - 1) * OUT + IN) as isize);
    let y0 = top.clamp(0, height as isize);
    let y1 = bottom.clamp(y0, height as isize);
    let (rows, from) = ((y1 - y0) as usize, y0 as usize * width);
    // SAFETY: rows y0..y1 of each channel are inside the image; the caller vouches for the rest.
    unsafe {
        let image = first.image;
        level.run(Transpose::new(x.add(from), height * width, c, rows * width, image, c, 0));
        for row in 0..count {
            let tiles = TileRow {
                shape: [rows, width, c],
                top: top + (row * OUT) as isize - y0,
                points: first.points.wrapping_add(row * first.tiles * c),
                ..first
            };
            level.run(kind(tiles).ready());
        }
    }
}
