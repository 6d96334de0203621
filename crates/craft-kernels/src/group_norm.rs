//! Group normalisation, with the activation that follows it in the residual blocks.

mod backward;

pub use backward::group_norm_backward;
pub(crate) use backward::over_images;

use crate::activation::Swish;
use crate::buffer::{Output, Shared};
use crate::parallel;
use crate::reduce::moments;
use crate::simd::map::{Unary, for_vectors, read, write};
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

/// Scale and shift that normalise and then apply the affine map.
fn affine(mean: f32, rstd: f32, weight: f32, bias: f32) -> (f32, f32) {
    let scale = rstd * weight;
    (scale, (-mean).mul_add(scale, bias))
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
            let (scale, shift) = affine(mean, rstd, weight, bias);
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

    /// Mean and reciprocal deviation of one group of one image.
    pub(crate) fn group_statistics(&self, level: Level, x: &[f32]) -> [f32; 2] {
        level.run(Moments { x, eps: self.eps }).into()
    }

    /// The same of each group of one image.
    pub(crate) fn statistics(&self, level: Level, x: &[f32], stats: &mut [f32]) {
        let size = x.len() / self.groups;
        for (x, stats) in x.chunks_exact(size).zip(stats.chunks_exact_mut(2)) {
            stats.copy_from_slice(&self.group_statistics(level, x));
        }
    }

    /// Scale and shift of one channel of an image with these statistics.
    pub(crate) fn affine(&self, c: usize, stats: &[f32]) -> (f32, f32) {
        let g = c / self.channels();
        affine(stats[2 * g], stats[2 * g + 1], self.weight[c], self.bias[c])
    }

    /// One channel of an image with these statistics.
    pub(crate) fn channel(&self, level: Level, x: &[f32], c: usize, stats: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "x and y");
        let (scale, shift) = self.affine(c, stats);
        let y = Shared::new(y.as_mut_ptr());
        level.run(Affine { x, y, scale, shift, silu: true });
    }
}

/// Normalises each of `groups` groups of channels over its channels and positions, then applies the
/// affine map and, with `silu`, `v * sigmoid(v)`.
///
/// `x [n, c, hw]`, `weight [c]`, `bias [c]`; returns `y [n, c, hw]`, and mean and reciprocal
/// deviation `[n * groups]`.
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
