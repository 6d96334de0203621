//! In bf16 on AMX tiles, image by image.

use super::{Added, NormConv, NormConvGradients};
use crate::buffer::{Output, scratch};
use crate::conv::backward::input_pass;
use crate::conv::forward::Pass;
use crate::conv::image::{Image, Start};
use crate::conv::shape::ConvShape;
use crate::conv::weight_tiles::weight_on_tiles;
use crate::group_norm::over_images;
use crate::parallel;
use crate::reduce::Sum;
use crate::simd::Level;
use crate::simd::bf16::Pairs;

/// Fewest images: each is one task.
const LEAST_IMAGES: usize = 8;

/// Values of the largest image: it would not stay in the caches.
const LARGEST_IMAGE: usize = 1 << 18;

/// Whether all passes of a shape go this way.
pub(super) fn fuses(pairs: Pairs, s: &ConvShape) -> bool {
    pairs.tiles().is_some()
        && s.stride == [1, 1]
        && s.batch >= LEAST_IMAGES
        && s.in_len() > 0
        && s.in_len() / s.batch <= LARGEST_IMAGE
        && s.out_len() > 0
        && s.out_width().is_multiple_of(2)
        && !s.winograd()
        && !s.winograd_weight()
}

/// See [`norm_conv`](super::norm_conv).
pub(super) fn forward(
    level: Level,
    pairs: Pairs,
    p: &NormConv<'_>,
    s: &ConvShape,
) -> (Vec<f32>, Vec<f32>) {
    let (co, groups) = (s.out_channels, p.norm.groups);
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

/// See [`norm_conv_backward`](super::norm_conv_backward).
pub(super) fn backward(
    level: Level,
    pairs: Pairs,
    p: &NormConv<'_>,
    stats: &[f32],
    dy: &[f32],
    s: &ConvShape,
    of_weight: bool,
) -> NormConvGradients {
    let (ci, co, groups) = (s.in_channels, s.out_channels, p.norm.groups);
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
