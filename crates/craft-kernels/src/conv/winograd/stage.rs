//! Pixel rows of an image turned channels-last, through a norm and SiLU if one is given, and from
//! there into tiles.

use super::transform::{IN, OUT, TileRow, Tiles};
use crate::activation::Swish;
use crate::buffer::Shared;
use crate::gemm::pack::Transpose;
use crate::group_norm::GroupNormSilu;
use crate::simd::map::{Unary, read, write};
use crate::simd::{Kernel, Level, Simd};

/// A norm, followed by SiLU, with the statistics of the groups of all images `[batch, groups, 2]`.
#[derive(Clone, Copy)]
pub(in crate::conv) struct Normed<'a> {
    pub norm: GroupNormSilu<'a>,
    /// Those of an image are written before it is read.
    pub stats: Shared,
}

impl Normed<'_> {
    /// What one image's channels `[c]` go through, in `room [2, c]`.
    ///
    /// # Safety
    /// The statistics of the image were written.
    pub(super) unsafe fn map(self, image: usize, room: &mut [f32]) -> Map<'_> {
        let len = 2 * self.norm.groups;
        // SAFETY: the caller vouches for them.
        let stats = unsafe { std::slice::from_raw_parts(self.stats.at(image * len), len) };
        let (scale, shift) = room.split_at_mut(room.len() / 2);
        for (c, to) in scale.iter_mut().zip(&mut *shift).enumerate() {
            (*to.0, *to.1) = self.norm.affine(c, stats);
        }
        Map { scale, shift }
    }
}

/// `silu(v * scale + shift)`, each channel with its own scale and shift `[c]`.
#[derive(Clone, Copy)]
pub(super) struct Map<'a> {
    scale: &'a [f32],
    shift: &'a [f32],
}

impl Map<'_> {
    /// `n` channels from `i` on of the pixel at `at`.
    ///
    /// # Safety
    /// The map has those channels, and they are readable and writable.
    #[inline(always)]
    unsafe fn apply<S: Simd>(self, s: S, at: *mut f32, i: usize, n: usize) {
        // SAFETY: the caller vouches for the channels.
        unsafe {
            let at = at.add(i);
            let scale = read(s, self.scale.as_ptr().add(i), n);
            let shift = read(s, self.shift.as_ptr().add(i), n);
            let v = s.fma(read(s, at, n), scale, shift);
            write(s, at, Unary::apply(Swish(1.0), s, v), n);
        }
    }
}

/// A [`Map`] of pixels `[count, c]` where they stand.
struct Pixels<'a> {
    at: *mut f32,
    count: usize,
    map: Map<'a>,
}

impl Kernel for Pixels<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { at, count, map } = self;
        let c = map.scale.len().min(map.shift.len());
        let (whole, rest) = (c / S::LANES * S::LANES, c % S::LANES);
        for pixel in 0..count {
            for i in (0..whole).step_by(S::LANES) {
                // SAFETY: these are channels of the map; `input_tiles` vouches for the pixels.
                unsafe { map.apply(s, at.add(pixel * c), i, S::LANES) };
            }
        }
        // Beside a store of part of a vector the next pixel's load would have to wait for it.
        for pixel in 0..if rest > 0 { count } else { 0 } {
            // SAFETY: as above.
            unsafe { map.apply(s, at.add(pixel * c), whole, rest) };
        }
    }
}

/// Transforms `count` rows of tiles of one image `x [c, height, width]`, of which `first` is the
/// first: the pixel rows that they read are turned channels-last at `first.image` and go through
/// the map. Pixels outside do not.
///
/// # Safety
/// `x` is readable as an image, of whose channels the map is; `first.image` has room for those
/// rows, and [`Tiles::ready`] holds for every row of tiles.
pub(super) unsafe fn input_tiles(
    level: Level,
    x: *const f32,
    map: Option<Map<'_>>,
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
    debug_assert!(map.is_none_or(|map| map.scale.len() == c), "a value for each channel");
    // SAFETY: rows y0..y1 of each channel are inside the image; the caller vouches for the rest.
    unsafe {
        let at = first.image;
        level.run(Transpose::new(x.add(from), height * width, c, rows * width, at, c, 0));
        if let Some(map) = map {
            level.run(Pixels { at, count: rows * width, map });
        }
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
