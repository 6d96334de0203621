//! Convolution with 3 by 3 kernels at stride 1 in a quarter of the multiplications: F(4×4, 3×3) of
//! S. Winograd, as A. Lavin and S. Gray (*Fast algorithms for convolutional neural networks*, 2015)
//! arrange it.
//!
//! Tiles of 6 by 6 inputs and the weights are transformed; then 36 small matrix products over the
//! channels, one a point, take the place of the convolution, and their results are transformed back
//! to tiles of 4 by 4. Images are turned channels-last first, so that the transforms run over
//! vectors of channels. Every element of a result is computed in one fixed order here too: which
//! way results and input gradients take depends on one image, never on the batch. A value that is
//! not finite reaches all of its tile.
//!
//! The rules are from processor seconds of one thread on a Zen 4 in f32, channels 16 to 1280,
//! images 4 by 4 to 64 by 64, batch 1 to 32: medians 2.0 to 4.2 times as fast as the direct way,
//! 1.2 to 2.8 for the weight gradient.

mod correlate;
mod correlation;
mod stage;
mod transform;
mod weight;

pub(super) use correlation::{Correlation, OfImages};
pub(super) use stage::Normed;
pub(super) use weight::weight_gradient;

use super::shape::ConvShape;
use crate::simd::bf16::Pairs;
use crate::simd::level;
use std::sync::atomic::{AtomicBool, Ordering};
use transform::OUT;

/// Tiles of a batch below which the weight gradient is computed directly.
const LEAST_TILES: usize = 16;
/// Positions of an image from which on its weight gradient is computed on AMX tiles: two tiles of
/// words.
const LEAST_POSITIONS: usize = 64;

static ON: AtomicBool = AtomicBool::new(true);

/// Lets convolutions use Winograd's algorithm if it is faster (`true`, as at the start), or
/// keeps all of them direct.
///
/// Process-wide; meant for tests and measurements. Each operation reads it once, when it starts.
pub fn set_winograd(on: bool) {
    ON.store(on, Ordering::Relaxed);
}

impl ConvShape {
    /// Whether this convolution and its input gradient go Winograd's way, which is in `f32`
    /// whatever the precision. Depends on one image, not on the batch. On AMX tiles multiplying in
    /// bf16 directly is faster, so nothing does there.
    #[must_use]
    pub fn winograd(&self) -> bool {
        self.suits_winograd() && !on_tiles()
    }

    /// The same for the weight gradient, whose sums over few tiles would not pay for their
    /// transforms. On AMX tiles those of odd widths, which are in `f32` either way, still go it,
    /// and those of small images, whose sums are shorter than a tile.
    #[must_use]
    pub fn winograd_weight(&self) -> bool {
        let tiles = self.batch * self.out_height().div_ceil(OUT) * self.out_width().div_ceil(OUT);
        let long = self.out_height() * self.out_width() >= LEAST_POSITIONS;
        let in_bf16 = self.out_width().is_multiple_of(2) && long && on_tiles();
        self.suits_winograd() && tiles >= LEAST_TILES && !in_bf16
    }

    fn suits_winograd(&self) -> bool {
        ON.load(Ordering::Relaxed)
            && self.kernel == [3, 3]
            && self.stride == [1, 1]
            && self.padding.iter().all(|&p| p <= 2)
            && self.in_channels.min(self.out_channels) >= 16
            && self.out_height().min(self.out_width()) >= OUT
            && self.height.min(self.width) >= OUT
    }
}

/// Whether direct convolutions multiply in bf16 on AMX tiles now.
fn on_tiles() -> bool {
    Pairs::active(level()).and_then(Pairs::tiles).is_some()
}

/// The tiles of a batch of images, counted row by row of tiles through all images.
#[derive(Clone, Copy)]
struct Grid {
    /// Rows of tiles of all images, of one image, and tiles of a row.
    all: usize,
    rows: usize,
    columns: usize,
}

impl Grid {
    fn new(batch: usize, height: usize, width: usize) -> Self {
        let rows = height.div_ceil(OUT);
        Self { all: batch * rows, rows, columns: width.div_ceil(OUT) }
    }

    /// Rows of tiles of one task, where about `tiles` are wanted; the tasks are of nearly one size.
    fn rows_each(&self, tiles: usize) -> usize {
        let rows = (tiles / self.columns).max(1);
        let tasks = self.all.div_ceil(rows);
        let tasks = if tasks > 2 { tasks.next_multiple_of(4) } else { tasks };
        self.all.div_ceil(tasks).max(1)
    }

    /// The same, but whole images, if one fits.
    fn images_each(&self, tiles: usize) -> Option<usize> {
        let each = self.rows_each(tiles);
        (each >= self.rows).then(|| (each + self.rows / 2) / self.rows * self.rows)
    }

    /// The parts of the rows `first..end` that belong to one image: its number, and a range of its
    /// own rows.
    fn images(self, first: usize, end: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let mut at = first;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let (image, row) = (at / self.rows, at % self.rows);
                let until = (row + end - at).min(self.rows);
                at += until - row;
                (image, row, until)
            })
        })
    }
}

/// Distance between points that each hold `values`: whole vectors, and not a multiple of a page,
/// where all points of a tile would compete for the same lines of the cache.
fn spaced(values: usize) -> usize {
    values.next_multiple_of(16) + 16
}
