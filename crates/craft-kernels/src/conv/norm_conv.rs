//! Half of a residual block in bf16 on AMX tiles: group norm, SiLU, a convolution and what is added to its output, image by image. The
//! normalised image never leaves the caches; the backward pass computes it again.

use super::backward::input_pass;
use super::forward::Pass;
use super::image::{Image, Start};
use super::shape::ConvShape;
use super::weight_tiles::weight_on_tiles;
use crate::buffer::{Output, scratch};
use crate::group_norm::{GroupNormSilu, over_images};
use crate::parallel;
use crate::reduce::Sum;
use crate::simd::bf16::Pairs;
use crate::simd::{Level, level};

/// Fewest images: each is one task.
const LEAST_IMAGES: usize = 8;

/// Values of the largest image: it would not stay in the caches.
const LARGEST_IMAGE: usize = 1 << 18;

/// What is added to the output of a convolution beside its bias.
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

/// Whether [`norm_conv`] serves a shape: stride 1, an even width, enough images of a size that fits the caches, all passes on tiles.
#[must_use]
pub fn fuses_norm_conv(s: &ConvShape) -> bool {
    let tiles = Pairs::active(level()).and_then(Pairs::tiles);
    tiles.is_some()
        && s.stride == [1, 1]
        && s.batch >= LEAST_IMAGES
        && s.in_len() > 0
        && s.in_len() / s.batch <= LARGEST_IMAGE
        && s.out_len() > 0
        && s.out_width().is_multiple_of(2)
        && !s.winograd()
        && !s.winograd_weight()
}

fn expect_pairs(level: Level, s: &ConvShape) -> Pairs {
    let pairs = Pairs::active(level).filter(|_| fuses_norm_conv(s));
    pairs.unwrap_or_else(|| panic!("{s:?} is not fused: ask `fuses_norm_conv` first"))
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
    let pairs = expect_pairs(level, s);
    check(p, s);
    let (co, groups) = (s.out_channels, p.norm.groups);
    assert_eq!(p.bias.len(), co, "bias");
    match p.added {
        Added::Nothing => {}
        Added::Channels(t) => assert_eq!(t.len(), s.batch * co, "channels"),
        Added::Image(t) => assert_eq!(t.len(), s.out_len(), "image"),
    }
    let [size, out] = [s.in_len(), s.out_len()].map(|len| len / s.batch);
    let (mut y, mut stats) = (Output::new(s.out_len()), Output::new(s.batch * 2 * groups));
    let (to, to_stats) = (y.ptr(), stats.ptr());
    let pass = Pass::forward(s, p.w, None, Some(pairs));
    pass.prepared(|prepared| {
        parallel::for_each(s.batch, pass.flops(), |n| {
            scratch(co, |bias| {
                bias.copy_from_slice(p.bias);
                let start = match p.added {
                    Added::Image(t) => Start::Sum(bias, &t[n * out..][..out]),
                    Added::Channels(t) => {
                        bias.iter_mut().zip(&t[n * co..][..co]).for_each(|(b, t)| *b += t);
                        Start::Bias(bias)
                    }
                    Added::Nothing => Start::Bias(bias),
                };
                let x = &p.x[n * size..][..size];
                // SAFETY: statistics and output of image n are this task's own.
                unsafe {
                    let stats = to_stats.at(n * 2 * groups);
                    let stats = std::slice::from_raw_parts_mut(stats, 2 * groups);
                    p.norm.statistics(level, x, stats);
                    let x = Image::Normed(x, p.norm, stats);
                    pass.image(level, prepared, x, [0, co], start, to.at(n * out));
                }
            });
        });
    });
    // SAFETY: the tasks cover all images.
    unsafe { (y.finish(), stats.finish()) }
}

/// Gradients of [`norm_conv`].
pub struct NormConvGradients {
    /// Of the input.
    pub x: Vec<f32>,
    /// Of the norm's weight and bias.
    pub norm: [Vec<f32>; 2],
    /// Of the convolution's weight, where it is wanted.
    pub w: Option<Vec<f32>>,
    /// Of its bias.
    pub bias: Vec<f32>,
    /// Of values added to each channel of each image.
    pub channels: Vec<f32>,
}

/// Gradients of [`norm_conv`] from its inputs, the statistics that it returned, and `dy` in the shape of the output; that of an added
/// image is `dy` itself. Bias and what was added are not read.
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
    let pairs = expect_pairs(level, s);
    check(p, s);
    let (ci, co, groups) = (s.in_channels, s.out_channels, p.norm.groups);
    assert!(dy.len() == s.out_len() && stats.len() == s.batch * 2 * groups, "dy and statistics");
    let Some(pass) = input_pass(s, p.w, Some(pairs)) else { unreachable!("stride 1") };
    let [size, out] = [s.in_len(), s.out_len()].map(|len| len / s.batch);
    let mut dx = Output::new(s.in_len());
    let [mut sums, mut dots, mut channels] = [ci, ci, co].map(|c| Output::new(s.batch * c));
    let (to, to_sums, to_dots, to_channels) = (dx.ptr(), sums.ptr(), dots.ptr(), channels.ptr());
    let stats_of = |n: usize| &stats[n * 2 * groups..][..2 * groups];
    pass.prepared(|prepared| {
        parallel::for_each(s.batch, pass.flops(), |n| {
            let dy = &dy[n * out..][..out];
            scratch(size, |above| {
                let x = &p.x[n * size..][..size];
                // SAFETY: image n of the gradients is this task's own.
                unsafe {
                    let start = Start::Zero;
                    pass.image(
                        level,
                        prepared,
                        Image::Plain(dy),
                        [0, ci],
                        start,
                        above.as_mut_ptr(),
                    );
                    let of_norm = [to_sums.at(n * ci), to_dots.at(n * ci)];
                    p.norm.image_backward(level, (x, above), stats_of(n), to.at(n * size), of_norm);
                    for (o, dy) in dy.chunks_exact(out / co).enumerate() {
                        to_channels.at(n * co + o).write(level.run(Sum(dy)) as f32);
                    }
                }
            });
        });
    });
    let w = of_weight.then(|| {
        let positions = size / ci;
        let channel = |n: usize, c: usize, room: &mut [f32]| {
            let x = &p.x[(n * ci + c) * positions..][..positions];
            p.norm.channel(level, x, c, stats_of(n), room);
            room.as_ptr()
        };
        // SAFETY: `room` is one channel of one image.
        unsafe { weight_on_tiles(pairs, channel, dy, s) }
    });
    // SAFETY: the tasks cover all images.
    let [x, sums, dots, channels] =
        unsafe { [dx.finish(), sums.finish(), dots.finish(), channels.finish()] };
    NormConvGradients {
        x,
        norm: [over_images(&dots, s.batch, ci), over_images(&sums, s.batch, ci)],
        w,
        bias: over_images(&channels, s.batch, co),
        channels,
    }
}
