//! Every hot tensor operation of the networks.
//!
//! Behind this door stand the fused kernels of `craft-kernels` on the CPU and Burn's own operations
//! elsewhere. [`mod@reference`] holds the latter and is the oracle that tests compare with; nothing
//! in the networks changes when a faster operation takes a place here.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{Device, Tensor};
use craft_kernels as k;
use serde::Deserialize;

mod cpu;
mod extension;
mod fused;
pub mod profile;
pub mod reference;
mod speeds;

use extension::{apply, apply1, apply2, apply3};

pub use speeds::{Speeds, peak_gflops};

pub use craft_kernels::{
    Precision, SimdLevel, amx_active, bf16_supported, keep_freed_memory, precision, set_precision,
    set_simd_level, simd_level,
};

/// Elementwise activations that the supported networks use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// `x Φ(x)` with the exact error function.
    Gelu,
    /// `x σ(1.702 x)`, OpenAI CLIP.
    QuickGelu,
    /// `x σ(x)`, also called swish.
    #[serde(alias = "swish")]
    Silu,
}

static REFERENCE: AtomicBool = AtomicBool::new(false);

/// Sends every operation to Burn's own implementation (`true`) or to the kernels (`false`) if the
/// device has any.
///
/// A process-wide switch for benchmarks and comparisons.
pub fn use_reference(on: bool) {
    REFERENCE.store(on, Ordering::Relaxed);
}

/// Whether the fused CPU kernels serve this device.
pub fn has_kernels(device: &Device) -> bool {
    !REFERENCE.load(Ordering::Relaxed) && device.clone().without_autodiff() == Device::flex()
}

/// 2-d convolution. `x` `[N, Ci, H, W]`, `weight` `[Co, Ci, kh, kw]`, `bias` `[Co]`;
/// `padding` is top, bottom, left, right.
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: [usize; 4],
) -> Tensor<4> {
    if !has_kernels(&x.device()) {
        return reference::conv2d(x, weight, bias, stride, padding);
    }
    let shape = conv_shape(&x, &weight, stride, padding);
    match bias {
        Some(bias) => apply3(x, weight, bias, cpu::Conv2d(shape)),
        None => apply2(x, weight, cpu::Conv2d(shape)),
    }
}

fn conv_shape(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    stride: usize,
    padding: [usize; 4],
) -> k::ConvShape {
    let [batch, in_channels, height, width] = x.dims();
    let [out_channels, _, kh, kw] = weight.dims();
    k::ConvShape {
        batch,
        in_channels,
        out_channels,
        height,
        width,
        kernel: [kh, kw],
        stride: [stride, stride],
        padding,
    }
}

/// `x · weightᵀ + bias` over the last axis. `weight` is `[out, in]` as PyTorch stores it.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    if !has_kernels(&x.device()) {
        return reference::linear(x, weight, bias);
    }
    let dims = x.dims();
    let [n, k] = weight.dims();
    let m = dims[..D - 1].iter().product();
    let mut shape = dims.to_vec();
    shape[D - 1] = n;
    let op = cpu::Linear { m, k, n, shape };
    match bias {
        Some(bias) => apply3(x, weight, bias, op),
        None => apply2(x, weight, op),
    }
}

/// Multi-head attention, `softmax(q kᵀ / √d) v`. `q` `[B, Lq, heads·d]`, `k` and `v` `[B, Lk,
/// heads·d]`.
pub fn attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    heads: usize,
    causal: bool,
) -> Tensor<3> {
    if !has_kernels(&q.device()) {
        return reference::attention(q, k, v, heads, causal);
    }
    let [batch, queries, width] = q.dims();
    let head_dim = width / heads;
    let shape = k::AttentionShape { batch, heads, queries, keys: k.dims()[1], head_dim };
    let scale = 1.0 / (head_dim as f32).sqrt();
    apply3(q, k, v, cpu::Attention { shape, scale, causal })
}

/// Group normalisation of `[N, C, H, W]` with an affine map, then SiLU when `silu`.
pub fn group_norm(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    groups: usize,
    eps: f32,
    silu: bool,
) -> Tensor<4> {
    if !has_kernels(&x.device()) {
        return reference::group_norm(x, weight, bias, groups, eps, silu);
    }
    let op = cpu::GroupNorm { shape: x.dims(), groups, eps, silu };
    apply3(x, weight, bias, op)
}

/// Layer normalisation over the last axis with an affine map.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f32,
) -> Tensor<D> {
    if !has_kernels(&x.device()) {
        return reference::layer_norm(x, weight, bias, eps);
    }
    let dims = x.dims();
    let d = dims[D - 1];
    let m = dims[..D - 1].iter().product();
    apply3(x, weight, bias, cpu::LayerNorm { shape: dims.to_vec(), m, d, eps })
}

/// Elementwise activation.
pub fn activation<const D: usize>(x: Tensor<D>, kind: Act) -> Tensor<D> {
    if !has_kernels(&x.device()) {
        return reference::activation(x, kind);
    }
    let shape = x.dims().to_vec();
    apply1(x, cpu::Activation { kind, shape })
}

/// Gated GELU: `[.., 2d]` to `[.., d]`, the first half times the GELU of the second.
pub fn geglu(x: Tensor<3>) -> Tensor<3> {
    if !has_kernels(&x.device()) {
        return reference::geglu(x);
    }
    let [b, l, d2] = x.dims();
    apply1(x, cpu::Geglu { m: b * l, d: d2 / 2, shape: vec![b, l, d2 / 2] })
}

/// The affine map of a norm over `d` channels.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[d]`
    pub weight: Tensor<1>,
    /// `[d]`
    pub bias: Tensor<1>,
    /// Added to the variance.
    pub eps: f32,
}

impl Norm {
    fn apply(self, x: Tensor<3>) -> Tensor<3> {
        layer_norm(x, self.weight, self.bias, self.eps)
    }
}

/// The fused feed-forward block of a transformer: `x` plus the second [`linear`] map of the
/// [`geglu`] of the first of the normalised
/// `x`. `x` `[B, L, width]`; weights and biases `[2d, width]` and `[2d]`, `[width, d]` and
/// `[width]`.
pub fn feed_forward(
    x: Tensor<3>,
    norm: Norm,
    first: (Tensor<2>, Tensor<1>),
    second: (Tensor<2>, Tensor<1>),
) -> Tensor<3> {
    let ([b, l, width], [out, d]) = (x.dims(), second.0.dims());
    let lengths = [b * l, width, d];
    if !has_kernels(&x.device()) || out != width || !k::fuses_feed_forward(lengths) {
        let inner = geglu(linear(norm.apply(x.clone()), first.0, Some(first.1)));
        return add(linear(inner, second.0, Some(second.1)), x);
    }
    let inputs = vec![
        x.into_dispatch(),
        norm.weight.into_dispatch(),
        norm.bias.into_dispatch(),
        first.0.into_dispatch(),
        first.1.into_dispatch(),
        second.0.into_dispatch(),
        second.1.into_dispatch(),
    ];
    apply(inputs, fused::FeedForward { lengths, eps: norm.eps, shape: vec![b, l, width] })
}

/// The fused attention block of a transformer: `x` plus the projection of the [`attention`] of the
/// normalised `x` to the context, or to itself. `x` `[B, L, width]`, `context` `[B, Lc, context
/// width]`; `qkv` `[inner, width]` and twice `[inner, context width]`, `out`
/// `[width, inner]` and `[width]`.
pub fn fused_attention(
    x: Tensor<3>,
    norm: Norm,
    context: Option<Tensor<3>>,
    qkv: [Tensor<2>; 3],
    out: (Tensor<2>, Tensor<1>),
    heads: usize,
) -> Tensor<3> {
    let ([batch, queries, width], [inner, _]) = (x.dims(), qkv[0].dims());
    let [keys, context_width] =
        context.as_ref().map_or([queries, width], |c| [c.dims()[1], c.dims()[2]]);
    let attention_shape =
        k::AttentionShape { batch, heads, queries, keys, head_dim: inner / heads };
    let lengths = k::FusedAttentionShape { attention: attention_shape, width, context_width };
    if !has_kernels(&x.device()) || !k::fuses_attention(&lengths) {
        let [wq, wk, wv] = qkv;
        let normed = norm.apply(x.clone());
        let context = context.unwrap_or_else(|| normed.clone());
        let q = linear(normed, wq, None);
        let (k, v) = (linear(context.clone(), wk, None), linear(context, wv, None));
        let seen = attention(q, k, v, heads, false);
        return add(linear(seen, out.0, Some(out.1)), x);
    }
    let mut inputs =
        vec![x.into_dispatch(), norm.weight.into_dispatch(), norm.bias.into_dispatch()];
    inputs.extend(qkv.map(Tensor::into_dispatch));
    inputs.extend([out.0.into_dispatch(), out.1.into_dispatch()]);
    inputs.extend(context.map(Tensor::into_dispatch));
    apply(inputs, fused::FusedAttention { lengths, eps: norm.eps })
}

/// What [`norm_conv`] adds to its output.
#[derive(Clone, Debug)]
pub enum Added {
    /// Nothing.
    Nothing,
    /// `[N, out]`, to every pixel.
    Channels(Tensor<2>),
    /// An image of the output's shape.
    Image(Tensor<4>),
}

impl Added {
    /// `y` with it.
    pub(crate) fn to(self, y: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Nothing => y,
            Self::Channels(t) => add_channel(y, t),
            Self::Image(image) => add(image, y),
        }
    }
}

/// [`group_norm`] with SiLU and so many groups, then [`conv2d`] with stride 1, then an addition:
/// half of a residual block. `x`
/// `[N, C, H, W]`; weight and bias `[out, C, k, k]` and `[out]`.
pub fn norm_conv(
    x: Tensor<4>,
    norm: Norm,
    groups: usize,
    conv: (Tensor<4>, Tensor<1>),
    padding: [usize; 4],
    added: Added,
) -> Tensor<4> {
    let shape = conv_shape(&x, &conv.0, 1, padding);
    if !has_kernels(&x.device()) || !k::fuses_norm_conv(&shape) {
        let normed = group_norm(x, norm.weight, norm.bias, groups, norm.eps, true);
        return added.to(conv2d(normed, conv.0, Some(conv.1), 1, padding));
    }
    let mut inputs = vec![
        x.into_dispatch(),
        norm.weight.into_dispatch(),
        norm.bias.into_dispatch(),
        conv.0.into_dispatch(),
        conv.1.into_dispatch(),
    ];
    let added = match added {
        Added::Nothing => fused::AddedKind::Nothing,
        Added::Channels(t) => {
            inputs.push(t.into_dispatch());
            fused::AddedKind::Channels
        }
        Added::Image(image) => {
            inputs.push(image.into_dispatch());
            fused::AddedKind::Image
        }
    };
    apply(inputs, fused::NormConv { shape, groups, eps: norm.eps, added })
}

/// `[N, C, H, W]` to tokens `[N, H·W, C]`.
pub fn to_tokens(x: Tensor<4>) -> Tensor<3> {
    let [n, c, h, w] = x.dims();
    if !has_kernels(&x.device()) {
        return x.reshape([n, c, h * w]).swap_dims(1, 2);
    }
    apply1(x, cpu::Transpose { batch: n, rows: c, columns: h * w, shape: vec![n, h * w, c] })
}

/// Tokens `[N, H·W, C]` to `[N, C, H, W]`.
pub fn from_tokens(x: Tensor<3>, h: usize, w: usize) -> Tensor<4> {
    let [n, l, c] = x.dims();
    if !has_kernels(&x.device()) {
        return x.swap_dims(1, 2).reshape([n, c, h, w]);
    }
    apply1(x, cpu::Transpose { batch: n, rows: l, columns: c, shape: vec![n, c, h, w] })
}

/// Doubles height and width by repeating pixels (nearest neighbour).
pub fn upsample_nearest2x(x: Tensor<4>) -> Tensor<4> {
    if !has_kernels(&x.device()) {
        return reference::upsample_nearest2x(x);
    }
    let shape = x.dims();
    apply1(x, cpu::Upsample2x(shape))
}

/// Adds `t` `[N, C]` to every pixel of `x` `[N, C, H, W]`.
pub fn add_channel(x: Tensor<4>, t: Tensor<2>) -> Tensor<4> {
    if !has_kernels(&x.device()) {
        return reference::add_channel(x, t);
    }
    let shape = x.dims();
    apply2(x, t, cpu::AddChannel(shape))
}

/// Sum of two tensors of one shape (residual connections).
pub fn add<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    if !has_kernels(&a.device()) {
        return a + b;
    }
    let shape = a.dims().to_vec();
    apply2(a, b, cpu::Add(shape))
}

/// Concatenates along the channel axis (skip connections).
pub fn concat_channels(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    if !has_kernels(&a.device()) {
        return Tensor::cat(vec![a, b], 1);
    }
    let [batch, ca, height, width] = a.dims();
    let channels = [ca, b.dims()[1]];
    apply2(a, b, cpu::ConcatChannels { batch, channels, height, width })
}

/// The rows of `x` (first axis) again and again until there are `rows`, a multiple of theirs; `x`
/// itself where they are.
pub fn repeat_batch<const D: usize>(x: Tensor<D>, rows: usize) -> Tensor<D> {
    match rows / x.dims()[0].max(1) {
        0 | 1 => x,
        copies => Tensor::cat(vec![x; copies], 0),
    }
}
