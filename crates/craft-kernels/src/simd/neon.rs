//! NEON: eight lanes in two registers.

use super::{Kernel, Simd};
use std::arch::aarch64::*;

/// Proof that the CPU has NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

/// Runs a kernel compiled with NEON.
#[target_feature(enable = "neon")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

/// Eight lanes, the first four in the first register.
type V = [float32x4_t; 2];

macro_rules! ops {
    ($($name:ident($($arg:ident),*) = $body:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: V),*) -> V {
            // SAFETY: the token proves that the CPU has NEON.
            std::array::from_fn(|i| {
                $(let $arg = $arg[i];)*
                unsafe { $body }
            })
        })*
    };
}

impl Simd for Neon {
    type V = V;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 4;
    const LONG_ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        // SAFETY: the token proves that the CPU has NEON.
        [unsafe { vdupq_n_f32(x) }; 2]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> V {
        // SAFETY: the caller vouches for the memory, the token for the instruction.
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4))] }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: V) {
        // SAFETY: the caller vouches for the memory, the token for the instruction.
        unsafe {
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> V {
        let mut lanes = [0.0; 8];
        // SAFETY: the caller vouches for `n <= 8` readable values; the array holds eight.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n.min(8));
            self.load(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, v: V, n: usize) {
        let mut lanes = [0.0; 8];
        // SAFETY: the array holds eight; the caller vouches for `n <= 8` writable values.
        unsafe {
            self.store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n.min(8));
        }
    }
    ops! {
        add(a, b) = vaddq_f32(a, b);
        sub(a, b) = vsubq_f32(a, b);
        mul(a, b) = vmulq_f32(a, b);
        div(a, b) = vdivq_f32(a, b);
        fma(a, b, c) = vfmaq_f32(c, a, b);
        sqrt(a) = vsqrtq_f32(a);
        min(a, b) = vbslq_f32(vcltq_f32(a, b), a, b);
        max(a, b) = vbslq_f32(vcgtq_f32(a, b), a, b);
        select_lt(a, b, x, y) = vbslq_f32(vcltq_f32(a, b), x, y);
        scale_pow2(x, n) = {
            // 2^(n - 1) by its exponent bits, then twice that: n may be 128.
            let e = vshlq_n_s32::<23>(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(126)));
            let half = vmulq_f32(x, vreinterpretq_f32_s32(e));
            vaddq_f32(half, half)
        };
    }
    #[inline(always)]
    fn reduce_add(self, a: V) -> f32 {
        // SAFETY: the token proves that the CPU has NEON.
        unsafe { vaddvq_f32(vaddq_f32(a[0], a[1])) }
    }
    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, ld_src: usize, dst: *mut f32, ld_dst: usize) {
        for (r, c) in [(0, 0), (0, 4), (4, 0), (4, 4)] {
            // SAFETY: the caller vouches for both blocks, of which this is a quarter; the token for
            // the instructions.
            unsafe {
                let (from, to) = (src.add(r * ld_src + c), dst.add(c * ld_dst + r));
                let row = |i: usize| vld1q_f32(from.add(i * ld_src));
                let (a, b) = (vtrnq_f32(row(0), row(1)), vtrnq_f32(row(2), row(3)));
                let put = |i: usize, low: float32x2_t, high: float32x2_t| {
                    vst1q_f32(to.add(i * ld_dst), vcombine_f32(low, high));
                };
                put(0, vget_low_f32(a.0), vget_low_f32(b.0));
                put(1, vget_low_f32(a.1), vget_low_f32(b.1));
                put(2, vget_high_f32(a.0), vget_high_f32(b.0));
                put(3, vget_high_f32(a.1), vget_high_f32(b.1));
            }
        }
    }
}
