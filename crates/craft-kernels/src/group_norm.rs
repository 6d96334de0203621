//! Group normalisation, with the activation that follows it in the residual blocks.

use crate::activation::Swish;
use crate::buffer::{Output, Shared};
use crate::parallel;
use crate::reduce::moments;
use crate::simd::map::{Binary, Unary, for_vectors, read, write};
use crate::simd::{Kernel, Level, Simd, level};

/// `y = act(x * scale + shift)` over one channel.
struct Affine<'a> {
    x: &'a [f32],
    y: Shared,
    scale: f32,
    shift: f32,
    silu: bool,
}

impl Kernel for Affine<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (a, b) = (s.splat(self.scale), s.splat(self.shift));
        for_vectors!(S, self.x.len(), |i, n| {
            // SAFETY: n values from index i are inside x and y.
            unsafe {
                let v = s.fma(read(s, self.x.as_ptr().add(i), n), a, b);
                write(
                    s,
                    self.y.at(i),
                    if self.silu { Unary::apply(Swish(1.0), s, v) } else { v },
                    n,
                );
            }
        });
    }
}

/// Mean and reciprocal deviation.
struct Moments<'a> {
    x: &'a [f32],
    eps: f32,
}

impl Kernel for Moments<'_> {
    type Output = (f32, f32);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, f32) {
        moments(s, self.x, self.eps)
    }
}

/// The forward pass over one group; returns its mean and reciprocal deviation.
struct Group<'a> {
    x: &'a [f32],
    y: Shared,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    silu: bool,
}

impl Kernel for Group<'_> {
    type Output = (f32, f32);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, f32) {
        let (x, size) = (self.x, self.x.len());
        let (mean, rstd) = moments(s, x, self.eps);
        let hw = size / self.weight.len();
        for (j, (&weight, &bias)) in self.weight.iter().zip(self.bias).enumerate() {
            let scale = rstd * weight;
            let shift = (-mean).mul_add(scale, bias);
            let y = Shared::new(self.y.at(j * hw));
            Affine { x: &x[j * hw..][..hw], y, scale, shift, silu: self.silu }.run(s);
        }
        (mean, rstd)
    }
}

/// Group norm of images `[c, hw]`, with its affine map and SiLU.
#[derive(Clone, Copy)]
pub struct GroupNormSilu<'a> {
    /// `[c]`
    pub weight: &'a [f32],
    /// `[c]`
    pub bias: &'a [f32],
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl GroupNormSilu<'_> {
    fn channels(&self) -> usize {
        self.weight.len() / self.groups
    }

    /// Mean and reciprocal deviation of each group of one image.
    pub(crate) fn statistics(&self, level: Level, x: &[f32], stats: &mut [f32]) {
        let size = x.len() / self.groups;
        for (x, stats) in x.chunks_exact(size).zip(stats.chunks_exact_mut(2)) {
            let (mean, rstd) = level.run(Moments { x, eps: self.eps });
            stats.copy_from_slice(&[mean, rstd]);
        }
    }

    /// One channel of an image with these statistics.
    pub(crate) fn channel(&self, level: Level, x: &[f32], c: usize, stats: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "x and y");
        let g = c / self.channels();
        let (mean, rstd) = (stats[2 * g], stats[2 * g + 1]);
        let scale = rstd * self.weight[c];
        let shift = (-mean).mul_add(scale, self.bias[c]);
        let y = Shared::new(y.as_mut_ptr());
        level.run(Affine { x, y, scale, shift, silu: true });
    }

    /// Gradient of one image to `dx`; those of the bias and the weight that it contributes to `sums` and `dots` `[c]`.
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
            level.run(GroupBackward {
                x: &x[g * size..][..size],
                dy: &dy[g * size..][..size],
                dx: Shared::new(dx.wrapping_add(g * size)),
                weight: &self.weight[g * each..][..each],
                bias: &self.bias[g * each..][..each],
                mean: stats[0],
                rstd: stats[1],
                silu: true,
                sums: Shared::new(sums.wrapping_add(g * each)),
                dots: Shared::new(dots.wrapping_add(g * each)),
            });
        }
    }
}

/// Normalises each of `groups` groups of channels over its channels and positions, then applies the affine map and,
/// with `silu`, `v * sigmoid(v)`.
///
/// `x [n, c, hw]`, `weight [c]`, `bias [c]`; returns `y [n, c, hw]`, and mean and reciprocal deviation `[n * groups]`.
#[must_use]
#[allow(clippy::too_many_arguments)]
pub fn group_norm(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    n: usize,
    c: usize,
    hw: usize,
    groups: usize,
    eps: f32,
    silu: bool,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    assert_eq!(x.len(), n * c * hw, "x");
    assert!(weight.len() == c && bias.len() == c, "weight and bias need one value a channel");
    assert!(groups > 0 && c.is_multiple_of(groups), "groups must divide the channels");
    let level = level();
    let each = c / groups;
    let size = each * hw;
    let (mut y, mut mean, mut rstd) =
        (Output::new(x.len()), Output::new(n * groups), Output::new(n * groups));
    let (to, to_mean, to_rstd) = (y.ptr(), mean.ptr(), rstd.ptr());
    let cost = if silu { 40 } else { 12 };
    parallel::for_each(n * groups, cost * x.len(), |i| {
        let channels = i % groups * each..(i % groups + 1) * each;
        let (m, r) = level.run(Group {
            x: &x[i * size..(i + 1) * size],
            y: Shared::new(to.at(i * size)),
            weight: &weight[channels.clone()],
            bias: &bias[channels],
            eps,
            silu,
        });
        // SAFETY: each group writes its own statistics.
        unsafe {
            to_mean.at(i).write(m);
            to_rstd.at(i).write(r);
        }
    });
    // SAFETY: the groups cover all elements.
    unsafe { (y.finish(), mean.finish(), rstd.finish()) }
}

/// Sums over one channel of `g = dy * act'(v)` and of `g * xhat`; `g` itself goes to `slope`.
struct ChannelSums<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    mean: f32,
    rstd: f32,
    weight: f32,
    bias: f32,
    silu: bool,
    slope: Shared,
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
        for (run, (x, dy)) in self.x.chunks(RUN).zip(self.dy.chunks(RUN)).enumerate() {
            let slope = self.slope.at(run * RUN);
            let (mut p, mut q) = (s.zero(), s.zero());
            for_vectors!(S, x.len(), |i, n| {
                // SAFETY: n values from index i are inside both runs; dy is zero in the lanes past them.
                let (v, d) =
                    unsafe { (read(s, x.as_ptr().add(i), n), read(s, dy.as_ptr().add(i), n)) };
                let xhat = s.mul(s.sub(v, mean), rstd);
                let g = if self.silu {
                    let g = Binary::apply(Swish(1.0), s, s.fma(xhat, w, b), d);
                    // SAFETY: n values from this index are inside the channel's part of dx.
                    unsafe { write(s, slope.wrapping_add(i), g, n) };
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

/// `dx = g * a + xhat * b + c` over one channel; with an activation, `g` is what [`ChannelSums`] left in `dx`.
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
        let g = if h.silu { h.slope.get().cast_const() } else { h.dy.as_ptr() };
        for_vectors!(S, h.x.len(), |i, n| {
            // SAFETY: n values from index i are inside x, dy and dx, and dx was written before where it is read.
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
    dy: &'a [f32],
    dx: Shared,
    weight: &'a [f32],
    bias: &'a [f32],
    mean: f32,
    rstd: f32,
    silu: bool,
    /// A sum of g and of g * xhat for each channel.
    sums: Shared,
    dots: Shared,
}

impl<'a> GroupBackward<'a> {
    // A call here would have its result read from memory too soon after it was written: a third of the whole time.
    #[inline(always)]
    fn channel(&self, j: usize) -> ChannelSums<'a> {
        let hw = self.x.len() / self.weight.len();
        ChannelSums {
            x: &self.x[j * hw..][..hw],
            dy: &self.dy[j * hw..][..hw],
            mean: self.mean,
            rstd: self.rstd,
            weight: self.weight[j],
            bias: self.bias[j],
            silu: self.silu,
            slope: Shared::new(self.dx.at(j * hw)),
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

/// Gradients of [`group_norm`]: takes its inputs and the statistics it returned, and `dy [n, c, hw]`; returns
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
            dy: &dy[i * size..(i + 1) * size],
            dx: Shared::new(to.at(i * size)),
            weight: &weight[channels.clone()],
            bias: &bias[channels],
            mean: mean[i],
            rstd: rstd[i],
            silu,
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
