//! The spatial transformer of the UNet (`diffusers/models/transformers/transformer_2d.py`,
//! `diffusers/models/attention.py`).

use burn::module::Module;
use burn::tensor::Tensor;

use crate::init::Init;
use crate::layers::{Conv2d, GroupNorm, LayerNorm, Linear};
use crate::ops;

/// Multi-head attention with projections; the context is `x` itself where none is given.
#[derive(Module, Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out_at_0: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    /// `heads` heads of width `inner / heads`.
    pub fn new(
        init: &mut Init,
        width: usize,
        context: usize,
        inner: usize,
        heads: usize,
        qkv_bias: bool,
    ) -> Self {
        Self {
            to_q: Linear::new(init, width, inner, qkv_bias),
            to_k: Linear::new(init, context, inner, qkv_bias),
            to_v: Linear::new(init, context, inner, qkv_bias),
            to_out_at_0: Linear::new(init, inner, width, true),
            heads,
        }
    }

    /// `x` plus what its normalised tokens `[B, L, width]` make of the `context` `[B, Lc,
    /// context]`.
    fn forward(&self, norm: &LayerNorm, x: Tensor<3>, context: Option<Tensor<3>>) -> Tensor<3> {
        let of_context = [&self.to_q, &self.to_k, &self.to_v];
        let weights = of_context.map(Linear::plain_weight);
        if let ([Some(q), Some(k), Some(v)], Some(out)) = (weights, self.to_out_at_0.plain()) {
            return ops::fused_attention(x, norm.affine(), context, [q, k, v], out, self.heads);
        }
        let normed = norm.forward(x.clone());
        let context = context.unwrap_or_else(|| normed.clone());
        let q = self.to_q.forward(normed);
        let k = self.to_k.forward(context.clone());
        let v = self.to_v.forward(context);
        let seen = ops::attention(q, k, v, self.heads, false);
        ops::add(self.to_out_at_0.forward(seen), x)
    }
}

/// The gated projection of the feed-forward block.
#[derive(Module, Debug)]
pub struct Geglu {
    proj: Linear,
}

/// Feed-forward block with gated GELU and inner width 4·width.
#[derive(Module, Debug)]
pub struct FeedForward {
    net_at_0: Geglu,
    net_at_2: Linear,
}

impl FeedForward {
    fn new(init: &mut Init, width: usize) -> Self {
        Self {
            net_at_0: Geglu { proj: Linear::new(init, width, 8 * width, true) },
            net_at_2: Linear::new(init, 4 * width, width, true),
        }
    }

    /// `x` plus what its normalised tokens become.
    fn forward(&self, norm: &LayerNorm, x: Tensor<3>) -> Tensor<3> {
        let (first, second) = (&self.net_at_0.proj, &self.net_at_2);
        if let (Some(first), Some(second)) = (first.plain(), second.plain()) {
            return ops::feed_forward(x, norm.affine(), first, second);
        }
        let inner = ops::geglu(first.forward(norm.forward(x.clone())));
        ops::add(second.forward(inner), x)
    }
}

/// `BasicTransformerBlock`: self-attention, cross-attention, feed-forward, each after layer norm.
#[derive(Module, Debug)]
pub struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl BasicTransformerBlock {
    fn new(init: &mut Init, width: usize, heads: usize, context: usize, only_cross: bool) -> Self {
        let own = if only_cross { context } else { width };
        Self {
            norm1: LayerNorm::new(init, width, 1e-5),
            attn1: Attention::new(init, width, own, width, heads, false),
            norm2: LayerNorm::new(init, width, 1e-5),
            attn2: Attention::new(init, width, context, width, heads, false),
            norm3: LayerNorm::new(init, width, 1e-5),
            ff: FeedForward::new(init, width),
        }
    }

    fn forward(&self, x: Tensor<3>, context: &Tensor<3>, only_cross: bool) -> Tensor<3> {
        let [rows, _, _] = context.dims();
        let own = only_cross.then(|| context.clone());
        let x = if only_cross { ops::repeat_batch(x, rows) } else { x };
        let x = ops::repeat_batch(self.attn1.forward(&self.norm1, x, own), rows);
        let x = self.attn2.forward(&self.norm2, x, Some(context.clone()));
        self.ff.forward(&self.norm3, x)
    }
}

/// A projection that is a 1×1 convolution (SD 1.x) or a linear map (SD 2.x, SDXL).
#[derive(Module, Debug)]
pub enum Projection {
    /// 1×1 convolution on images.
    Conv(Conv2d),
    /// Linear map on tokens.
    Linear(Linear),
}

/// `Transformer2DModel`: transformer blocks over the pixels of a feature map.
#[derive(Module, Debug)]
pub struct Transformer2D {
    norm: GroupNorm,
    proj_in: Projection,
    transformer_blocks: Vec<BasicTransformerBlock>,
    proj_out: Projection,
    #[module(skip)]
    only_cross: bool,
}

/// What a [`Transformer2D`] is built from.
#[derive(Clone, Copy, Debug)]
pub struct TransformerShape {
    /// Channels of the feature map and width of the tokens.
    pub channels: usize,
    /// Attention heads.
    pub heads: usize,
    /// Number of transformer blocks.
    pub layers: usize,
    /// Width of the text embeddings.
    pub context: usize,
    /// Groups of the group norm.
    pub groups: usize,
    /// Whether projections are linear maps.
    pub linear_projection: bool,
    /// Whether the first attention also looks at the text.
    pub only_cross: bool,
}

impl Transformer2D {
    /// Builds the block.
    pub fn new(init: &mut Init, s: &TransformerShape) -> Self {
        let projection = |init: &mut Init| {
            if s.linear_projection {
                Projection::Linear(Linear::new(init, s.channels, s.channels, true))
            } else {
                Projection::Conv(Conv2d::same(init, s.channels, s.channels, 1))
            }
        };
        Self {
            norm: GroupNorm::new(init, s.groups, s.channels, 1e-6),
            proj_in: projection(init),
            transformer_blocks: (0..s.layers)
                .map(|_| {
                    BasicTransformerBlock::new(init, s.channels, s.heads, s.context, s.only_cross)
                })
                .collect(),
            proj_out: projection(init),
            only_cross: s.only_cross,
        }
    }

    /// Channels of the feature map and number of transformer blocks.
    pub(crate) fn channels_and_layers(&self) -> [usize; 2] {
        [self.norm.weight.dims()[0], self.transformer_blocks.len()]
    }

    /// `x` `[N, C, H, W]`, `context` `[k·N, L, context]`; returns `[k·N, C, H, W]`: up to the first
    /// look at the text, its k rows for one of `x` are one.
    pub fn forward(&self, x: Tensor<4>, context: &Tensor<3>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let h = self.norm.forward(x.clone());
        let mut tokens = match &self.proj_in {
            Projection::Conv(conv) => ops::to_tokens(conv.forward(h)),
            Projection::Linear(linear) => linear.forward(ops::to_tokens(h)),
        };
        for block in &self.transformer_blocks {
            tokens = block.forward(tokens, context, self.only_cross);
        }
        let h = match &self.proj_out {
            Projection::Conv(conv) => conv.forward(ops::from_tokens(tokens, height, width)),
            Projection::Linear(linear) => ops::from_tokens(linear.forward(tokens), height, width),
        };
        let rows = h.dims()[0];
        ops::add(h, ops::repeat_batch(x, rows))
    }
}
