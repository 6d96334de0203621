//! The operations composed from Burn's own: the fallback of other backends, and the oracle of the
//! tests.

use burn::tensor::module;
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Bool, DType, Tensor, activation as act};

use super::Act;

/// A weight that is kept in bf16, for computing with f32.
fn f32_weight<const D: usize>(weight: Tensor<D>) -> Tensor<D> {
    if weight.dtype() == DType::BF16 { weight.cast(DType::F32) } else { weight }
}

/// See [`super::conv2d`].
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: [usize; 4],
) -> Tensor<4> {
    let weight = f32_weight(weight);
    let [top, bottom, left, right] = padding;
    let (x, padding) = if top == bottom && left == right {
        (x, [top, left])
    } else {
        (x.pad((left, right, top, bottom), 0.0), [0, 0])
    };
    module::conv2d(x, weight, bias, ConvOptions::new([stride, stride], padding, [1, 1], 1))
}

/// See [`super::linear`].
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let dims = x.dims();
    let [n, k] = weight.dims();
    let m: usize = dims[..D - 1].iter().product();
    let mut shape = dims;
    shape[D - 1] = n;
    let y = x.reshape([m, k]).matmul(f32_weight(weight).transpose());
    let y = match bias {
        Some(bias) => y + bias.unsqueeze::<2>(),
        None => y,
    };
    y.reshape(shape)
}

/// See [`super::attention`].
pub fn attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    heads: usize,
    causal: bool,
) -> Tensor<3> {
    let [b, lq, width] = q.dims();
    let lk = k.dims()[1];
    let d = width / heads;
    let split = |t: Tensor<3>, l: usize| t.reshape([b, l, heads, d]).swap_dims(1, 2);
    let (q, k, v) = (split(q, lq), split(k, lk), split(v, lk));
    let mut scores = q.matmul(k.swap_dims(2, 3)).mul_scalar(1.0 / (d as f32).sqrt());
    if causal {
        let mask = Tensor::<2, Bool>::tril_mask([lq, lk], 0, &scores.device());
        scores = scores
            .mask_fill(mask.reshape([1, 1, lq, lk]).expand([b, heads, lq, lk]), f32::NEG_INFINITY);
    }
    let weights = act::softmax(scores, 3);
    weights.matmul(v).swap_dims(1, 2).reshape([b, lq, width])
}

/// See [`super::group_norm`].
pub fn group_norm(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    groups: usize,
    eps: f32,
    silu: bool,
) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let flat = x.reshape([n, groups, c / groups * h * w]);
    let mean = flat.clone().mean_dim(2);
    let centred = flat - mean;
    let var = centred.clone().powi_scalar(2).mean_dim(2);
    let y = (centred / (var + eps).sqrt()).reshape([n, c, h, w]);
    let y = y * weight.reshape([1, c, 1, 1]) + bias.reshape([1, c, 1, 1]);
    if silu { act::silu(y) } else { y }
}

/// See [`super::layer_norm`].
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f32,
) -> Tensor<D> {
    let mean = x.clone().mean_dim(D - 1);
    let centred = x - mean;
    let var = centred.clone().powi_scalar(2).mean_dim(D - 1);
    (centred / (var + eps).sqrt()) * weight.unsqueeze::<D>() + bias.unsqueeze::<D>()
}

/// See [`super::activation`].
pub fn activation<const D: usize>(x: Tensor<D>, kind: Act) -> Tensor<D> {
    match kind {
        Act::Gelu => gelu(x),
        Act::QuickGelu => x.clone() * act::sigmoid(x * 1.702),
        Act::Silu => act::silu(x),
    }
}

/// Exact GELU from primitive operations: some backends pair an exact forward with an approximate
/// backward in their fused one.
fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone() * ((x * std::f32::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5
}

/// See [`super::geglu`].
pub fn geglu(x: Tensor<3>) -> Tensor<3> {
    let d = x.dims()[2] / 2;
    let value = x.clone().narrow(2, 0, d);
    value * gelu(x.narrow(2, d, d))
}

/// See [`super::upsample_nearest2x`].
pub fn upsample_nearest2x(x: Tensor<4>) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    let options =
        InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([2 * h, 2 * w]);
    module::interpolate(x, options)
}

/// See [`super::add_channel`].
pub fn add_channel(x: Tensor<4>, t: Tensor<2>) -> Tensor<4> {
    let [n, c] = t.dims();
    x + t.reshape([n, c, 1, 1])
}
