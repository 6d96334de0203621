//! Copies of an image in which every tap of the kernel reads a contiguous run.

use super::shape::ConvShape;
use crate::simd::shifted::{COPIES, Copies};

/// How output positions read the input: output `(y, x)` and tap `(i, j)` read input
/// `(y * stride_y + i - top, x * stride_x + j - left)`, zero outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub height: usize,
    pub width: usize,
    pub out_height: usize,
    pub out_width: usize,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub top: isize,
    pub left: isize,
}

impl Geometry {
    /// That of a convolution's output.
    pub(super) fn forward(s: &ConvShape) -> Self {
        Self {
            height: s.height,
            width: s.width,
            out_height: s.out_height(),
            out_width: s.out_width(),
            kernel: s.kernel,
            stride: s.stride,
            top: s.padding[0] as isize,
            left: s.padding[2] as isize,
        }
    }

    /// Output positions of one channel.
    pub(super) fn positions(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Whether the input itself already is laid out as the one plane needed.
    pub(super) fn direct(&self) -> bool {
        self.kernel == [1, 1]
            && self.stride == [1, 1]
            && (self.top, self.left) == (0, 0)
            && (self.out_height, self.out_width) == (self.height, self.width)
    }

    fn phases(&self) -> usize {
        self.stride[0].min(self.kernel[0])
    }

    /// Planes of one channel.
    pub(super) fn planes(&self) -> usize {
        self.kernel[1] * self.phases()
    }

    /// Values of one plane.
    pub(super) fn plane_len(&self) -> usize {
        self.rows() * self.out_width
    }

    /// Rows of one plane.
    fn rows(&self) -> usize {
        self.out_height + (self.kernel[0] - 1) / self.stride[0]
    }

    /// Values of all planes of one channel.
    pub(super) fn channel_len(&self) -> usize {
        if self.direct() { self.positions() } else { self.planes() * self.plane_len() }
    }

    /// Where each tap starts in the planes of `channels`, `group` of them at a time: all channels
    /// of a group for each tap, kernel rows outer.
    pub(super) fn offsets(&self, channels: usize, group: usize) -> Vec<usize> {
        let taps = self.kernel[0] * self.kernel[1];
        let mut table = Vec::with_capacity(channels * taps);
        for c0 in (0..channels).step_by(group) {
            for tap in (0..taps).map(|tap| self.tap(tap, self.plane_len())) {
                let of_group = c0..(c0 + group).min(channels);
                table.extend(of_group.map(|c| c * self.channel_len() + tap));
            }
        }
        table
    }

    /// Where a tap, counted row by row, starts in the planes of a channel that lie `plane` values
    /// apart.
    pub(super) fn tap(&self, tap: usize, plane: usize) -> usize {
        let (i, j) = (tap / self.kernel[1], tap % self.kernel[1]);
        let phase = i % self.stride[0];
        (j * self.phases() + phase) * plane + i / self.stride[0] * self.out_width
    }

    /// The planes as shifted copies of an image, where vectors of `lanes` values hold whole rows.
    pub(super) fn copies(&self, lanes: usize) -> Option<Copies> {
        let width = self.width;
        let whole = self.stride == [1, 1]
            && self.kernel[1] == COPIES
            && self.out_width == width
            && width > 0
            && lanes.is_multiple_of(width);
        let (top, left) = (usize::try_from(self.top).ok()?, usize::try_from(self.left).ok()?);
        whole.then(|| Copies::new(width, left, [top * width, self.plane_len()]))
    }

    /// Writes the planes of one channel of the input.
    pub(super) fn fill(&self, image: &[f32], planes: &mut [f32]) {
        let planes = &mut planes[..self.channel_len()];
        for (index, plane) in planes.chunks_exact_mut(self.plane_len().max(1)).enumerate() {
            self.fill_plane(index, image, plane);
        }
    }

    /// Writes one of them.
    pub(super) fn fill_plane<T: Copy + Default>(&self, index: usize, image: &[T], plane: &mut [T]) {
        let (j, phase) = (index / self.phases(), index % self.phases());
        let shift = j as isize - self.left;
        if self.stride == [1, 1] && self.out_width == self.width {
            self.fill_shifted(image, plane, shift);
        } else {
            self.fill_rows(image, plane, shift, phase);
        }
    }

    /// Stride 1 and equal widths: the plane is the flat image, shifted, with the columns that
    /// wrapped around cleared.
    fn fill_shifted<T: Copy + Default>(&self, image: &[T], plane: &mut [T], shift: isize) {
        let w = self.width as isize;
        if shift.unsigned_abs() >= self.width {
            plane.fill(T::default());
            return;
        }
        // Plane value i is image value i - top * w + shift.
        let begin = (self.top * w - shift).clamp(0, plane.len() as isize);
        let end = (image.len() as isize + self.top * w - shift).clamp(begin, plane.len() as isize);
        let from = (begin - self.top * w + shift) as usize;
        let (begin, end) = (begin as usize, end as usize);
        plane[..begin].fill(T::default());
        plane[begin..end].copy_from_slice(&image[from..from + end - begin]);
        plane[end..].fill(T::default());
        if shift != 0 {
            let clear = if shift < 0 {
                0..shift.unsigned_abs()
            } else {
                self.width - shift as usize..self.width
            };
            // Mostly one column: a store a row, where filling a part of the row would be a call.
            for column in clear {
                plane[column..].iter_mut().step_by(self.width).for_each(|v| *v = T::default());
            }
        }
    }

    fn fill_rows<T: Copy + Default>(
        &self,
        image: &[T],
        plane: &mut [T],
        shift: isize,
        phase: usize,
    ) {
        let step = self.stride[1];
        let w = self.width as isize;
        // Output columns x with 0 <= x * step + shift < width.
        let first =
            if shift >= 0 { 0 } else { shift.unsigned_abs().div_ceil(step) }.min(self.out_width);
        let last =
            if shift >= w { 0 } else { ((w - 1 - shift) as usize / step + 1).min(self.out_width) }
                .max(first);
        for (r, row) in plane.chunks_exact_mut(self.out_width.max(1)).enumerate() {
            let y = (r * self.stride[0] + phase) as isize - self.top;
            if y < 0 || y >= self.height as isize || first == last {
                row.fill(T::default());
                continue;
            }
            let source = &image[y as usize * self.width..(y as usize + 1) * self.width];
            row[..first].fill(T::default());
            row[last..].fill(T::default());
            let from = (first * step) as isize + shift;
            let source = source[from as usize..].iter().step_by(step);
            for (to, &v) in row[first..last].iter_mut().zip(source) {
                *to = v;
            }
        }
    }
}
