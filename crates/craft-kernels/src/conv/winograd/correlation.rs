//! What the forward pass and the input gradient compute, and in which tasks.

use super::Grid;
use super::correlate::LEAST_TILES;
use super::stage::Normed;
use super::transform::POINTS;
use crate::buffer::Shared;
use crate::conv::shape::ConvShape;
use crate::parallel;
use crate::simd::Level;

/// Transformed values of one task that stay in the second-level cache.
const VALUES: usize = 192 << 10;
/// Transformed weights that stay in the caches.
const WEIGHTS: usize = 3900 << 10;
/// Images from which on tasks are whole images, where something is done before or after.
const LEAST_IMAGES: usize = 8;

/// Work on each of some parts of every image: part `i` of image `n` is number `n * parts + i`.
#[derive(Clone, Copy)]
pub(in crate::conv) struct OfImages<'a> {
    pub parts: usize,
    /// Floating-point operations of one part.
    pub flops: usize,
    pub work: &'a (dyn Fn(usize) + Sync),
}

impl OfImages<'_> {
    /// All parts of one image, one after another.
    pub(super) fn one(self, image: usize) {
        (image * self.parts..(image + 1) * self.parts).for_each(self.work);
    }

    /// All parts of all images, in parallel.
    pub(super) fn all(self, batch: usize) {
        let tasks = batch * self.parts;
        parallel::for_each(tasks, tasks * self.flops, self.work);
    }
}

/// A correlation of `[batch, inputs, height, width]` to `[batch, outputs, out_height, out_width]`,
/// stride 1.
#[derive(Clone, Copy)]
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
    /// What the inputs go through on their way.
    pub normed: Option<Normed<'a>>,
    /// Values added to each channel of the results, those of an image `bias_step` after those of
    /// the one before.
    pub bias: Option<&'a [f32]>,
    pub bias_step: usize,
    /// Images added to the results.
    pub added: Option<&'a [f32]>,
    /// What is done to each image before it is read, and after its results were written.
    pub before: Option<OfImages<'a>>,
    pub after: Option<OfImages<'a>>,
}

impl<'a> Correlation<'a> {
    /// The correlation of a convolution, to whose output nothing is added yet.
    pub(in crate::conv) fn forward(s: &ConvShape, w: &'a [f32]) -> Self {
        Self {
            batch: s.batch,
            inputs: s.in_channels,
            outputs: s.out_channels,
            height: s.height,
            width: s.width,
            out_height: s.out_height(),
            out_width: s.out_width(),
            top: s.padding[0],
            left: s.padding[2],
            w,
            flipped: false,
            normed: None,
            bias: None,
            bias_step: 0,
            added: None,
            before: None,
            after: None,
        }
    }

    /// From the gradient of a convolution's output to that of its input.
    pub(in crate::conv) fn input_gradient(s: &ConvShape, w: &'a [f32]) -> Self {
        Self {
            inputs: s.out_channels,
            outputs: s.in_channels,
            height: s.out_height(),
            width: s.out_width(),
            out_height: s.height,
            out_width: s.width,
            top: 2 - s.padding[0],
            left: 2 - s.padding[2],
            flipped: true,
            ..Self::forward(s, w)
        }
    }

    /// # Safety
    /// `y` is writable for `batch * outputs * out_height * out_width` values, and `x`, `w` and all
    /// that is added have their lengths; the statistics of an image that is normalised are written
    /// earlier or by what is done `before`.
    pub(in crate::conv) unsafe fn run(&self, level: Level, x: &[f32], y: Shared) {
        let (ci, co) = (self.inputs, self.outputs);
        let grid = Grid::new(self.batch, self.out_height, self.out_width);
        if grid.all == 0 {
            return;
        }
        let by_panels = POINTS * ci * co > WEIGHTS;
        let tiles = (VALUES / (POINTS * (ci + co))).max(LEAST_TILES);
        let aside = self.before.is_some() || self.after.is_some();
        let whole = aside && !by_panels && self.batch >= LEAST_IMAGES;
        // SAFETY: the caller vouches for everything.
        unsafe {
            if let Some(each) = grid.images_each(tiles).filter(|_| whole) {
                return self.all_by_tiles(level, x, y, grid, each);
            }
            self.before.inspect(|before| before.all(self.batch));
            let alone = Self { before: None, after: None, ..*self };
            if by_panels {
                alone.all_by_panels(level, x, y, grid);
            } else {
                alone.all_by_tiles(level, x, y, grid, grid.rows_each(tiles));
            }
            self.after.inspect(|after| after.all(self.batch));
        }
    }
}
