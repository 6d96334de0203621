//! Bicubic resizing with antialiasing (Keys' kernel with a = −0.5, stretched by the ratio when
//! shrinking), as Pillow does it on bytes and torchvision on floats; and without (a = −0.75, four
//! inputs for every output, edges repeated), as torchvision before 0.17 did it on floats.

use std::ops::Range;

use crate::reward::RgbImageRef;

/// Pillow keeps the weights of bytes as integers of this many fractional bits.
const BITS: u32 = 22;

/// Weights of consecutive inputs for one output.
struct Tap {
    start: usize,
    weights: Vec<f64>,
}

/// Keys' kernel with a parameter `a`.
fn kernel(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

/// The taps of some outputs.
fn taps_of(input: usize, output: usize, wanted: Range<usize>) -> Vec<Tap> {
    let ratio = input as f64 / output as f64;
    let stretch = ratio.max(1.0);
    let support = 2.0 * stretch;
    wanted
        .map(|i| {
            let centre = (i as f64 + 0.5) * ratio;
            let start = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(input);
            let at = |j: usize| (j as f64 - centre + 0.5) * (1.0 / stretch);
            let weights: Vec<f64> = (start..end).map(|j| kernel(at(j), -0.5)).collect();
            let sum: f64 = weights.iter().sum();
            Tap { start, weights: weights.iter().map(|w| w / sum).collect() }
        })
        .collect()
}

fn taps(input: usize, output: usize) -> Vec<Tap> {
    taps_of(input, output, 0..output)
}

/// Taps without antialiasing: the weights of inputs beyond an edge go to the edge.
fn aliased_taps(input: usize, output: usize) -> Vec<Tap> {
    let ratio = input as f64 / output as f64;
    let last = input as i64 - 1;
    (0..output)
        .map(|i| {
            let centre = (i as f64 + 0.5) * ratio - 0.5;
            let first = centre.floor() as i64 - 1;
            let start = first.clamp(0, last);
            let mut weights = vec![0.0; ((first + 3).clamp(0, last) - start + 1) as usize];
            for j in first..first + 4 {
                weights[(j.clamp(0, last) - start) as usize] += kernel(j as f64 - centre, -0.75);
            }
            Tap { start: start as usize, weights }
        })
        .collect()
}

/// Resizes as `PIL.Image.resize(.., BICUBIC)` does, to the bit: weights in fixed point, bytes between
/// the horizontal and the vertical pass. Gives `height · width · 3` bytes.
pub fn resize_pillow(image: RgbImageRef<'_>, width: usize, height: usize) -> Vec<u8> {
    let whole = Window { left: 0, top: 0, width, height };
    resize_pillow_window(image, width, height, whole)
}

/// A part of a resized picture, in its pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// The bytes of a window of [`resize_pillow`]'s result; the rest is not computed, so that pictures of
/// extreme proportions take no more memory than others.
pub(super) fn resize_pillow_window(
    image: RgbImageRef<'_>,
    width: usize,
    height: usize,
    window: Window,
) -> Vec<u8> {
    let Window { left, top, .. } = window;
    let columns = fixed(taps_of(image.width, width, left..left + window.width));
    let lines = fixed(taps_of(image.height, height, top..top + window.height));
    // Only the input rows that the window's lines look at.
    let first = if height == image.height { top } else { lines[0].0 };
    let last = match lines.last() {
        Some((start, weights)) if height != image.height => start + weights.len(),
        _ => top + window.height,
    };
    let mut rows = Vec::with_capacity((last - first) * window.width * 3);
    for row in image.pixels.chunks_exact(image.width * 3).skip(first).take(last - first) {
        if width == image.width {
            rows.extend_from_slice(&row[left * 3..(left + window.width) * 3]);
            continue;
        }
        for (start, weights) in &columns {
            for c in 0..3 {
                rows.push(weigh(row[start * 3 + c..].iter().step_by(3), weights));
            }
        }
    }
    if height == image.height {
        return rows;
    }
    let stride = window.width * 3;
    let mut out = Vec::with_capacity(window.height * stride);
    for (start, weights) in &lines {
        for x in 0..stride {
            out.push(weigh(rows[(start - first) * stride + x..].iter().step_by(stride), weights));
        }
    }
    out
}

fn fixed(taps: Vec<Tap>) -> Vec<(usize, Vec<i64>)> {
    let round = |w: &f64| (w * f64::from(1u32 << BITS)).round() as i64;
    taps.into_iter().map(|tap| (tap.start, tap.weights.iter().map(round).collect())).collect()
}

fn weigh<'a>(pixels: impl Iterator<Item = &'a u8>, weights: &[i64]) -> u8 {
    let half = 1i64 << (BITS - 1);
    let sum: i64 = half + pixels.zip(weights).map(|(p, w)| i64::from(*p) * w).sum::<i64>();
    (sum >> BITS).clamp(0, 255) as u8
}

/// Resizes channels in `[0, 1]` as `torchvision.transforms.functional.resize(.., BICUBIC,
/// antialias=True)` does on a float tensor, without clamping. Gives `[3, height, width]`.
pub fn resize_float(image: RgbImageRef<'_>, width: usize, height: usize) -> Vec<f32> {
    resize_planes(image, width, height, taps)
}

/// Resizes channels in `[0, 1]` as the same function does with `antialias=False`, which was its default
/// before torchvision 0.17, without clamping. Gives `[3, height, width]`.
pub fn resize_float_aliased(image: RgbImageRef<'_>, width: usize, height: usize) -> Vec<f32> {
    resize_planes(image, width, height, aliased_taps)
}

fn resize_planes(
    image: RgbImageRef<'_>,
    width: usize,
    height: usize,
    taps: fn(usize, usize) -> Vec<Tap>,
) -> Vec<f32> {
    // A line at a time: the whole picture in floats would take four times its bytes.
    let columns = (width != image.width).then(|| taps(image.width, width));
    let mut planes = Vec::with_capacity(3 * image.height * width);
    let mut line = vec![0f32; image.width];
    for c in 0..3 {
        for row in image.pixels.chunks_exact(3 * image.width) {
            for (value, pixel) in line.iter_mut().zip(row.chunks_exact(3)) {
                *value = f32::from(pixel[c]) / 255.0;
            }
            let Some(columns) = &columns else {
                planes.extend_from_slice(&line);
                continue;
            };
            for Tap { start, weights } in columns {
                let sum: f64 =
                    line[*start..].iter().zip(weights).map(|(v, w)| f64::from(*v) * w).sum();
                planes.push(sum as f32);
            }
        }
    }
    if height != image.height {
        let taps = taps(image.height, height);
        let mut out = Vec::with_capacity(3 * height * width);
        for plane in planes.chunks_exact(image.height * width) {
            for Tap { start, weights } in &taps {
                for x in 0..width {
                    let column = plane[start * width + x..].iter().step_by(width);
                    let sum: f64 = column.zip(weights).map(|(v, w)| f64::from(*v) * w).sum();
                    out.push(sum as f32);
                }
            }
        }
        planes = out;
    }
    planes
}
