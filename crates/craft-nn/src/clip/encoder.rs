//! The transformer that both encoders share.

use burn::module::Module;
use burn::tensor::Tensor;

use super::normal_linear;
use crate::init::Init;
use crate::layers::{LayerNorm, Linear};
use crate::ops::{self, Act};

/// Shape of an encoder's layers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tower {
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) act: Act,
    pub(super) eps: f64,
}

/// Multi-head self-attention.
#[derive(Module, Debug)]
pub struct ClipAttention {
    k_proj: Linear,
    v_proj: Linear,
    q_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl ClipAttention {
    fn new(init: &mut Init, tower: Tower) -> Self {
        let width = tower.width;
        let out_std = 1.0 / (width as f32).sqrt();
        let in_std = out_std / (2.0 * tower.layers as f32).sqrt();
        Self {
            k_proj: normal_linear(init, width, width, true, in_std),
            v_proj: normal_linear(init, width, width, true, in_std),
            q_proj: normal_linear(init, width, width, true, in_std),
            out_proj: normal_linear(init, width, width, true, out_std),
            heads: tower.heads,
        }
    }

    /// `[B, L, width]` to the same shape; `causal` hides later tokens from earlier ones.
    pub fn forward(&self, x: Tensor<3>, causal: bool) -> Tensor<3> {
        let q = self.q_proj.forward(x.clone());
        let k = self.k_proj.forward(x.clone());
        let v = self.v_proj.forward(x);
        self.out_proj.forward(ops::attention(q, k, v, self.heads, causal))
    }
}

/// Feed-forward block.
#[derive(Module, Debug)]
pub struct ClipMlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    act: Act,
}

impl ClipMlp {
    fn new(init: &mut Init, tower: Tower) -> Self {
        let width = tower.width as f32;
        let in_std = 1.0 / (width * 2.0 * tower.layers as f32).sqrt();
        let fc_std = 1.0 / (2.0 * width).sqrt();
        Self {
            fc1: normal_linear(init, tower.width, tower.inner, true, fc_std),
            fc2: normal_linear(init, tower.inner, tower.width, true, in_std),
            act: tower.act,
        }
    }

    /// `[B, L, width]` to the same shape.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(ops::activation(self.fc1.forward(x), self.act))
    }
}

/// One layer: attention and feed-forward block, each after a layer norm and around a residual.
#[derive(Module, Debug)]
pub struct ClipEncoderLayer {
    self_attn: ClipAttention,
    layer_norm1: LayerNorm,
    mlp: ClipMlp,
    layer_norm2: LayerNorm,
}

impl ClipEncoderLayer {
    fn new(init: &mut Init, tower: Tower) -> Self {
        Self {
            self_attn: ClipAttention::new(init, tower),
            layer_norm1: LayerNorm::new(init, tower.width, tower.eps),
            mlp: ClipMlp::new(init, tower),
            layer_norm2: LayerNorm::new(init, tower.width, tower.eps),
        }
    }

    /// `[B, L, width]` to the same shape.
    pub fn forward(&self, x: Tensor<3>, causal: bool) -> Tensor<3> {
        let x = ops::add(self.self_attn.forward(self.layer_norm1.forward(x.clone()), causal), x);
        ops::add(self.mlp.forward(self.layer_norm2.forward(x.clone())), x)
    }
}

/// The layers of an encoder.
#[derive(Module, Debug)]
pub struct ClipEncoder {
    layers: Vec<ClipEncoderLayer>,
}

impl ClipEncoder {
    pub(super) fn new(init: &mut Init, tower: Tower) -> Self {
        Self { layers: (0..tower.layers).map(|_| ClipEncoderLayer::new(init, tower)).collect() }
    }

    /// The states after the last layer but one and after the last, `[B, L, width]` each.
    pub fn forward(&self, mut x: Tensor<3>, causal: bool) -> (Tensor<3>, Tensor<3>) {
        let mut before = x.clone();
        for layer in &self.layers {
            before = x.clone();
            x = layer.forward(x, causal);
        }
        (before, x)
    }
}
