//! Layers whose fields carry PyTorch's names and layouts, so that weight files need no remapping.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use crate::init::Init;
use crate::lora::LowRank;
use crate::ops::{self, Added};

/// 2-d convolution. `weight` `[out, in, k, k]`.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, k, k]`
    pub weight: Param<Tensor<4>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: [usize; 4],
}

impl Conv2d {
    /// A `k`×`k` convolution with stride 1 that keeps height and width (`k` odd).
    pub fn same(init: &mut Init, input: usize, output: usize, kernel: usize) -> Self {
        Self::new(init, [input, output], kernel, 1, [kernel / 2; 4], true)
    }

    /// A convolution with any stride; `padding` is top, bottom, left, right.
    pub fn new(
        init: &mut Init,
        [input, output]: [usize; 2],
        kernel: usize,
        stride: usize,
        padding: [usize; 4],
        bias: bool,
    ) -> Self {
        let bound = 1.0 / ((input * kernel * kernel) as f32).sqrt();
        Self {
            weight: init.uniform([output, input, kernel, kernel], bound),
            bias: bias.then(|| init.uniform([output], bound)),
            stride,
            padding,
        }
    }

    /// `[N, in, H, W]` to `[N, out, H', W']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let bias = self.bias.as_ref().map(|b| b.val());
        let weight = self.weight.base();
        let Some(lora) = LowRank::of(&self.weight) else {
            return ops::conv2d(x, weight, bias, self.stride, self.padding);
        };
        let [_, _, kh, kw] = weight.dims();
        let y = ops::conv2d(x.clone(), weight, bias, self.stride, self.padding);
        lora.add_conv(y, x, [kh, kw], self.stride, self.padding)
    }

    /// The convolution, with stride 1, of the norm of `x` after SiLU, and what is added to it.
    pub(crate) fn after_norm(&self, norm: &GroupNorm, x: Tensor<4>, added: Added) -> Tensor<4> {
        let plain = self.bias.as_ref().filter(|_| LowRank::of(&self.weight).is_none());
        if let (Some(bias), 1) = (plain, self.stride) {
            let conv = (self.weight.base(), bias.val());
            return ops::norm_conv(x, norm.affine(), norm.groups, conv, self.padding, added);
        }
        added.to(self.forward(norm.forward_silu(x)))
    }
}

/// Affine map of the last axis. `weight` `[out, in]`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// PyTorch's default initialisation.
    pub fn new(init: &mut Init, input: usize, output: usize, bias: bool) -> Self {
        let bound = 1.0 / (input as f32).sqrt();
        Self {
            weight: init.uniform([output, input], bound),
            bias: bias.then(|| init.uniform([output], bound)),
        }
    }

    /// The weight, if there is no bias and no LoRA factors change it.
    pub(crate) fn plain_weight(&self) -> Option<Tensor<2>> {
        (self.bias.is_none() && LowRank::of(&self.weight).is_none()).then(|| self.weight.base())
    }

    /// Weight and bias, if there is a bias and no LoRA factors change the weight.
    pub(crate) fn plain(&self) -> Option<(Tensor<2>, Tensor<1>)> {
        let bias = self.bias.as_ref().filter(|_| LowRank::of(&self.weight).is_none())?;
        Some((self.weight.base(), bias.val()))
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(|b| b.val());
        let Some(lora) = LowRank::of(&self.weight) else {
            return ops::linear(x, self.weight.base(), bias);
        };
        lora.add_linear(ops::linear(x.clone(), self.weight.base(), bias), x)
    }
}

/// Group normalisation with an affine map.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`
    pub weight: Param<Tensor<1>>,
    /// `[channels]`
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    eps: f64,
}

impl GroupNorm {
    /// Identity affine map.
    pub fn new(init: &mut Init, groups: usize, channels: usize, eps: f64) -> Self {
        Self {
            weight: init.constant([channels], 1.0),
            bias: init.constant([channels], 0.0),
            groups,
            eps,
        }
    }

    /// As fused blocks take it.
    fn affine(&self) -> ops::Norm {
        ops::Norm { weight: self.weight.val(), bias: self.bias.val(), eps: self.eps as f32 }
    }

    /// `[N, C, H, W]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.apply(x, false)
    }

    /// The same, followed by SiLU.
    pub fn forward_silu(&self, x: Tensor<4>) -> Tensor<4> {
        self.apply(x, true)
    }

    fn apply(&self, x: Tensor<4>, silu: bool) -> Tensor<4> {
        ops::group_norm(x, self.weight.val(), self.bias.val(), self.groups, self.eps as f32, silu)
    }
}

/// Layer normalisation over the last axis with an affine map.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`
    pub weight: Param<Tensor<1>>,
    /// `[width]`
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl LayerNorm {
    /// Identity affine map.
    pub fn new(init: &mut Init, width: usize, eps: f64) -> Self {
        Self { weight: init.constant([width], 1.0), bias: init.constant([width], 0.0), eps }
    }

    /// As fused blocks take it.
    pub(crate) fn affine(&self) -> ops::Norm {
        ops::Norm { weight: self.weight.val(), bias: self.bias.val(), eps: self.eps as f32 }
    }

    /// `[.., width]` to the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::layer_norm(x, self.weight.val(), self.bias.val(), self.eps as f32)
    }
}

/// Table of vectors. `weight` `[count, width]`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[count, width]`
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Normal initialisation with the given standard deviation.
    pub fn new(init: &mut Init, count: usize, width: usize, std: f32) -> Self {
        Self { weight: init.normal([count, width], std) }
    }

    /// Ids `[B, L]` to vectors `[B, L, width]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [b, l] = ids.dims();
        let width = self.weight.val().dims()[1];
        self.weight.val().select(0, ids.reshape([b * l])).reshape([b, l, width])
    }
}
