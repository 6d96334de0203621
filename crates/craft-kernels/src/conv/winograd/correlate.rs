//! The forward pass and the input gradient.

use super::transform::{IN, OUT, POINTS, TileRow, Tiles, Weights};
use super::{Grid, spaced};
use crate::buffer::{Shared, scratch};
use crate::gemm::Block;
use crate::gemm::block::panel_vectors;
use crate::gemm::pack::Transpose;
use crate::parallel;
use crate::simd::Level;

/// Transformed values of one task that stay in the second-level cache.
const VALUES: usize = 192 << 10;
/// Tiles below which reading the transformed weights would cost more than the products.
const LEAST_TILES: usize = 48;

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

impl Correlation<'_> {
    /// # Safety
    /// `y` is writable for `batch * outputs * out_height * out_width` values, and `x`, `w`, `bias` have their lengths.
    pub(in crate::conv) unsafe fn run(&self, level: Level, x: &[f32], y: Shared) {
        let (ci, co) = (self.inputs, self.outputs);
        let lanes = level.lanes();
        let width = panel_vectors(co, lanes) * lanes;
        let panels = co.div_ceil(width);
        let point = spaced(panels * ci * width);
        let grid = Grid::new(self.batch, self.out_height, self.out_width);
        let tiles = (VALUES / (POINTS * (ci + co))).max(LEAST_TILES);
        let each = grid.rows_each(tiles);
        let flops = 2 * grid.all * grid.columns * POINTS * ci * co;
        scratch(POINTS * point, |u| {
            self.weights(level, width, point, u);
            let u = &*u;
            parallel::for_each(grid.all.div_ceil(each), flops, |task| {
                let (first, end) = (task * each, ((task + 1) * each).min(grid.all));
                // SAFETY: the tasks write different rows of `y`, for which the caller vouches; u was filled above.
                unsafe { self.task(level, x, y, grid, (first, end), width, u, point) };
            });
        });
    }

    /// # Safety
    /// As [`Correlation::run`]; `u` holds the transformed weights, panels of `width` columns.
    #[allow(clippy::too_many_arguments)]
    unsafe fn task(
        &self,
        level: Level,
        x: &[f32],
        y: Shared,
        grid: Grid,
        (first, end): (usize, usize),
        width: usize,
        u: &[f32],
        point: usize,
    ) {
        let (ci, co) = (self.inputs, self.outputs);
        let tiles = (end - first) * grid.columns;
        let (v_point, m_point) = (spaced(tiles * ci), spaced(tiles * co));
        let rows = (end - first).min(grid.rows) * OUT;
        let staged = ((rows + IN - OUT).min(self.height) * self.width * ci)
            .max(rows * self.out_width * co)
            .next_multiple_of(16);
        let outside = ci.max(co).next_multiple_of(16);
        scratch(staged + outside + POINTS * (v_point + m_point), |buffer| {
            let (stage, rest) = buffer.split_at_mut(staged);
            let (outside, rest) = rest.split_at_mut(outside);
            let (v, m) = rest.split_at_mut(POINTS * v_point);
            outside.fill(0.0);
            for (image, from, until) in grid.images(first, end) {
                let at = (image * grid.rows + from - first) * grid.columns;
                let row = TileRow {
                    image: stage.as_mut_ptr(),
                    shape: [self.height, self.width, ci],
                    top: (from * OUT) as isize - self.top as isize,
                    left: -(self.left as isize),
                    tiles: grid.columns,
                    outside: outside.as_mut_ptr(),
                    points: v.as_mut_ptr().wrapping_add(at * ci),
                    stride: v_point,
                };
                // SAFETY: x holds the images; the stage has room for the pixel rows that these tiles read, the points
                // for the tiles of the task.
                unsafe {
                    let x = x[image * ci * self.height * self.width..].as_ptr();
                    input_tiles(level, x, until - from, row, Tiles::Input);
                }
            }
            for p in 0..POINTS {
                let mut g = Block::<false, false>::new(tiles, co, ci);
                (g.a, g.a_step) = (v[p * v_point..].as_ptr(), ci);
                (g.b, g.ldb, g.b_panel, g.b_padded) =
                    (u[p * point..].as_ptr(), width, ci * width, true);
                (g.c, g.ldc) = (m[p * m_point..].as_mut_ptr(), co);
                // SAFETY: point p of v holds tiles * ci values, of m tiles * co, of u panels of ci rows.
                unsafe { level.run(g.ready()) };
            }
            for (image, from, until) in grid.images(first, end) {
                let height = (until * OUT).min(self.out_height) - from * OUT;
                for row in from..until {
                    let at = (image * grid.rows + row - first) * grid.columns;
                    let tiles = TileRow {
                        image: stage.as_mut_ptr(),
                        shape: [height, self.out_width, co],
                        top: ((row - from) * OUT) as isize,
                        left: 0,
                        tiles: grid.columns,
                        outside: outside.as_mut_ptr(),
                        points: m.as_mut_ptr().wrapping_add(at * co),
                        stride: m_point,
                    };
                    // SAFETY: the stage has room for these pixel rows; the products filled m; the bias has co values.
                    unsafe {
                        level.run(Tiles::Output(tiles, self.bias.map(<[f32]>::as_ptr)).ready());
                    }
                }
                let image_len = self.out_height * self.out_width;
                let to = y.at(image * co * image_len + from * OUT * self.out_width);
                let pixels = height * self.out_width;
                // SAFETY: the tiles covered all of these pixels of the stage; the same pixels of every channel of the
                // image belong to this task.
                unsafe {
                    let stage = stage.as_ptr();
                    level.run(Transpose::new(stage, co, pixels, co, to, image_len, 0));
                }
            }
        });
    }

    /// Fills `u` with the transformed weights: point after point at distance `point`, panels of `[inputs, width]`.
    fn weights(&self, level: Level, width: usize, point: usize, u: &mut [f32]) {
        /// Input channels of one task.
        const BLOCK: usize = 8;
        let (ci, co) = (self.inputs, self.outputs);
        let panels = co.div_ceil(width);
        let n = panels * width;
        let to = Shared::new(u.as_mut_ptr());
        parallel::for_each(ci.div_ceil(BLOCK), 16 * 9 * ci * co, |task| {
            let (c0, channels) = (task * BLOCK, (ci - task * BLOCK).min(BLOCK));
            scratch(channels * 9 * n, |taps| {
                if self.flipped {
                    for (c, taps) in taps.chunks_exact_mut(9 * n).enumerate() {
                        let from = &self.w[(c0 + c) * co * 9..][..co * 9];
                        for (tap, row) in taps.chunks_exact_mut(n).enumerate() {
                            let from = from[8 - tap..].iter().step_by(9);
                            row[..co].iter_mut().zip(from).for_each(|(to, &v)| *to = v);
                            row[co..].fill(0.0);
                        }
                    }
                } else {
                    let from = self.w[c0 * 9..].as_ptr();
                    // SAFETY: w is [outputs, inputs * 9]; the taps have room for as many rows of n.
                    unsafe {
                        let to = taps.as_mut_ptr();
                        level.run(Transpose::new(from, ci * 9, co, channels * 9, to, n, n));
                    }
                }
                for c in 0..channels {
                    for panel in 0..panels {
                        let weights = Weights {
                            taps: taps[c * 9 * n + panel * width..].as_mut_ptr(),
                            n: width,
                            row: n,
                            points: to.at((panel * ci + c0 + c) * width),
                            stride: point,
                            back: false,
                        };
                        // SAFETY: nine rows of n values; each task writes its own rows of the panels.
                        unsafe { level.run(weights.ready()) };
                    }
                }
            });
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
