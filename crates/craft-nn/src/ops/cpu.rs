//! The kernels of `craft-kernels` as differentiable operations.

use craft_kernels as k;

use super::extension::{CpuOp, Forward, INPUTS, Saved};
use super::profile::Phase;

/// Computes a gradient only if it is wanted.
fn when(wanted: bool, f: impl FnOnce() -> Vec<f32>) -> Option<Vec<f32>> {
    wanted.then(f)
}

/// Share of the matmuls of the backward pass, one for the input and one for the weight, that are
/// wanted.
fn products(wants: &[bool]) -> f64 {
    wants.iter().take(2).filter(|&&wants| wants).count() as f64 / 2.0
}

/// Only the first `n` inputs.
pub(super) fn first(n: usize) -> [bool; INPUTS] {
    std::array::from_fn(|i| i < n)
}

/// 2-d convolution of `[x, weight]` or `[x, weight, bias]`.
#[derive(Debug)]
pub(super) struct Conv2d(pub(super) k::ConvShape);

impl CpuOp for Conv2d {
    fn phase(&self) -> Phase {
        Phase::Convolution
    }
    fn flops(&self) -> [f64; 2] {
        let s = &self.0;
        let products = [s.batch, s.out_channels, s.in_channels, s.kernel[0], s.kernel[1]];
        let each: f64 = products.iter().map(|&n| n as f64).product();
        let forward = 2.0 * each * (s.out_height() * s.out_width()) as f64;
        [forward, 2.0 * forward]
    }
    fn share(&self, wants: &[bool]) -> f64 {
        products(wants)
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        let s = &self.0;
        let shape = [s.batch, s.out_channels, s.out_height(), s.out_width()];
        Forward::plain(k::conv2d(i[0], i[1], i.get(2).copied(), s), &shape)
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        let shape = &self.0;
        let mut out = vec![
            when(s.wants[0], || k::conv2d_backward_input(s.grad, s.inputs[1], shape)),
            when(s.wants[1], || k::conv2d_backward_weight(s.inputs[0], s.grad, shape)),
        ];
        if let Some(&wants) = s.wants.get(2) {
            out.push(when(wants, || k::conv2d_backward_bias(s.grad, shape)));
        }
        out
    }
    fn keeps(&self) -> [bool; INPUTS] {
        first(2)
    }
}

/// `x · weightᵀ (+ bias)` over rows; `shape` is the output's.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) n: usize,
    pub(super) shape: Vec<usize>,
}

impl CpuOp for Linear {
    fn phase(&self) -> Phase {
        Phase::Linear
    }
    fn flops(&self) -> [f64; 2] {
        let forward = 2.0 * self.m as f64 * self.k as f64 * self.n as f64;
        [forward, 2.0 * forward]
    }
    fn share(&self, wants: &[bool]) -> f64 {
        products(wants)
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        let y = k::linear(i[0], i[1], i.get(2).copied(), self.m, self.k, self.n);
        Forward::plain(y, &self.shape)
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        let bias = s.wants.get(2).copied();
        let wants = [s.wants[0], s.wants[1], bias.unwrap_or(false)];
        let (x, w) = (s.inputs[0], s.inputs[1]);
        let gradients = k::linear_gradients(x, w, s.grad, [self.m, self.k, self.n], wants);
        gradients.into_iter().take(s.wants.len()).collect()
    }
    fn keeps(&self) -> [bool; INPUTS] {
        first(2)
    }
}

/// Scaled dot-product attention of `[q, k, v]`, heads interleaved in the channel axis.
#[derive(Debug)]
pub(super) struct Attention {
    pub(super) shape: k::AttentionShape,
    pub(super) scale: f32,
    pub(super) causal: bool,
}

impl CpuOp for Attention {
    fn phase(&self) -> Phase {
        Phase::Attention
    }
    fn flops(&self) -> [f64; 2] {
        let s = &self.shape;
        let scores = (s.batch * s.heads * s.head_dim) as f64 * (s.queries * s.keys) as f64;
        // Two matmuls forward; backward the scores again, and four gradients.
        [4.0 * scores, 10.0 * scores]
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        let s = &self.shape;
        let (output, lse) = k::attention(i[0], i[1], i[2], s, self.scale, self.causal);
        let shape = vec![s.batch, s.queries, s.heads * s.head_dim];
        Forward { output, shape, saved: vec![lse] }
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        let (dq, dk, dv) = k::attention_backward(
            s.inputs[0],
            s.inputs[1],
            s.inputs[2],
            s.output,
            &s.saved[0],
            s.grad,
            &self.shape,
            self.scale,
            self.causal,
        );
        vec![Some(dq), Some(dk), Some(dv)]
    }
    fn keeps_output(&self) -> bool {
        true
    }
}

/// Group normalisation of `[x, weight, bias]`, followed by SiLU where asked for.
#[derive(Debug)]
pub(super) struct GroupNorm {
    pub(super) shape: [usize; 4],
    pub(super) groups: usize,
    pub(super) eps: f32,
    pub(super) silu: bool,
}

impl CpuOp for GroupNorm {
    fn phase(&self) -> Phase {
        Phase::NormAndActivation
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        let [n, c, h, w] = self.shape;
        let (output, mean, rstd) =
            k::group_norm(i[0], i[1], i[2], n, c, h * w, self.groups, self.eps, self.silu);
        Forward { output, shape: self.shape.to_vec(), saved: vec![mean, rstd] }
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        let [n, c, h, w] = self.shape;
        let (dx, dw, db) = k::group_norm_backward(
            s.inputs[0],
            s.grad,
            s.inputs[1],
            s.inputs[2],
            &s.saved[0],
            &s.saved[1],
            n,
            c,
            h * w,
            self.groups,
            self.silu,
        );
        vec![Some(dx), Some(dw), Some(db)]
    }
}

/// Layer normalisation of `[x, weight, bias]` over the last axis.
#[derive(Debug)]
pub(super) struct LayerNorm {
    pub(super) shape: Vec<usize>,
    pub(super) m: usize,
    pub(super) d: usize,
    pub(super) eps: f32,
}

impl CpuOp for LayerNorm {
    fn phase(&self) -> Phase {
        Phase::NormAndActivation
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        let (output, mean, rstd) = k::layer_norm(i[0], i[1], i[2], self.m, self.d, self.eps);
        Forward { output, shape: self.shape.clone(), saved: vec![mean, rstd] }
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        let (dx, dw, db) = k::layer_norm_backward(
            s.inputs[0],
            s.grad,
            s.inputs[1],
            &s.saved[0],
            &s.saved[1],
            self.m,
            self.d,
        );
        vec![Some(dx), Some(dw), Some(db)]
    }
    fn keeps(&self) -> [bool; INPUTS] {
        first(2)
    }
}

/// An elementwise activation.
#[derive(Debug)]
pub(super) struct Activation {
    pub(super) kind: super::Act,
    pub(super) shape: Vec<usize>,
}

impl CpuOp for Activation {
    fn phase(&self) -> Phase {
        Phase::NormAndActivation
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        let y = match self.kind {
            super::Act::Gelu => k::gelu(i[0]),
            super::Act::QuickGelu => k::quick_gelu(i[0]),
            super::Act::Silu => k::silu(i[0]),
        };
        Forward::plain(y, &self.shape)
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        vec![Some(match self.kind {
            super::Act::Gelu => k::gelu_backward(s.inputs[0], s.grad),
            super::Act::QuickGelu => k::quick_gelu_backward(s.inputs[0], s.grad),
            super::Act::Silu => k::silu_backward(s.inputs[0], s.grad),
        })]
    }
}

/// Gated GELU: the first half of the last axis times the GELU of the second.
#[derive(Debug)]
pub(super) struct Geglu {
    pub(super) m: usize,
    pub(super) d: usize,
    pub(super) shape: Vec<usize>,
}

impl CpuOp for Geglu {
    fn phase(&self) -> Phase {
        Phase::NormAndActivation
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        Forward::plain(k::geglu(i[0], self.m, self.d), &self.shape)
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        vec![Some(k::geglu_backward(s.inputs[0], s.grad, self.m, self.d))]
    }
}

/// Exchanges the last two axes of `[batch, rows, columns]`, with free outer shapes.
#[derive(Debug)]
pub(super) struct Transpose {
    pub(super) batch: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) shape: Vec<usize>,
}

impl CpuOp for Transpose {
    fn phase(&self) -> Phase {
        Phase::Layout
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        Forward::plain(k::transpose(i[0], self.batch, self.rows, self.columns), &self.shape)
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        vec![Some(k::transpose(s.grad, self.batch, self.columns, self.rows))]
    }
    fn keeps(&self) -> [bool; INPUTS] {
        [false; INPUTS]
    }
}

/// Doubles height and width by repeating pixels.
#[derive(Debug)]
pub(super) struct Upsample2x(pub(super) [usize; 4]);

impl CpuOp for Upsample2x {
    fn phase(&self) -> Phase {
        Phase::Layout
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        let [n, c, h, w] = self.0;
        Forward::plain(k::upsample_nearest2x(i[0], n * c, h, w), &[n, c, 2 * h, 2 * w])
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        let [n, c, h, w] = self.0;
        vec![Some(k::upsample_nearest2x_backward(s.grad, n * c, h, w))]
    }
    fn keeps(&self) -> [bool; INPUTS] {
        [false; INPUTS]
    }
}

/// Adds `[N, C]` to every pixel of `[N, C, H, W]`.
#[derive(Debug)]
pub(super) struct AddChannel(pub(super) [usize; 4]);

impl CpuOp for AddChannel {
    fn phase(&self) -> Phase {
        Phase::Layout
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        let [n, c, h, w] = self.0;
        Forward::plain(k::add_channel(i[0], i[1], n, c, h * w), &self.0)
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        let [n, c, h, w] = self.0;
        vec![None, when(s.wants[1], || k::add_channel_backward(s.grad, n, c, h * w))]
    }
    fn passes(&self) -> [bool; INPUTS] {
        first(1)
    }
    fn keeps(&self) -> [bool; INPUTS] {
        [false; INPUTS]
    }
}

/// Sum of two tensors of one shape.
#[derive(Debug)]
pub(super) struct Add(pub(super) Vec<usize>);

impl CpuOp for Add {
    fn phase(&self) -> Phase {
        Phase::Layout
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        Forward::plain(k::add(i[0], i[1]), &self.0)
    }
    fn backward(&self, _: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        vec![None, None]
    }
    fn passes(&self) -> [bool; INPUTS] {
        first(2)
    }
    fn keeps(&self) -> [bool; INPUTS] {
        [false; INPUTS]
    }
}

/// Concatenation of two tensors along the channel axis.
#[derive(Debug)]
pub(super) struct ConcatChannels {
    pub(super) batch: usize,
    pub(super) channels: [usize; 2],
    pub(super) height: usize,
    pub(super) width: usize,
}

impl CpuOp for ConcatChannels {
    fn phase(&self) -> Phase {
        Phase::Layout
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        let hw = self.height * self.width;
        let [a, b] = self.channels;
        let y = k::concat_channels(&[(i[0], a), (i[1], b)], self.batch, hw);
        Forward::plain(y, &[self.batch, a + b, self.height, self.width])
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        let hw = self.height * self.width;
        let parts = k::split_channels(s.grad, &self.channels, self.batch, hw);
        parts.into_iter().zip(s.wants).map(|(part, &wants)| wants.then_some(part)).collect()
    }
    fn keeps(&self) -> [bool; INPUTS] {
        [false; INPUTS]
    }
}
