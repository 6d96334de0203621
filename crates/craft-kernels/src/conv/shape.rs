//! The shape of a convolution.

/// Shape of a two-dimensional convolution: `x [batch, in_channels, height, width]`, `w
/// [out_channels, in_channels, kernel height, kernel width]`, `y [batch, out_channels, out_height,
/// out_width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Images.
    pub batch: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Height of the input, without padding.
    pub height: usize,
    /// Width of the input, without padding.
    pub width: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zero padding at the top, bottom, left and right.
    pub padding: [usize; 4],
}

impl ConvShape {
    /// Height of the output.
    #[must_use]
    pub fn out_height(&self) -> usize {
        out(self.height + self.padding[0] + self.padding[1], self.kernel[0], self.stride[0])
    }

    /// Width of the output.
    #[must_use]
    pub fn out_width(&self) -> usize {
        out(self.width + self.padding[2] + self.padding[3], self.kernel[1], self.stride[1])
    }

    pub(super) fn check(&self) {
        assert!(
            self.kernel.iter().chain(&self.stride).all(|&v| v > 0),
            "kernel and stride must be at least 1"
        );
    }
    pub(super) fn in_len(&self) -> usize {
        self.batch * self.in_channels * self.height * self.width
    }
    pub(super) fn out_len(&self) -> usize {
        self.batch * self.out_channels * self.out_height() * self.out_width()
    }
    pub(super) fn weight_len(&self) -> usize {
        self.out_channels * self.in_channels * self.kernel[0] * self.kernel[1]
    }
    /// Floating-point operations of one pass.
    pub(super) fn flops(&self) -> usize {
        2 * self.out_len() * self.in_channels * self.kernel[0] * self.kernel[1]
    }
}

fn out(padded: usize, kernel: usize, stride: usize) -> usize {
    if padded < kernel { 0 } else { (padded - kernel) / stride + 1 }
}
