//! Copies of an image in which every tap of the kernel reads a contiguous run.

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

    /// Rows of one plane.
    fn rows(&self) -> usize {
        self.out_height + (self.kernel[0] - 1) / self.stride[0]
    }

    /// Values of all planes of one channel.
    pub(super) fn channel_len(&self) -> usize {
        if self.direct() {
            self.positions()
        } else {
            self.kernel[1] * self.phases() * self.rows() * self.out_width
        }
    }

    /// Where each tap starts in the planes of `channels`, `group` of them at a time: all channels of a group for each
    /// tap, kernel rows outer.
    pub(super) fn offsets(&self, channels: usize, group: usize) -> Vec<usize> {
        let [kh, kw] = self.kernel;
        let plane = self.rows() * self.out_width;
        let mut table = Vec::with_capacity(channels * kh * kw);
        for c0 in (0..channels).step_by(group) {
            for (i, j) in (0..kh).flat_map(|i| (0..kw).map(move |j| (i, j))) {
                let phase = i % self.stride[0];
                let tap = (j * self.phases() + phase) * plane + i / self.stride[0] * self.out_width;
                let of_group = c0..(c0 + group).min(channels);
                table.extend(of_group.map(|c| c * self.channel_len() + tap));
            }
        }
        table
    }

    /// Writes the planes of one channel of the input.
    pub(super) fn fill(&self, image: &[f32], planes: &mut [f32]) {
        let plane_len = self.rows() * self.out_width;
        for (index, plane) in
            planes[..self.channel_len()].chunks_exact_mut(plane_len.max(1)).enumerate()
        {
            let (j, phase) = (index / self.phases(), index % self.phases());
            let shift = j as isize - self.left;
            if self.stride == [1, 1] && self.out_width == self.width {
                self.fill_shifted(image, plane, shift);
            } else {
                self.fill_rows(image, plane, shift, phase);
            }
        }
    }

    /// Stride 1 and equal widths: the plane is the flat image, shifted, with the columns that wrapped around cleared.
    fn fill_shifted(&self, image: &[f32], plane: &mut [f32], shift: isize) {
        let w = self.width as isize;
        if shift.unsigned_abs() >= self.width {
            plane.fill(0.0);
            return;
        }
        // Plane value i is image value i - top * w + shift.
        let begin = (self.top * w - shift).clamp(0, plane.len() as isize);
        let end = (image.len() as isize + self.top * w - shift).clamp(begin, plane.len() as isize);
        let from = (begin - self.top * w + shift) as usize;
        let (begin, end) = (begin as usize, end as usize);
        plane[..begin].fill(0.0);
        plane[begin..end].copy_from_slice(&image[from..from + end - begin]);
        plane[end..].fill(0.0);
        if shift != 0 {
            let clear = if shift < 0 {
                0..shift.unsigned_abs()
            } else {
                self.width - shift as usize..self.width
            };
            for row in plane.chunks_exact_mut(self.width) {
                row[clear.clone()].fill(0.0);
            }
        }
    }

    fn fill_rows(&self, image: &[f32], plane: &mut [f32], shift: isize, phase: usize) {
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
                row.fill(0.0);
                continue;
            }
            let source = &image[y as usize * self.width..(y as usize + 1) * self.width];
            row[..first].fill(0.0);
            row[last..].fill(0.0);
            let from = (first * step) as isize + shift;
            let source = source[from as usize..].iter().step_by(step);
            for (to, &v) in row[first..last].iter_mut().zip(source) {
                *to = v;
            }
        }
    }
}
