//! How the weight of a pass is read and packed.

use super::forward::Pass;
use crate::buffer::Shared;
use crate::gemm::micro::MR;
use crate::parallel;
use crate::simd::amx::TILE;
use crate::simd::bf16::{Pairs, word};

/// The weight as the pass reads it: tap `(i, j)` from input channel `c` to output channel `o` is
/// `w[first + o * out + c * input + i * row + j * column]`.
#[derive(Clone, Copy)]
pub(super) struct Taps<'a> {
    pub w: &'a [f32],
    pub first: usize,
    pub out: usize,
    pub input: usize,
    pub row: isize,
    pub column: isize,
}

/// How the weight is packed: in rows that AMX tiles read, or in tiles of [`MR`] outputs.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub in_rows: bool,
    /// Words of one block of input channels.
    pub block: usize,
}

impl Layout {
    /// Words of one output whose sum is `k` long.
    pub(super) fn rows(self, k: usize) -> usize {
        if self.in_rows { k.next_multiple_of(TILE) } else { k }
    }

    /// Words of all blocks.
    pub(super) fn len(self, blocks: usize) -> usize {
        self.block * blocks
    }
}

impl Pass<'_> {
    pub(super) fn layout(&self, block: usize) -> Layout {
        let in_rows = self.pairs.and_then(Pairs::tiles).is_some();
        let taps = self.geometry.kernel[0] * self.geometry.kernel[1];
        let multiple = if in_rows { TILE } else { MR };
        let mut layout = Layout { in_rows, block: 0 };
        // Tasks may begin at any multiple of MR outputs and read whole tiles from there.
        let outputs = self.outputs.next_multiple_of(multiple) + multiple - MR;
        layout.block = outputs * layout.rows(block * taps);
        layout
    }

    /// Weights by block of input channels; then in rows, one an output; or by tile of outputs, then
    /// `k = (group of channels, tap, channel)`, then output.
    pub(super) fn pack(&self, block: usize, layout: Layout, packed: &mut [f32]) {
        let t = self.taps;
        let [kh, kw] = self.geometry.kernel;
        let taps = kh * kw;
        let (tiles, group) = (self.outputs.div_ceil(MR), self.group());
        let to = Shared::new(packed.as_mut_ptr());
        let inputs = self.channels();
        let blocks = inputs.div_ceil(block.max(1));
        let places: Vec<isize> = (0..kh)
            .flat_map(|i| (0..kw).map(move |j| i as isize * t.row + j as isize * t.column))
            .collect();
        parallel::for_each(blocks * tiles, 8 * packed.len(), |task| {
            let (index, tile) = (task / tiles, task % tiles);
            let c0 = index * block;
            let channels = (inputs - c0).min(block);
            let length = layout.rows(channels * taps);
            let start = index * layout.block + tile * MR * length;
            if let (Some(pairs), true, TILE) = (self.pairs, layout.in_rows, group) {
                for r in 0..MR {
                    // SAFETY: each task writes its own rows of the buffer.
                    unsafe {
                        let to = to.at(start + r * length);
                        self.pack_row(pairs, tile * MR + r, [c0, channels], &places, to);
                    }
                }
                return;
            }
            let (row, step) = if layout.in_rows { (length, 1) } else { (1, MR) };
            for r in 0..MR {
                let o = tile * MR + r;
                let mut at = start + r * row;
                let mut put = |v| {
                    // SAFETY: each task writes its own tile of the buffer.
                    unsafe { to.at(at).write(v) };
                    at += step;
                };
                let of_tap = |g| places.iter().map(move |&place| (g, place));
                for (g, place) in (c0..c0 + channels).step_by(group).flat_map(of_tap) {
                    for c in g..g + group {
                        let value = |c| {
                            if o < self.outputs && c < self.inputs {
                                t.w[((t.first + o * t.out + c * t.input) as isize + place) as usize]
                            } else {
                                0.0
                            }
                        };
                        put(match self.pairs {
                            Some(_) => word(value(2 * c), value(2 * c + 1)),
                            None => value(c),
                        });
                    }
                }
                (channels * taps..length).for_each(|_| put(0.0));
            }
        });
    }

    /// One row of the packed weight, by groups of [`TILE`] channels of words: that of output `o`
    /// for `channels` from `c0` on.
    ///
    /// # Safety
    /// `to` is writable for a word of each channel and tap.
    unsafe fn pack_row(
        &self,
        pairs: Pairs,
        o: usize,
        [c0, channels]: [usize; 2],
        places: &[isize],
        mut to: *mut f32,
    ) {
        let t = &self.taps;
        for c in (c0..c0 + channels).step_by(TILE) {
            let values = if o < self.outputs { (self.inputs - 2 * c).min(2 * TILE) } else { 0 };
            for place in places {
                let from = (t.first + o * t.out + 2 * c * t.input).wrapping_add_signed(*place);
                // SAFETY: taps of an output and `values` inputs are inside the weight, whose length
                // was checked; the caller vouches for `to`.
                unsafe {
                    pairs.gather(t.w.as_ptr().wrapping_add(from), t.input, values, to);
                    to = to.add(TILE);
                }
            }
        }
    }
}
