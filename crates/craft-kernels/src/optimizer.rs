//! One pass of AdamW over a parameter.

use crate::buffer::Shared;
use crate::parallel;
use crate::simd::map::{for_vectors, read, write};
use crate::simd::{Kernel, Simd, level};

/// Coefficients of one step, as in PyTorch's `AdamW`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// `1 - beta1^t`.
    pub bias_correction1: f32,
    /// `1 - beta2^t`.
    pub bias_correction2: f32,
    /// Factor on the gradient, such as that of norm clipping.
    pub grad_scale: f32,
}

struct Step<'a> {
    p: Shared,
    g: &'a [f32],
    m: Shared,
    v: Shared,
    h: AdamW,
}

impl Kernel for Step<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let h = self.h;
        let (b1, b2) = (s.splat(h.beta1), s.splat(h.beta2));
        let (c1, c2) = (s.splat(1.0 - h.beta1), s.splat(1.0 - h.beta2));
        let keep = s.splat(1.0 - h.lr * h.weight_decay);
        let step = s.splat(-(h.lr / h.bias_correction1));
        let root2 = s.splat(h.bias_correction2.sqrt());
        let (eps, scale) = (s.splat(h.eps), s.splat(h.grad_scale));
        for_vectors!(S, self.g.len(), |i, n| {
            // SAFETY: n values from index i are inside all four arrays; no other task touches them.
            unsafe {
                let g = s.mul(read(s, self.g.as_ptr().add(i), n), scale);
                let m = s.fma(b1, read(s, self.m.at(i), n), s.mul(c1, g));
                let v = s.fma(b2, read(s, self.v.at(i), n), s.mul(c2, s.mul(g, g)));
                let d = s.add(s.div(s.sqrt(v), root2), eps);
                let p = s.mul(read(s, self.p.at(i), n), keep);
                write(s, self.p.at(i), s.fma(step, s.div(m, d), p), n);
                write(s, self.m.at(i), m, n);
                write(s, self.v.at(i), v, n);
            }
        });
    }
}

/// Updates `param` and the moments `m` and `v` in place with the gradient `grad`; all of the same
/// length.
pub fn adamw_step(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], h: &AdamW) {
    let n = grad.len();
    assert!(
        param.len() == n && m.len() == n && v.len() == n,
        "param, grad and moments of different lengths"
    );
    let level = level();
    let (p, m, v) =
        (Shared::new(param.as_mut_ptr()), Shared::new(m.as_mut_ptr()), Shared::new(v.as_mut_ptr()));
    parallel::for_ranges(n, 16, |start, end| {
        let [p, m, v] = [p, m, v].map(|x| Shared::new(x.at(start)));
        level.run(Step { p, g: &grad[start..end], m, v, h: *h });
    });
}
