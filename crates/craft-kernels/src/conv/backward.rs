//! Gradients with respect to the input and the bias.

use super::forward::Pass;
use super::planes::Geometry;
use super::pointwise::multiply;
use super::shape::ConvShape;
use super::taps::Taps;
use super::winograd::Correlation;
use crate::buffer::{Output, Shared, scratch};
use crate::parallel;
use crate::reduce::Sum;
use crate::simd::bf16::Pairs;
use crate::simd::level;

/// Gradient of [`conv2d`](super::conv2d) with respect to `x`; `dy` has the shape of the output.
///
/// Input rows `y` with the same `(y + top) mod stride` are reached by the same kernel rows, so each
/// such phase is a correlation of `dy` with a flipped part of the kernel, at stride 1.
#[must_use]
pub fn conv2d_backward_input(dy: &[f32], w: &[f32], s: &ConvShape) -> Vec<f32> {
    s.check();
    assert_eq!(dy.len(), s.out_len(), "dy");
    assert_eq!(w.len(), s.weight_len(), "w");
    let level = level();
    let mut dx = Output::new(s.in_len());
    let to = dx.ptr();
    if s.winograd() {
        // SAFETY: the lengths were checked above, and the pass writes every position of the fresh
        // vector.
        return unsafe {
            Correlation::input_gradient(s, w).run(level, dy, to);
            dx.finish()
        };
    }
    let pairs = Pairs::active(level);
    if pairs.is_none() && s.pointwise() {
        // SAFETY: as above.
        return unsafe {
            multiply(level, dy, w, None, s, true, to);
            dx.finish()
        };
    }
    for (v, h) in phases_of(s) {
        if v.taps == 0 || h.taps == 0 || s.out_len() == 0 {
            scratch(s.batch * s.in_channels * v.count * h.count, |part| {
                part.fill(0.0);
                scatter(part, to, s, &v, &h);
            });
            continue;
        }
        let pass = phase_pass(s, w, pairs, &v, &h);
        if s.stride == [1, 1] {
            // SAFETY: the only phase covers the whole of dx.
            unsafe { pass.run(level, dy, to) };
        } else {
            scratch(s.batch * s.in_channels * v.count * h.count, |part| {
                // SAFETY: the buffer has one value for every position of the phase.
                unsafe { pass.run(level, dy, Shared::new(part.as_mut_ptr())) };
                scatter(part, to, s, &v, &h);
            });
        }
    }
    // SAFETY: the phases together cover every input position.
    unsafe { dx.finish() }
}

/// The correlation that makes one phase of the input gradient.
fn phase_pass<'a>(
    s: &ConvShape,
    w: &'a [f32],
    pairs: Option<Pairs>,
    v: &Phase,
    h: &Phase,
) -> Pass<'a> {
    let [kh, kw] = s.kernel;
    Pass {
        batch: s.batch,
        inputs: s.out_channels,
        outputs: s.in_channels,
        geometry: Geometry {
            height: s.out_height(),
            width: s.out_width(),
            out_height: v.count,
            out_width: h.count,
            kernel: [v.taps, h.taps],
            stride: [1, 1],
            top: v.pad,
            left: h.pad,
        },
        taps: Taps {
            w,
            first: v.last_tap * kw + h.last_tap,
            out: kh * kw,
            input: s.in_channels * kh * kw,
            row: -((s.stride[0] * kw) as isize),
            column: -(s.stride[1] as isize),
        },
        bias: None,
        pairs,
    }
}

/// The correlation that makes the whole input gradient of a convolution with stride 1, if its input
/// and output have values.
pub(super) fn input_pass<'a>(
    s: &ConvShape,
    w: &'a [f32],
    pairs: Option<Pairs>,
) -> Option<Pass<'a>> {
    let (v, h) = phases_of(s).next().filter(|_| s.stride == [1, 1])?;
    Some(phase_pass(s, w, pairs, &v, &h))
}

/// Phases of rows and columns, each with each.
fn phases_of(s: &ConvShape) -> impl Iterator<Item = (Phase, Phase)> {
    let vertical = phases(s.height, s.padding[0], s.kernel[0], s.stride[0]);
    let horizontal = phases(s.width, s.padding[2], s.kernel[1], s.stride[1]);
    vertical.into_iter().flat_map(move |v| horizontal.clone().into_iter().map(move |h| (v, h)))
}

/// The input positions `start, start + stride, ..` along one axis and the kernel taps that reach
/// them.
#[derive(Clone, Copy)]
struct Phase {
    start: usize,
    count: usize,
    taps: usize,
    /// The largest of those taps: the flipped kernel begins with it.
    last_tap: usize,
    /// Padding of the correlation over `dy`; negative where its first values are skipped.
    pad: isize,
}

fn phases(len: usize, pad: usize, kernel: usize, stride: usize) -> Vec<Phase> {
    (0..stride.min(len))
        .map(|start| {
            let (phase, quotient) = ((start + pad) % stride, (start + pad) / stride);
            let taps = if kernel > phase { (kernel - phase).div_ceil(stride) } else { 0 };
            Phase {
                start,
                count: (len - start).div_ceil(stride),
                taps,
                last_tap: phase + stride * taps.saturating_sub(1),
                pad: taps as isize - 1 - quotient as isize,
            }
        })
        .collect()
}

/// Spreads the values of one phase over the input gradient.
fn scatter(part: &[f32], to: Shared, s: &ConvShape, v: &Phase, h: &Phase) {
    let [sy, sx] = s.stride;
    let size = v.count * h.count;
    parallel::for_ranges(s.batch * s.in_channels, 4 * size, |start, end| {
        for plane in start..end {
            for y in 0..v.count {
                let row = (plane * s.height + v.start + y * sy) * s.width + h.start;
                let from = &part[plane * size + y * h.count..][..h.count];
                for (x, &value) in from.iter().enumerate() {
                    // SAFETY: x < count keeps h.start + x * stride inside the row; each plane has
                    // one writer.
                    unsafe { to.at(row + x * sx).write(value) };
                }
            }
        }
    });
}

/// Gradient of [`conv2d`](super::conv2d) with respect to the bias; returns `[out_channels]`.
#[must_use]
pub fn conv2d_backward_bias(dy: &[f32], s: &ConvShape) -> Vec<f32> {
    s.check();
    assert_eq!(dy.len(), s.out_len(), "dy");
    let level = level();
    let (c, hw) = (s.out_channels, s.out_height() * s.out_width());
    let mut out = Output::new(c);
    let db = out.ptr();
    parallel::for_ranges(c, 4 * s.batch * hw, |start, end| {
        for o in start..end {
            let mut total = 0.0;
            for n in 0..s.batch {
                total += level.run(Sum(&dy[(n * c + o) * hw..][..hw]));
            }
            // SAFETY: each channel writes its own value.
            unsafe { db.at(o).write(total as f32) };
        }
    });
    // SAFETY: the ranges cover all channels.
    unsafe { out.finish() }
}
