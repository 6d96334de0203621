//! Gradients of group normalisation.

use super::GroupNormSilu;
use crate::activation::Swish;
use crate::buffer::{Output, Shared};
use crate::parallel;
use crate::simd::map::{for_vectors, read, write};
use crate::simd::{Kernel, Level, Simd, level};

/// Sums over one channel of `g = dy * act'(v)` and of `g * xhat`; `g` itself goes to `slope`.
struct ChannelSums<'a> {
    x: &'a [f32],
    /// As long as `x`; may be the same as what is written.
    dy: *const f32,
    mean: f32,
    rstd: f32,
    weight: f32,
    bias: f32,
    silu: bool,
    slope: Shared,
    /// Where the output of the activation goes, if it is wanted.
    output: Option<Shared>,
}

/// Values added in `f32` before the sums move on to `f64`.
const RUN: usize = 512;

impl Kernel for ChannelSums<'_> {
    type Output = (f64, f64);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        let (mean, rstd) = (s.splat(self.mean), s.splat(self.rstd));
        let (w, b) = (s.splat(self.weight), s.splat(self.bias));
        let (mut sum, mut dot) = (0.0, 0.0);
        for (run, x) in self.x.chunks(RUN).enumerate() {
            let (dy, slope) = (self.dy.wrapping_add(run * RUN), self.slope.at(run * RUN));
            let (mut p, mut q) = (s.zero(), s.zero());
            for_vectors!(S, x.len(), |i, n| {
                // SAFETY: n values from index i are inside both runs; dy is zero in the lanes past
                // them.
                let (v, d) = unsafe { (read(s, x.as_ptr().add(i), n), read(s, dy.add(i), n)) };
                let xhat = s.mul(s.sub(v, mean), rstd);
                let g = if self.silu {
                    let (y, g) = Swish(1.0).with_gradient(s, s.fma(xhat, w, b), d);
                    // SAFETY: n values from this index are inside the channel's part of dx and of
                    // the output.
                    unsafe {
                        write(s, slope.wrapping_add(i), g, n);
                        if let Some(output) = self.output {
                            write(s, output.at(run * RUN + i), y, n);
                        }
                    }
                    g
                } else {
                    d
                };
                p = s.add(p, g);
                q = s.fma(g, xhat, q);
            });
            sum += f64::from(s.reduce_add(p));
            dot += f64::from(s.reduce_add(q));
        }
        (sum, dot)
    }
}

/// `dx = g * a + xhat * b + c` over one channel; with an activation, `g` is what [`ChannelSums`]
/// left in `dx`.
struct ChannelGradient<'a> {
    sums: ChannelSums<'a>,
    a: f32,
    b: f32,
    c: f32,
}

impl Kernel for ChannelGradient<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let h = self.sums;
        let (mean, rstd) = (s.splat(h.mean), s.splat(h.rstd));
        let (a, b, c) = (s.splat(self.a), s.splat(self.b), s.splat(self.c));
        let g = if h.silu { h.slope.get().cast_const() } else { h.dy };
        for_vectors!(S, h.x.len(), |i, n| {
            // SAFETY: n values from index i are inside x, dy and dx, and dx was written before
            // where it is read.
            unsafe {
                let xhat = s.mul(s.sub(read(s, h.x.as_ptr().add(i), n), mean), rstd);
                write(s, h.slope.at(i), s.fma(read(s, g.add(i), n), a, s.fma(xhat, b, c)), n);
            }
        });
    }
}

/// The backward pass over one group.
struct GroupBackward<'a> {
    x: &'a [f32],
    /// As long as `x`; may be the same as what is written.
    dy: *const f32,
    dx: Shared,
    weight: &'a [f32],
    bias: &'a [f32],
    mean: f32,
    rstd: f32,
    silu: bool,
    /// Where the output of the activation goes, if it is wanted.
    output: Option<Shared>,
    /// A sum of g and of g * xhat for each channel.
    sums: Shared,
    dots: Shared,
}

impl<'a> GroupBackward<'a> {
    // A call here would have its result read from memory too soon after it was written: a third of
    // the whole time.
    #[inline(always)]
    fn channel(&self, j: usize) -> ChannelSums<'a> {
        let hw = self.x.len() / self.weight.len();
        ChannelSums {
            x: &self.x[j * hw..][..hw],
            dy: self.dy.wrapping_add(j * hw),
            mean: self.mean,
            rstd: self.rstd,
            weight: self.weight[j],
            bias: self.bias[j],
            silu: self.silu,
            slope: Shared::new(self.dx.at(j * hw)),
            output: self.output.map(|to| Shared::new(to.at(j * hw))),
        }
    }
}

impl Kernel for GroupBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let size = self.x.len();
        let (mut sum, mut dot) = (0.0f64, 0.0f64);
        for (j, &weight) in self.weight.iter().enumerate() {
            let (p, q) = self.channel(j).run(s);
            sum += p * f64::from(weight);
            dot += q * f64::from(weight);
            // SAFETY: each channel of each image writes its own pair.
            unsafe {
                self.sums.at(j).write(p as f32);
                self.dots.at(j).write(q as f32);
            }
        }
        let r = f64::from(self.rstd);
        let b = (-r * dot / size as f64) as f32;
        let c = (-r * sum / size as f64) as f32;
        for (j, &weight) in self.weight.iter().enumerate() {
            ChannelGradient { sums: self.channel(j), a: self.rstd * weight, b, c }.run(s);
        }
    }
}

impl GroupNormSilu<'_> {
    /// Gradient of group `g` of an image to `dx`, and its output again, if that is wanted; the
    /// gradients of bias and weight that it contributes to `sums` and `dots`.
    ///
    /// # Safety
    /// As far as `x`, `dy` is readable and `dx`, which may be the same, writable, as is the output;
    /// `sums` and `dots` are for a value for each of the group's channels.
    pub(crate) unsafe fn group_backward(
        &self,
        level: Level,
        g: usize,
        (x, dy): (&[f32], *const f32),
        [mean, rstd]: [f32; 2],
        (dx, output): (*mut f32, Option<Shared>),
        [sums, dots]: [*mut f32; 2],
    ) {
        let channels = g * self.channels()..(g + 1) * self.channels();
        level.run(GroupBackward {
            x,
            dy,
            dx: Shared::new(dx),
            weight: &self.weight[channels.clone()],
            bias: &self.bias[channels],
            mean,
            rstd,
            silu: true,
            output,
            sums: Shared::new(sums),
            dots: Shared::new(dots),
        });
    }

    /// The same for all groups of an image.
    ///
    /// # Safety
    /// `dx` is writable for the image, `sums` and `dots` for a value a channel.
    pub(crate) unsafe fn image_backward(
        &self,
        level: Level,
        (x, dy): (&[f32], &[f32]),
        stats: &[f32],
        dx: *mut f32,
        [sums, dots]: [*mut f32; 2],
    ) {
        assert_eq!(x.len(), dy.len(), "x and dy");
        let (each, size) = (self.channels(), x.len() / self.groups);
        for (g, stats) in stats.chunks_exact(2).enumerate() {
            let (x, dy) = (&x[g * size..][..size], dy[g * size..][..size].as_ptr());
            let of_norm = [sums, dots].map(|to| to.wrapping_add(g * each));
            // SAFETY: the caller vouches for the whole image.
            unsafe {
                let to = (dx.wrapping_add(g * size), None);
                self.group_backward(level, g, (x, dy), [stats[0], stats[1]], to, of_norm);
            }
        }
    }
}

/// Gradients of [`group_norm`](super::group_norm): takes its inputs and the statistics it returned,
/// and `dy [n, c, hw]`; returns
/// `dx [n, c, hw]`, `dweight [c]`, `dbias [c]`.
#[must_use]
#[allow(clippy::too_many_arguments)]
pub fn group_norm_backward(
    x: &[f32],
    dy: &[f32],
    weight: &[f32],
    bias: &[f32],
    mean: &[f32],
    rstd: &[f32],
    n: usize,
    c: usize,
    hw: usize,
    groups: usize,
    silu: bool,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    assert!(x.len() == n * c * hw && dy.len() == x.len(), "x and dy");
    assert!(weight.len() == c && bias.len() == c, "weight and bias need one value a channel");
    assert!(groups > 0 && c.is_multiple_of(groups), "groups must divide the channels");
    assert!(
        mean.len() == n * groups && rstd.len() == n * groups,
        "statistics need one value a group"
    );
    let level = level();
    let each = c / groups;
    let size = each * hw;
    let mut dx = Output::new(x.len());
    let to = dx.ptr();
    // Sums of g and of g * xhat, one pair for every image and channel.
    let (mut sums, mut dots) = (Output::new(n * c), Output::new(n * c));
    let (to_sum, to_dot) = (sums.ptr(), dots.ptr());
    let cost = if silu { 80 } else { 20 };
    parallel::for_each(n * groups, cost * x.len(), |i| {
        let channels = i % groups * each..(i % groups + 1) * each;
        level.run(GroupBackward {
            x: &x[i * size..(i + 1) * size],
            dy: dy[i * size..(i + 1) * size].as_ptr(),
            dx: Shared::new(to.at(i * size)),
            weight: &weight[channels.clone()],
            bias: &bias[channels],
            mean: mean[i],
            rstd: rstd[i],
            silu,
            output: None,
            sums: Shared::new(to_sum.at(i * each)),
            dots: Shared::new(to_dot.at(i * each)),
        });
    });
    // SAFETY: the groups cover all elements and all pairs.
    let (dx, sums, dots) = unsafe { (dx.finish(), sums.finish(), dots.finish()) };
    (dx, over_images(&dots, n, c), over_images(&sums, n, c))
}

/// Sums `[n, c]` over the images, in order.
pub(crate) fn over_images(parts: &[f32], n: usize, c: usize) -> Vec<f32> {
    let mut total = vec![0.0f64; c];
    for image in parts.chunks_exact(c.max(1)).take(n) {
        total.iter_mut().zip(image).for_each(|(t, &v)| *t += f64::from(v));
    }
    total.into_iter().map(|t| t as f32).collect()
}
