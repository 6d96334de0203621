//! The forward pass, which the input gradient uses too.

use super::image::{Image, Start};
use super::planes::Geometry;
use super::pointwise::multiply;
use super::shape::ConvShape;
use super::taps::{Layout, Taps};
use super::winograd::Correlation;
use crate::buffer::{Output, Shared, scratch, split};
use crate::gemm::micro::MR;
use crate::gemm::{Block, Init};
use crate::parallel;
use crate::simd::amx::TILE;
use crate::simd::bf16::Pairs;
use crate::simd::shifted::Copies;
use crate::simd::{Level, level};

/// Convolution of `x` with `w` plus a bias a channel; shapes as in [`ConvShape`], `bias
/// [out_channels]`.
#[must_use]
pub fn conv2d(x: &[f32], w: &[f32], bias: Option<&[f32]>, s: &ConvShape) -> Vec<f32> {
    s.check();
    assert_eq!(x.len(), s.in_len(), "x");
    assert_eq!(w.len(), s.weight_len(), "w");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), s.out_channels, "bias");
    }
    let level = level();
    let mut y = Output::new(s.out_len());
    if s.winograd() {
        let correlation = Correlation { bias, ..Correlation::forward(s, w) };
        // SAFETY: the lengths were checked above, and the pass writes every position of the fresh
        // vector.
        return unsafe {
            correlation.run(level, x, y.ptr());
            y.finish()
        };
    }
    let pairs = Pairs::active(level);
    if pairs.is_none() && s.pointwise() {
        // SAFETY: as above.
        return unsafe {
            multiply(level, x, w, bias, s, false, y.ptr());
            y.finish()
        };
    }
    let pass = Pass::forward(s, w, bias, pairs);
    // SAFETY: the pass writes every position of every output channel of the fresh vector.
    unsafe {
        pass.run(level, x, y.ptr());
        y.finish()
    }
}

/// A correlation of `[batch, inputs, ..]` to `[batch, outputs, ..]`. With `pairs`, two neighbouring
/// channels are read as one of words.
pub(super) struct Pass<'a> {
    pub batch: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub geometry: Geometry,
    pub taps: Taps<'a>,
    pub bias: Option<&'a [f32]>,
    pub pairs: Option<Pairs>,
}

/// Sum length of one block of channels, and size of its planes (in values), that keep the caches
/// warm.
const KC: usize = 288;
const PLANES: usize = 96 << 10;

impl<'a> Pass<'a> {
    /// That of a convolution's output.
    pub(super) fn forward(
        s: &ConvShape,
        w: &'a [f32],
        bias: Option<&'a [f32]>,
        pairs: Option<Pairs>,
    ) -> Self {
        let [kh, kw] = s.kernel;
        Self {
            batch: s.batch,
            inputs: s.in_channels,
            outputs: s.out_channels,
            geometry: Geometry::forward(s),
            taps: Taps {
                w,
                first: 0,
                out: s.in_channels * kh * kw,
                input: kh * kw,
                row: kw as isize,
                column: 1,
            },
            bias,
            pairs,
        }
    }

    /// Channels as the products count them: of values, or of words.
    pub(super) fn channels(&self) -> usize {
        if self.pairs.is_some() { self.inputs.div_ceil(2) } else { self.inputs }
    }

    /// Those channels of one block: depends on the shape only.
    fn channel_block(&self) -> usize {
        let g = &self.geometry;
        let by_sum = (KC / (g.kernel[0] * g.kernel[1])).max(1);
        let by_size = if g.direct() { by_sum } else { (PLANES / g.channel_len().max(1)).max(8) };
        let block = by_sum.min(by_size).min(self.channels().max(1));
        // Whole groups, where the channels come in such.
        block.next_multiple_of(self.group())
    }

    /// Channels whose rows of one tap follow each other in the product's sum: as many as an AMX
    /// tile reads in place, if all of them come in such groups.
    pub(super) fn group(&self) -> usize {
        let tiled = self.pairs.and_then(Pairs::tiles).is_some();
        if tiled && self.channels().is_multiple_of(TILE) { TILE } else { 1 }
    }

    /// # Safety
    /// `y` is writable for `batch * outputs * positions` values.
    pub(super) unsafe fn run(&self, level: Level, x: &[f32], y: Shared) {
        let (positions, image) = (self.geometry.positions(), self.image_len());
        if positions == 0 || self.outputs == 0 || self.batch == 0 {
            return;
        }
        let tiles = self.outputs.div_ceil(MR);
        // Few images: split the output channels too, at the price of a second copy of the planes.
        let splits =
            if self.batch >= 8 { 1 } else { (8usize.div_ceil(self.batch)).min(tiles.div_ceil(4)) };
        let tiles_each = tiles.div_ceil(splits);
        let splits = tiles.div_ceil(tiles_each);
        self.prepared(|p| {
            parallel::for_each(self.batch * splits, self.flops(), |task| {
                let (n, split) = (task / splits, task % splits);
                let o0 = split * tiles_each * MR;
                let outputs = (self.outputs - o0).min(tiles_each * MR);
                let to = y.at((n * self.outputs + o0) * positions);
                let x = Image::Plain(&x[n * image..][..image]);
                let start = self.bias.map_or(Start::Zero, Start::Bias);
                // SAFETY: C is this task's own range of `y`.
                unsafe { self.image(level, p, x, [o0, outputs], start, to) };
            });
        });
    }

    /// Values of one image of the input.
    fn image_len(&self) -> usize {
        self.inputs * self.geometry.height * self.geometry.width
    }

    /// Floating-point operations.
    pub(super) fn flops(&self) -> usize {
        let [kh, kw] = self.geometry.kernel;
        2 * self.batch * self.outputs * self.geometry.positions() * self.inputs * kh * kw
    }

    /// Calls `f` with what all images share.
    pub(super) fn prepared<R>(&self, f: impl FnOnce(&Prepared<'_>) -> R) -> R {
        let block = self.channel_block();
        let layout = self.layout(block);
        let table = self.geometry.offsets(block, self.group());
        scratch(layout.len(self.channels().div_ceil(block)), |packed| {
            self.pack(block, layout, packed);
            let copies = self.geometry.copies(TILE).filter(|_| self.pairs.is_some());
            f(&Prepared { block, layout, table, packed, copies })
        })
    }

    /// Output channels `o0..o0 + outputs` of one image `x`.
    ///
    /// # Safety
    /// `to` is writable for `outputs * positions` values.
    pub(super) unsafe fn image(
        &self,
        level: Level,
        p: &Prepared<'_>,
        x: Image<'_>,
        [o0, outputs]: [usize; 2],
        start: Start<'_>,
        to: *mut f32,
    ) {
        let (g, block, layout) = (self.geometry, p.block, p.layout);
        let (positions, taps) = (g.positions(), g.kernel[0] * g.kernel[1]);
        let image = g.height * g.width;
        let (inputs, group) = (self.channels(), self.group());
        let (planes_len, words_len) = match (self.pairs, g.direct()) {
            (None, true) => (0, 0),
            (None, false) => (block * g.channel_len(), 0),
            // A tile read in place may reach past the last position.
            (Some(_), true) => (block * image + TILE, 0),
            (Some(_), false) if p.copies.is_some() => (block * g.channel_len() + TILE, 0),
            (Some(_), false) => (block * g.channel_len() + TILE, image),
        };
        let room_len = if matches!(x, Image::Plain(_)) { 0 } else { 2 * image };
        scratch(planes_len + words_len + room_len, |buffer| {
            let [planes, words, room] = split(buffer, [planes_len, words_len, room_len]);
            let mut c0 = 0;
            loop {
                let channels = (inputs - c0).min(block);
                let b = if let Some(pairs) = self.pairs {
                    for c in 0..channels {
                        let c1 = 2 * (c0 + c);
                        let values = (self.inputs - c1).min(2);
                        let from = x.channels(level, [c1, values], image, room);
                        if let Some(copies) = &p.copies {
                            let to = planes[c * g.channel_len()..][..g.channel_len()].as_mut_ptr();
                            // SAFETY: one or two channels of `image` values, and the planes of one.
                            unsafe {
                                pairs.copies_of_words(
                                    from.as_ptr(),
                                    image,
                                    values,
                                    image,
                                    to,
                                    copies,
                                );
                            }
                            continue;
                        }
                        let to = if g.direct() {
                            &mut planes[c * image..(c + 1) * image]
                        } else {
                            &mut *words
                        };
                        let (from, dst) = (from.as_ptr(), to.as_mut_ptr());
                        // SAFETY: one or two channels of `image` values, and as many words.
                        unsafe { pairs.columns(from, image, values, image, dst, image, 0) };
                        if !g.direct() {
                            g.fill(words, &mut planes[c * g.channel_len()..]);
                        }
                    }
                    planes.as_ptr()
                } else if let (true, Image::Plain(x)) = (g.direct(), x) {
                    x[c0 * image..][..channels * image].as_ptr()
                } else {
                    for c in 0..channels {
                        let from = x.channels(level, [c0 + c, 1], image, room);
                        g.fill(from, &mut planes[c * g.channel_len()..]);
                    }
                    planes.as_ptr()
                };
                let k = channels * taps;
                let a = p.packed[c0 / block * layout.block + o0 * layout.rows(k)..].as_ptr();
                let init = match (c0, start) {
                    (0, Start::Zero) => Init::Zero,
                    (0, Start::Bias(bias)) => Init::Rows(bias[o0..].as_ptr()),
                    (0, Start::Sum(bias, y)) => {
                        let y = &y[o0 * positions..][..outputs * positions];
                        Init::RowsAnd(bias[o0..].as_ptr(), y.as_ptr())
                    }
                    _ => Init::Load,
                };
                // SAFETY: the offsets end `positions` values before the end of the planes; the
                // packed weight holds k values for each output; the caller vouches for C.
                unsafe {
                    if layout.in_rows {
                        let mut m = Block::<false, true>::new(outputs, positions, k);
                        (m.a, m.a_step, m.tiled) = (a, layout.rows(k), true);
                        (m.b, m.b_table) = (b, p.table.as_ptr());
                        m.b_rows = if group == TILE { g.channel_len() } else { 0 };
                        (m.c, m.ldc, m.init) = (to, positions, init);
                        m.ready().compute(level, self.pairs);
                    } else {
                        let mut m = Block::<true, true>::new(outputs, positions, k);
                        (m.a, m.a_step, m.a_tile) = (a, MR, MR * k);
                        (m.b, m.b_table) = (b, p.table.as_ptr());
                        (m.c, m.ldc, m.init) = (to, positions, init);
                        m.ready().compute(level, self.pairs);
                    }
                }
                c0 += channels;
                if c0 >= inputs {
                    break;
                }
            }
        });
    }
}

/// What the images of a [`Pass`] share.
pub(super) struct Prepared<'a> {
    block: usize,
    layout: Layout,
    table: Vec<usize>,
    packed: &'a [f32],
    copies: Option<Copies>,
}
