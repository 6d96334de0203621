//! Half of a residual block: group norm, SiLU, a convolution and what is added to its output, in
//! one pass over the images. The forward pass never writes the normalised image to memory, and the
//! backward pass, which computes it again, needs none to be kept.
//!
//! Where the convolution is direct in bf16 on AMX tiles, image by image ([`tiles`]); where it goes
//! Winograd's way, on the way into and out of its tiles ([`winograd`]).

mod tiles;
mod winograd;

use super::shape::ConvShape;
use crate::group_norm::GroupNormSilu;
use crate::simd::bf16::Pairs;
use crate::simd::{Level, level};

/// What is added to the output of a convolution in addition to its bias.
#[derive(Clone, Copy, Debug)]
pub enum Added<'a> {
    /// Nothing.
    Nothing,
    /// A value for each channel of each image, `[batch, out_channels]`.
    Channels(&'a [f32]),
    /// An image of the output's shape.
    Image(&'a [f32]),
}

/// `conv(silu(norm(x))) + bias + added`; shapes as in [`ConvShape`].
#[derive(Clone, Copy)]
pub struct NormConv<'a> {
    /// Input.
    pub x: &'a [f32],
    /// Group norm over its channels.
    pub norm: GroupNormSilu<'a>,
    /// Weight of the convolution.
    pub w: &'a [f32],
    /// Its bias, `[out_channels]`.
    pub bias: &'a [f32],
    /// What is added to its output.
    pub added: Added<'a>,
}

/// How a shape is served.
enum Way {
    Tiles(Pairs),
    Winograd,
}

impl Way {
    fn of(level: Level, s: &ConvShape) -> Option<Self> {
        if s.winograd() {
            return (s.batch > 0).then_some(Self::Winograd);
        }
        Pairs::active(level).filter(|pairs| tiles::fuses(*pairs, s)).map(Self::Tiles)
    }

    fn expect(level: Level, s: &ConvShape) -> Self {
        let way = Self::of(level, s);
        way.unwrap_or_else(|| panic!("{s:?} is not fused: ask `fuses_norm_conv` first"))
    }
}

/// Whether [`norm_conv`] serves a shape: one that goes Winograd's way, or whose passes are all on
/// AMX tiles, at stride 1 and an even width, and with enough images of a size that fits the caches.
#[must_use]
pub fn fuses_norm_conv(s: &ConvShape) -> bool {
    Way::of(level(), s).is_some()
}

fn check(p: &NormConv<'_>, s: &ConvShape) {
    s.check();
    assert!(p.x.len() == s.in_len() && p.w.len() == s.weight_len(), "x and w");
    let n = &p.norm;
    let one_each = n.weight.len() == s.in_channels && n.bias.len() == s.in_channels;
    assert!(one_each && n.groups > 0 && s.in_channels.is_multiple_of(n.groups), "norm");
}

/// The output, and mean and reciprocal deviation of each group `[batch, groups, 2]`.
///
/// # Panics
/// Where [`fuses_norm_conv`] says no.
#[must_use]
pub fn norm_conv(p: &NormConv<'_>, s: &ConvShape) -> (Vec<f32>, Vec<f32>) {
    let level = level();
    let way = Way::expect(level, s);
    check(p, s);
    assert_eq!(p.bias.len(), s.out_channels, "bias");
    match p.added {
        Added::Nothing => {}
        Added::Channels(t) => assert_eq!(t.len(), s.batch * s.out_channels, "channels"),
        Added::Image(t) => assert_eq!(t.len(), s.out_len(), "image"),
    }
    match way {
        Way::Tiles(pairs) => tiles::forward(level, pairs, p, s),
        Way::Winograd => winograd::forward(level, p, s),
    }
}

/// Gradients of [`norm_conv`].
pub struct NormConvGradients {
    /// Gradient of the input.
    pub x: Vec<f32>,
    /// Gradients of the norm's weight and bias.
    pub norm: [Vec<f32>; 2],
    /// Gradient of the convolution's weight, if it is wanted.
    pub w: Option<Vec<f32>>,
    /// Gradient of its bias.
    pub bias: Vec<f32>,
    /// Gradient of the values added to each channel of each image.
    pub channels: Vec<f32>,
}

/// Gradients of [`norm_conv`] from its inputs, the statistics that it returned, and `dy` in the
/// shape of the output; that of an added image is `dy` itself. Bias and what was added are not
/// read.
///
/// # Panics
/// Where [`fuses_norm_conv`] says no.
#[must_use]
pub fn norm_conv_backward(
    p: &NormConv<'_>,
    stats: &[f32],
    dy: &[f32],
    s: &ConvShape,
    of_weight: bool,
) -> NormConvGradients {
    let level = level();
    let way = Way::expect(level, s);
    check(p, s);
    let stats_len = s.batch * 2 * p.norm.groups;
    assert!(dy.len() == s.out_len() && stats.len() == stats_len, "dy and statistics");
    match way {
        Way::Tiles(pairs) => tiles::backward(level, pairs, p, stats, dy, s, of_weight),
        Way::Winograd => winograd::backward(level, p, stats, dy, s, of_weight),
    }
}
