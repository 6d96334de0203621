//! The forward pass and the input gradient.
//!
//! Where the transformed weights stay in the cache, each task takes some tiles through all steps.
//! Where they would not, the tiles are transformed first; then each task takes a panel of output
//! channels and transforms its weights block by block, so that they are never written to memory.
//! Either way an element of a product is one sum over the input channels in ascending order.

use super::correlation::Correlation;
use super::stage::input_tiles;
use super::transform::{IN, OUT, POINTS, TileRow, Tiles, Weights};
use super::{Grid, spaced};
use crate::buffer::{Shared, scratch};
use crate::gemm::block::panel_vectors;
use crate::gemm::pack::Transpose;
use crate::gemm::{Block, Init};
use crate::parallel;
use crate::rows::AddRow;
use crate::simd::Level;

/// Tiles below which reading the transformed weights would cost more than the products.
pub(super) const LEAST_TILES: usize = 48;
/// For panels: transformed inputs at a time, tiles at a time, and input channels of a block of
/// weights.
const INPUTS: usize = 3 << 20;
const TILES: usize = 96;
const BLOCK: usize = 32;

/// Points of the tiles in the rows `first..end` of a [`Grid`], `stride` apart.
#[derive(Clone, Copy)]
struct Points {
    at: Shared,
    stride: usize,
    first: usize,
    end: usize,
}

impl Correlation<'_> {
    /// With all transformed weights, in tasks of `each` rows of tiles.
    ///
    /// # Safety
    /// As [`Correlation::run`].
    pub(super) unsafe fn all_by_tiles(
        &self,
        level: Level,
        x: &[f32],
        y: Shared,
        grid: Grid,
        each: usize,
    ) {
        let (ci, co) = (self.inputs, self.outputs);
        let width = panel_vectors(co, level.lanes()) * level.lanes();
        let panels = co.div_ceil(width);
        let flops = 2 * grid.all * grid.columns * POINTS * ci * co;
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
                // SAFETY: the tasks write different parts of `y`, for which the caller vouches.
                unsafe { self.by_tiles(level, x, y, grid, (first, end), width, (&*u, stride)) };
            });
        });
    }

    /// All steps for the tiles of some rows; `u` holds the transformed weights, panels of `width`
    /// columns.
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
            // SAFETY: the points have room for the tiles; point p of v holds tiles * ci values, of
            // m tiles * co, of u panels of ci rows.
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

    /// Panel by panel of output channels.
    ///
    /// # Safety
    /// As [`Correlation::run`].
    pub(super) unsafe fn all_by_panels(&self, level: Level, x: &[f32], y: Shared, grid: Grid) {
        let (ci, co) = (self.inputs, self.outputs);
        let width = panel_vectors(co, level.lanes()) * level.lanes();
        let each = grid.rows_each((INPUTS / (POINTS * ci)).clamp(LEAST_TILES, TILES));
        for first in (0..grid.all).step_by(each) {
            let end = (first + each).min(grid.all);
            // SAFETY: the caller vouches for everything.
            unsafe { self.by_panels(level, x, y, grid, (first, end), width) };
        }
    }

    /// The tiles of some rows, panel by panel of `width` output channels.
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
                            // SAFETY: point p of v holds tiles rows of ci values, of u a row a
                            // channel, of m tiles rows of this task's columns.
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
    /// `v` is writable for the tiles of the rows `from..until`, `x` holds the images; as
    /// [`Correlation::run`] for what is normalised.
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
        scratch(staged + 3 * c, |buffer| {
            let (stage, rest) = buffer.split_at_mut(staged);
            let (outside, map) = rest.split_at_mut(c);
            outside.fill(0.0);
            for (image, first, end) in grid.images(from, until) {
                self.before.inspect(|before| before.one(image));
                // SAFETY: the caller vouches for the statistics.
                let map = self.normed.map(|normed| unsafe { normed.map(image, map) });
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
                // SAFETY: x holds the image; the stage has room for the pixel rows that these tiles
                // read; the caller vouches for the points.
                unsafe { input_tiles(level, x, map, end - first, row, Tiles::Input) };
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
                let bias = self.bias.map(|bias| bias[image * self.bias_step + o..][..c].as_ptr());
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
                    // SAFETY: the stage has room for these pixel rows; the caller vouches for the
                    // points; the bias has a value for each channel.
                    unsafe { level.run(Tiles::Output(tiles, bias).ready()) };
                }
                let to = (image * self.outputs + o) * image_len + first * OUT * self.out_width;
                let pixels = height * self.out_width;
                // SAFETY: the tiles covered all of these pixels of the stage; the caller vouches
                // for those of y.
                unsafe {
                    let from = stage.as_ptr();
                    level.run(Transpose::new(from, c, pixels, c, y.at(to), image_len, 0));
                    if let Some(added) = self.added {
                        for at in (0..c).map(|c| to + c * image_len) {
                            level.run(AddRow::new(y.at(at), &added[at..][..pixels]));
                        }
                    }
                }
                self.after.inspect(|after| after.one(image));
            }
        });
    }

    /// Transforms the weights from some input channels (first and number) to one panel of output
    /// channels: point after point at distance `stride`, a row of `width` a channel, padded with
    /// zeros.
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
                // SAFETY: w is [outputs, inputs * 9], or, flipped, [inputs, outputs, 9]; the taps
                // have 9 rows of `width` for each channel.
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
