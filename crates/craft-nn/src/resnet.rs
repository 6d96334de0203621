//! The residual block and the resampling layers that UNet and VAE share
//! (`diffusers/models/resnet.py`, `downsampling.py`, `upsampling.py`).

use burn::module::Module;
use burn::tensor::Tensor;

use crate::init::Init;
use crate::layers::{Conv2d, GroupNorm, Linear};
use crate::ops::{self, Act, Added};

/// `ResnetBlock2D`: two convolutions, each after group norm and SiLU, with the timestep's bias
/// between.
#[derive(Module, Debug)]
pub struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock2D {
    /// `time` is the width of the timestep embedding, if the block takes one.
    pub fn new(
        init: &mut Init,
        input: usize,
        output: usize,
        time: Option<usize>,
        groups: usize,
        eps: f64,
    ) -> Self {
        Self {
            norm1: GroupNorm::new(init, groups, input, eps),
            conv1: Conv2d::same(init, input, output, 3),
            time_emb_proj: time.map(|width| Linear::new(init, width, output, true)),
            norm2: GroupNorm::new(init, groups, output, eps),
            conv2: Conv2d::same(init, output, output, 3),
            conv_shortcut: (input != output).then(|| Conv2d::same(init, input, output, 1)),
        }
    }

    /// Channels that go in and come out.
    pub(crate) fn channels(&self) -> [usize; 2] {
        let [output, input, _, _] = self.conv1.weight.dims();
        [input, output]
    }

    /// `x` `[N, in, H, W]`; `time` `[N, width]` is the embedding *after* its SiLU.
    pub fn forward(&self, x: Tensor<4>, time: Option<&Tensor<2>>) -> Tensor<4> {
        let bias = match (&self.time_emb_proj, time) {
            (Some(projection), Some(time)) => Added::Channels(projection.forward(time.clone())),
            _ => Added::Nothing,
        };
        let h = self.conv1.after_norm(&self.norm1, x.clone(), bias);
        let shortcut = match &self.conv_shortcut {
            Some(conv) => conv.forward(x),
            None => x,
        };
        self.conv2.after_norm(&self.norm2, h, Added::Image(shortcut))
    }
}

/// `Downsample2D`: a convolution with stride 2.
#[derive(Module, Debug)]
pub struct Downsample2D {
    conv: Conv2d,
}

impl Downsample2D {
    /// Symmetric padding of 1, as in the UNet.
    pub fn symmetric(init: &mut Init, channels: usize) -> Self {
        Self { conv: Conv2d::new(init, [channels, channels], 3, 2, [1; 4], true) }
    }

    /// Padding of one row below and one column to the right, as in the VAE's encoder.
    pub fn asymmetric(init: &mut Init, channels: usize) -> Self {
        Self { conv: Conv2d::new(init, [channels, channels], 3, 2, [0, 1, 0, 1], true) }
    }

    /// Number of channels.
    pub(crate) fn channels(&self) -> usize {
        self.conv.weight.dims()[0]
    }

    /// `[N, C, H, W]` to `[N, C, H/2, W/2]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(x)
    }
}

/// `Upsample2D`: nearest neighbour, then a convolution.
#[derive(Module, Debug)]
pub struct Upsample2D {
    conv: Conv2d,
}

impl Upsample2D {
    /// Keeps the number of channels.
    pub fn new(init: &mut Init, channels: usize) -> Self {
        Self { conv: Conv2d::same(init, channels, channels, 3) }
    }

    /// Number of channels.
    pub(crate) fn channels(&self) -> usize {
        self.conv.weight.dims()[0]
    }

    /// `[N, C, H, W]` to `[N, C, 2H, 2W]`, or one less where `size`, height and width, says so.
    pub fn forward(&self, x: Tensor<4>, size: Option<[usize; 2]>) -> Tensor<4> {
        let mut x = ops::upsample_nearest2x(x);
        // The nearest of n to each of 2n − 1 are those of 2n without the last.
        for (axis, wanted) in size.into_iter().flatten().enumerate() {
            if x.dims()[2 + axis] > wanted {
                x = x.narrow(2 + axis, 0, wanted);
            }
        }
        self.conv.forward(x)
    }
}

/// Two-layer perceptron of timestep features (`TimestepEmbedding`).
#[derive(Module, Debug)]
pub struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    /// `input` features to `width`.
    pub fn new(init: &mut Init, input: usize, width: usize) -> Self {
        Self {
            linear_1: Linear::new(init, input, width, true),
            linear_2: Linear::new(init, width, width, true),
        }
    }

    /// `[N, input]` to `[N, width]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.linear_2.forward(ops::activation(self.linear_1.forward(x), Act::Silu))
    }
}
