//! Gradient with respect to the weight.
//!
//! For a block of input channels, `dw[(channel, tap), o] += sum over p of plane[tap offset + p] *
//! dy[p, o]`, image after image: rows of the product are taps, read straight from the planes, and
//! the vectors run over output channels.
//!
//! In bf16, words pair neighbouring positions. A tap must then start at an even one, which it does
//! where the output's width is even; odd widths stay in `f32`.

use super::planes::Geometry;
use super::shape::ConvShape;
use super::weight_tiles::weight_on_tiles;
use super::winograd::weight_gradient;
use crate::buffer::{Output, Shared, scratch};
use crate::gemm::block::panel_vectors;
use crate::gemm::pack::Transpose;
use crate::gemm::{Block, Init};
use crate::parallel;
use crate::simd::bf16::Pairs;
use crate::simd::level;

/// Positions (or words of two) of one product.
const KC: usize = 256;
/// Positions summed in one chain before the sum is added to the total.
const CHAIN: usize = 4096;
/// Values of the planes of one block of channels that keep the cache warm.
const PLANES: usize = 64 << 10;

/// Gradient of [`conv2d`](super::conv2d) with respect to `w`; `dy` has the shape of the output.
#[must_use]
pub fn conv2d_backward_weight(x: &[f32], dy: &[f32], s: &ConvShape) -> Vec<f32> {
    s.check();
    assert_eq!(x.len(), s.in_len(), "x");
    assert_eq!(dy.len(), s.out_len(), "dy");
    let level = level();
    let g = Geometry::forward(s);
    let (positions, taps) = (g.positions(), s.kernel[0] * s.kernel[1]);
    let (ci, co, image) = (s.in_channels, s.out_channels, s.height * s.width);
    if s.out_len() == 0 || s.in_len() == 0 {
        return vec![0.0; s.weight_len()];
    }
    if s.winograd_weight() {
        return weight_gradient(level, x, dy, s);
    }
    let pairs = Pairs::active(level).filter(|_| g.out_width.is_multiple_of(2));
    if let Some(pairs) = pairs.filter(|p| p.tiles().is_some()) {
        let of_channel = |n: usize, c: usize, _: &mut [f32]| x[(n * ci + c) * image..].as_ptr();
        // SAFETY: x holds every channel of every image.
        return unsafe { weight_on_tiles(pairs, of_channel, dy, s) };
    }
    let width = panel_vectors(co, level.lanes()) * level.lanes();
    let panels = co.div_ceil(width);
    let block = (PLANES / g.channel_len()).clamp(4, 32).min(ci.div_ceil(4));
    let tasks = ci.div_ceil(block);
    // From here on, lengths of the sum are in words.
    let each = if pairs.is_some() { 2 } else { 1 };
    let (values, positions) = (positions, positions / each);
    let (channel_values, channel_len) = (g.channel_len(), g.channel_len() / each);
    let table: Vec<usize> = g.offsets(block, 1).into_iter().map(|at| at / each).collect();
    let mut dw = Output::new(s.weight_len());
    let to = dw.ptr();
    scratch(s.batch * panels * positions * width, |turned| {
        let dyt = Shared::new(turned.as_mut_ptr());
        parallel::for_each(s.batch * panels, 8 * dy.len(), |task| {
            let (n, o) = (task / panels, task % panels * width);
            let rows = (co - o).min(width);
            scratch(if pairs.is_some() { rows * positions } else { 0 }, |words| {
                // SAFETY: channels o..o + rows of image n are inside dy; each task writes its own
                // panel.
                unsafe {
                    let mut from = dy.as_ptr().add((n * co + o) * values);
                    if let Some(pairs) = pairs {
                        pairs.rows(from, values, rows, values, words.as_mut_ptr(), positions);
                        from = words.as_ptr();
                    }
                    let dst = dyt.at(task * positions * width);
                    level.run(Transpose::new(from, positions, rows, positions, dst, width, width));
                }
            });
        });
        parallel::for_each(tasks, s.flops(), |task| {
            let c0 = task * block;
            let channels = (ci - c0).min(block);
            let rows = channels * taps;
            let in_place = g.direct() && pairs.is_none();
            let planes_len = if in_place { 0 } else { channels * channel_len };
            let plane_len = if g.direct() || pairs.is_none() { 0 } else { channel_values };
            let size = rows * co;
            scratch(planes_len + plane_len + 2 * size, |buffer| {
                let (planes, rest) = buffer.split_at_mut(planes_len);
                let (plane, sums) = rest.split_at_mut(plane_len);
                let (sum, total) = sums.split_at_mut(size);
                total.fill(0.0);
                let mut chained = 0;
                for n in 0..s.batch {
                    let first = (n * ci + c0) * image;
                    let a = if in_place {
                        x[first..first + channels * image].as_ptr()
                    } else {
                        for c in 0..channels {
                            let from = first + c * image;
                            let x = &x[from..from + image];
                            let to = &mut planes[c * channel_len..(c + 1) * channel_len];
                            let Some(pairs) = pairs else {
                                g.fill(x, to);
                                continue;
                            };
                            let from = if g.direct() {
                                x
                            } else {
                                g.fill(x, plane);
                                &*plane
                            };
                            let (from, dst) = (from.as_ptr(), to.as_mut_ptr());
                            // SAFETY: both are as long as the planes of one channel.
                            unsafe { pairs.rows(from, 0, 1, channel_values, dst, 0) };
                        }
                        planes.as_ptr()
                    };
                    for p0 in (0..positions).step_by(KC) {
                        let ps = (positions - p0).min(KC);
                        let mut m = Block::<false, false>::new(rows, co, ps);
                        (m.a, m.a_table) = (a.wrapping_add(p0), table.as_ptr());
                        m.b = dyt.at(n * panels * positions * width + p0 * width);
                        (m.ldb, m.b_panel, m.b_padded) = (width, positions * width, true);
                        (m.c, m.ldc) = (sum.as_mut_ptr(), co);
                        m.init = if chained == 0 { Init::Zero } else { Init::Load };
                        // SAFETY: every tap offset leaves `positions` values of its plane; the
                        // panels of image n hold
                        // `positions` rows of `width`; `sum` holds rows * co values.
                        unsafe { m.ready().compute(level, pairs) };
                        chained += ps;
                        if chained >= CHAIN {
                            total.iter_mut().zip(&*sum).for_each(|(t, v)| *t += v);
                            chained = 0;
                        }
                    }
                }
                if chained > 0 {
                    total.iter_mut().zip(&*sum).for_each(|(t, v)| *t += v);
                }
                // SAFETY: `total` is [rows, co]; this task owns columns c0 * taps.. of dw [co, ci *
                // taps].
                unsafe {
                    let (from, dst) = (total.as_ptr(), to.at(c0 * taps));
                    level.run(Transpose::new(from, co, rows, co, dst, ci * taps, 0));
                }
            });
        });
    });
    // SAFETY: the tasks cover all input channels.
    unsafe { dw.finish() }
}
