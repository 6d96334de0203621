//! Moving and adding data: transposes, nearest upsampling, channel offsets, concatenation.

use crate::buffer::{Output, Shared};
use crate::gemm::pack::Transpose;
use crate::parallel;
use crate::reduce::Sum;
use crate::simd::map::{Binary, for_vectors, map2, read, write};
use crate::simd::{Kernel, Simd, level};

/// What moving a value through memory costs, in floating-point operations that take as long.
const COPY: usize = 8;

/// Swaps the last two axes: `x [b, r, c]`; returns `[b, c, r]`.
#[must_use]
pub fn transpose(x: &[f32], b: usize, r: usize, c: usize) -> Vec<f32> {
    assert_eq!(x.len(), b * r * c, "x");
    let level = level();
    let mut out = Output::new(x.len());
    let y = out.ptr();
    // Strips of rows that keep the written lines in the cache.
    let strip = 64.min(r.max(1));
    let strips = r.div_ceil(strip);
    parallel::for_each(b * strips, COPY * x.len(), |task| {
        let (i, r0) = (task / strips, task % strips * strip);
        let rows = (r - r0).min(strip);
        // SAFETY: each task reads and writes its own rows of the source and columns of the target.
        unsafe {
            level.run(Transpose::new(
                x.as_ptr().add((i * r + r0) * c),
                c,
                rows,
                c,
                y.at(i * r * c + r0),
                r,
                0,
            ));
        }
    });
    // SAFETY: the strips cover all rows.
    unsafe { out.finish() }
}

/// Doubles height and width by repetition: `x [planes, h, w]`; returns `[planes, 2 h, 2 w]`.
#[must_use]
pub fn upsample_nearest2x(x: &[f32], planes: usize, h: usize, w: usize) -> Vec<f32> {
    assert_eq!(x.len(), planes * h * w, "x");
    let mut out = Output::new(4 * x.len());
    let y = out.ptr();
    parallel::for_ranges(planes * h, 4 * COPY * w, |start, end| {
        for row in start..end {
            let from = &x[row * w..(row + 1) * w];
            let to = y.at(row * 4 * w);
            // SAFETY: input row `row` owns the 4 w values of two output rows.
            unsafe {
                for (i, &v) in from.iter().enumerate() {
                    to.add(2 * i).write(v);
                    to.add(2 * i + 1).write(v);
                }
                std::ptr::copy_nonoverlapping(to, to.add(2 * w), 2 * w);
            }
        }
    });
    // SAFETY: the ranges cover all rows.
    unsafe { out.finish() }
}

/// Gradient of [`upsample_nearest2x`]: `dy [planes, 2 h, 2 w]`; returns `[planes, h, w]`.
#[must_use]
pub fn upsample_nearest2x_backward(dy: &[f32], planes: usize, h: usize, w: usize) -> Vec<f32> {
    assert_eq!(dy.len(), 4 * planes * h * w, "dy");
    let mut out = Output::new(planes * h * w);
    let dx = out.ptr();
    parallel::for_ranges(planes * h, 4 * COPY * w, |start, end| {
        for row in start..end {
            let (a, b) = dy[row * 4 * w..(row + 1) * 4 * w].split_at(2 * w);
            for (i, (a, b)) in a.chunks_exact(2).zip(b.chunks_exact(2)).enumerate() {
                // SAFETY: each row writes its own w values.
                unsafe { dx.at(row * w + i).write((a[0] + a[1]) + (b[0] + b[1])) };
            }
        }
    });
    // SAFETY: the ranges cover all rows.
    unsafe { out.finish() }
}

struct Offset<'a> {
    x: &'a [f32],
    t: f32,
    y: Shared,
}

impl Kernel for Offset<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let t = s.splat(self.t);
        for_vectors!(S, self.x.len(), |i, n| {
            // SAFETY: n values from index i are inside x and y.
            unsafe { write(s, self.y.at(i), s.add(read(s, self.x.as_ptr().add(i), n), t), n) };
        });
    }
}

/// Adds one value a channel: `x [n, c, hw]`, `t [n, c]`; returns `[n, c, hw]`.
#[must_use]
pub fn add_channel(x: &[f32], t: &[f32], n: usize, c: usize, hw: usize) -> Vec<f32> {
    assert_eq!(x.len(), n * c * hw, "x");
    assert_eq!(t.len(), n * c, "t");
    let level = level();
    let mut out = Output::new(x.len());
    let y = out.ptr();
    parallel::for_ranges(n * c, COPY * hw, |start, end| {
        for i in start..end {
            level.run(Offset {
                x: &x[i * hw..(i + 1) * hw],
                t: t[i],
                y: Shared::new(y.at(i * hw)),
            });
        }
    });
    // SAFETY: the ranges cover all channels.
    unsafe { out.finish() }
}

/// Gradient of [`add_channel`] with respect to `t`: `dy [n, c, hw]` summed over `hw`; returns `[n,
/// c]`.
#[must_use]
pub fn add_channel_backward(dy: &[f32], n: usize, c: usize, hw: usize) -> Vec<f32> {
    assert_eq!(dy.len(), n * c * hw, "dy");
    let level = level();
    let mut out = Output::new(n * c);
    let dt = out.ptr();
    parallel::for_ranges(n * c, COPY * hw, |start, end| {
        for i in start..end {
            let sum = level.run(Sum(&dy[i * hw..(i + 1) * hw])) as f32;
            // SAFETY: each channel writes its own value.
            unsafe { dt.at(i).write(sum) };
        }
    });
    // SAFETY: the ranges cover all channels.
    unsafe { out.finish() }
}

#[derive(Clone, Copy)]
struct Add;
impl Binary for Add {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V {
        s.add(a, b)
    }
}

/// Sum of two tensors of the same shape.
#[must_use]
pub fn add(a: &[f32], b: &[f32]) -> Vec<f32> {
    map2(level(), a, b, COPY, Add)
}

/// Joins tensors `[n, c_i, hw]` along the channel axis; returns `[n, sum of c_i, hw]`.
#[must_use]
pub fn concat_channels(parts: &[(&[f32], usize)], n: usize, hw: usize) -> Vec<f32> {
    for (x, c) in parts {
        assert_eq!(x.len(), n * c * hw, "part");
    }
    let total: usize = parts.iter().map(|(_, c)| c).sum();
    let mut out = Output::new(n * total * hw);
    let y = out.ptr();
    parallel::for_each(n, COPY * n * total * hw, |i| {
        let mut at = i * total * hw;
        for (x, c) in parts {
            let from = &x[i * c * hw..(i + 1) * c * hw];
            // SAFETY: image i owns total * hw values from i * total * hw, of which each part writes
            // its own.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), y.at(at), from.len()) };
            at += from.len();
        }
    });
    // SAFETY: the parts of each image cover its channels.
    unsafe { out.finish() }
}

/// Undoes [`concat_channels`]: splits `x [n, sum of c_i, hw]` into tensors `[n, c_i, hw]`.
#[must_use]
pub fn split_channels(x: &[f32], channels: &[usize], n: usize, hw: usize) -> Vec<Vec<f32>> {
    let total: usize = channels.iter().sum();
    assert_eq!(x.len(), n * total * hw, "x");
    let mut first = 0;
    channels
        .iter()
        .map(|c| {
            let mut out = Output::new(n * c * hw);
            let y = out.ptr();
            parallel::for_each(n, COPY * n * c * hw, |i| {
                let from = &x[(i * total + first) * hw..][..c * hw];
                // SAFETY: image i owns c * hw values of this part.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), y.at(i * c * hw), c * hw) };
            });
            first += c;
            // SAFETY: the images cover the part.
            unsafe { out.finish() }
        })
        .collect()
}
