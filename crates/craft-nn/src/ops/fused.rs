//! Fused blocks: parts of a transformer or residual block, each with its norm and residual
//! connection, as one differentiable operation.

use craft_kernels as k;

use super::cpu::{Conv2d, first};
use super::extension::{CpuOp, Forward, INPUTS, Saved};
use super::profile::Phase;

/// The fused feed-forward block, of `[x, norm weight, norm bias, w1, b1, w2, b2]`; in bf16 the
/// gate's input is kept, rounded.
#[derive(Debug)]
pub(super) struct FeedForward {
    /// Rows, width, inner width.
    pub(super) lengths: [usize; 3],
    pub(super) eps: f32,
    pub(super) shape: Vec<usize>,
}

impl FeedForward {
    fn parts<'a>(&self, i: &[&'a [f32]]) -> k::FeedForward<'a> {
        let norm = k::Norm { weight: i[1], bias: i[2], eps: self.eps };
        k::FeedForward { x: i[0], norm, w1: i[3], b1: i[4], w2: i[5], b2: i[6] }
    }

    fn run(&self, i: &[&[f32]], keep: bool) -> Forward {
        let (output, kept) = k::feed_forward(&self.parts(i), self.lengths, keep);
        Forward { output, shape: self.shape.clone(), saved: kept.into_iter().collect() }
    }
}

impl CpuOp for FeedForward {
    fn phase(&self) -> Phase {
        Phase::Linear
    }
    fn flops(&self) -> [f64; 2] {
        let forward = self.lengths.iter().map(|&n| n as f64).product::<f64>() * 6.0;
        [forward, 2.0 * forward]
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        self.run(i, true)
    }
    fn output(&self, i: &[&[f32]]) -> Forward {
        self.run(i, false)
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        let weights = s.wants[3..].contains(&true);
        let (parts, kept) = (self.parts(s.inputs), s.saved.first().map(Vec::as_slice));
        k::feed_forward_backward(&parts, kept, s.grad, self.lengths, weights).into()
    }
    fn keeps(&self) -> [bool; INPUTS] {
        first(6)
    }
}

/// The fused attention block, of `[x, norm weight, norm bias, wq, wk, wv, wo, bo]` , then the
/// context if it is another tensor.
#[derive(Debug)]
pub(super) struct FusedAttention {
    pub(super) lengths: k::FusedAttentionShape,
    pub(super) eps: f32,
}

impl FusedAttention {
    fn parts<'a>(&self, i: &[&'a [f32]]) -> k::FusedAttention<'a> {
        let norm = k::Norm { weight: i[1], bias: i[2], eps: self.eps };
        let [x, wq, wk, wv, wo, bo] = [i[0], i[3], i[4], i[5], i[6], i[7]];
        k::FusedAttention { x, norm, context: i.get(8).copied(), wq, wk, wv, wo, bo }
    }

    fn run(&self, i: &[&[f32]], keep: bool) -> Forward {
        let (output, kept) = k::fused_attention(&self.parts(i), &self.lengths, keep);
        let a = &self.lengths.attention;
        let shape = vec![a.batch, a.queries, self.lengths.width];
        Forward { output, shape, saved: kept.into_iter().flatten().collect() }
    }
}

impl CpuOp for FusedAttention {
    fn phase(&self) -> Phase {
        Phase::Attention
    }
    fn flops(&self) -> [f64; 2] {
        let (s, a) = (&self.lengths, &self.lengths.attention);
        let inner = a.heads * a.head_dim;
        let maps = 2 * a.queries * s.width * 2 * inner + 2 * a.keys * s.context_width * 2 * inner;
        let (maps, scores) = (maps as f64, (4 * a.queries * a.keys * inner) as f64);
        // Maps once more for each gradient; of attention the scores again, and four gradients.
        [maps + scores, 2.0 * maps + 2.5 * scores].map(|each| each * a.batch as f64)
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        self.run(i, true)
    }
    fn output(&self, i: &[&[f32]]) -> Forward {
        self.run(i, false)
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        let weights = s.wants[3..8].contains(&true);
        let context = s.wants.get(8).copied();
        let kept = [s.saved[0].as_slice(), s.saved[1].as_slice()];
        let wants = (context == Some(true), weights);
        let parts = self.parts(s.inputs);
        let g = k::fused_attention_backward(&parts, kept, s.grad, &self.lengths, wants);
        let weights = g.weights.map_or([const { None }; 5], |weights| weights.map(Some));
        let mut all = vec![Some(g.x)];
        all.extend(g.norm.map(Some));
        all.extend(weights);
        all.extend(context.map(|_| g.context));
        all
    }
    fn keeps(&self) -> [bool; INPUTS] {
        [true, true, true, true, true, true, true, false, true]
    }
}

/// What [`NormConv`] adds to its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddedKind {
    Nothing,
    Channels,
    Image,
}

/// Half of a residual block, of `[x, norm weight, norm bias, weight, bias]` and what is added, if
/// anything is.
#[derive(Debug)]
pub(super) struct NormConv {
    pub(super) shape: k::ConvShape,
    pub(super) groups: usize,
    pub(super) eps: f32,
    pub(super) added: AddedKind,
}

impl NormConv {
    fn parts<'a>(&self, i: &[&'a [f32]]) -> k::NormConv<'a> {
        let norm =
            k::GroupNormSilu { weight: i[1], bias: i[2], groups: self.groups, eps: self.eps };
        let added = match self.added {
            AddedKind::Nothing => k::Added::Nothing,
            AddedKind::Channels => k::Added::Channels(i[5]),
            AddedKind::Image => k::Added::Image(i[5]),
        };
        k::NormConv { x: i[0], norm, w: i[3], bias: i[4], added }
    }
}

impl CpuOp for NormConv {
    fn phase(&self) -> Phase {
        Phase::Convolution
    }
    fn flops(&self) -> [f64; 2] {
        Conv2d(self.shape).flops()
    }
    fn forward(&self, i: &[&[f32]]) -> Forward {
        let s = &self.shape;
        let (output, stats) = k::norm_conv(&self.parts(i), s);
        let shape = vec![s.batch, s.out_channels, s.out_height(), s.out_width()];
        Forward { output, shape, saved: vec![stats] }
    }
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>> {
        let (parts, of_weight) = (self.parts(s.inputs), s.wants[3]);
        let g = k::norm_conv_backward(&parts, &s.saved[0], s.grad, &self.shape, of_weight);
        let [weight, bias] = g.norm.map(Some);
        let mut all = vec![Some(g.x), weight, bias, g.w, Some(g.bias)];
        match self.added {
            AddedKind::Nothing => {}
            AddedKind::Channels => all.push(Some(g.channels)),
            AddedKind::Image => all.push(None),
        }
        all
    }
    fn passes(&self) -> [bool; INPUTS] {
        std::array::from_fn(|i| i == 5 && self.added == AddedKind::Image)
    }
    fn keeps(&self) -> [bool; INPUTS] {
        first(4)
    }
}
