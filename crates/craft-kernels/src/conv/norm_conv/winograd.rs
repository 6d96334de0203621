//! Winograd's way, in f32: the input is normalised where its pixels are turned channels-last for
//! the tiles.

use super::{Added, NormConv, NormConvGradients};
use crate::buffer::{Output, Shared};
use crate::conv::shape::ConvShape;
use crate::conv::weight::conv2d_backward_weight;
use crate::conv::winograd::{Correlation, Normed, OfImages};
use crate::group_norm::over_images;
use crate::layout::add_channel_backward;
use crate::simd::Level;

/// See [`norm_conv`](super::norm_conv).
pub(super) fn forward(level: Level, p: &NormConv<'_>, s: &ConvShape) -> (Vec<f32>, Vec<f32>) {
    let (parts, norm) = (p.norm.groups, p.norm);
    let size = s.in_len() / (s.batch * parts);
    let (mut y, mut stats) = (Output::new(s.out_len()), Output::new(s.batch * parts * 2));
    let (to, to_stats) = (y.ptr(), stats.ptr());
    let group = |i: usize| {
        let stats = norm.group_statistics(level, &p.x[i * size..][..size]);
        // SAFETY: each group of each image writes its own statistics.
        unsafe { to_stats.at(2 * i).cast::<[f32; 2]>().write(stats) };
    };
    let of_images: Vec<f32>;
    let (bias, bias_step) = if let Added::Channels(t) = p.added {
        let images = t.chunks_exact(s.out_channels);
        of_images = images.flat_map(|t| p.bias.iter().zip(t).map(|(b, t)| b + t)).collect();
        (of_images.as_slice(), s.out_channels)
    } else {
        (p.bias, 0)
    };
    let correlation = Correlation {
        normed: Some(Normed { norm, stats: to_stats }),
        before: Some(OfImages { parts, flops: 8 * size, work: &group }),
        bias: Some(bias),
        bias_step,
        added: if let Added::Image(t) = p.added { Some(t) } else { None },
        ..Correlation::forward(s, p.w)
    };
    // SAFETY: the lengths were checked, and the pass writes every position of the output and all
    // statistics.
    unsafe {
        correlation.run(level, p.x, to);
        (y.finish(), stats.finish())
    }
}

/// See [`norm_conv_backward`](super::norm_conv_backward).
pub(super) fn backward(
    level: Level,
    p: &NormConv<'_>,
    stats: &[f32],
    dy: &[f32],
    s: &ConvShape,
    of_weight: bool,
) -> NormConvGradients {
    let (ci, co, parts, norm) = (s.in_channels, s.out_channels, p.norm.groups, p.norm);
    let (size, each) = (s.in_len() / (s.batch * parts), ci / parts);
    let mut dx = Output::new(s.in_len());
    let [mut sums, mut dots] = [(); 2].map(|()| Output::new(s.batch * ci));
    // The weight's gradient reads the normalised image, which takes one more product on the way
    // through the norm.
    let mut normed = of_weight.then(|| Output::new(s.in_len()));
    let (to, to_sums, to_dots) = (dx.ptr(), sums.ptr(), dots.ptr());
    let to_normed = normed.as_mut().map(Output::ptr);
    // What the correlation writes is the gradient of the norm's output, which turns into that of
    // its input where it stands.
    let group = |i: usize| {
        let (x, stats) = (&p.x[i * size..][..size], [stats[2 * i], stats[2 * i + 1]]);
        let (at, of_norm) = (to.at(i * size), [to_sums, to_dots].map(|to| to.at(i * each)));
        let normed = to_normed.map(|to| Shared::new(to.at(i * size)));
        // SAFETY: this group of this image was written, and is this part's own.
        unsafe { norm.group_backward(level, i % parts, (x, at), stats, (at, normed), of_norm) };
    };
    let correlation = Correlation {
        after: Some(OfImages { parts, flops: 80 * size, work: &group }),
        ..Correlation::input_gradient(s, p.w)
    };
    // SAFETY: the lengths were checked; the pass writes every position of dx, and its parts all
    // sums and the normalised images.
    let ([x, sums, dots], normed) = unsafe {
        correlation.run(level, dy, to);
        ([dx, sums, dots].map(|v| v.finish()), normed.map(|v| v.finish()))
    };
    let channels = add_channel_backward(dy, s.batch, co, s.out_height() * s.out_width());
    NormConvGradients {
        x,
        norm: [over_images(&dots, s.batch, ci), over_images(&sums, s.batch, ci)],
        w: normed.map(|normed| conv2d_backward_weight(&normed, dy, s)),
        bias: over_images(&channels, s.batch, co),
        channels,
    }
}
