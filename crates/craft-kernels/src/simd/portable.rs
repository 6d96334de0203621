//! Plain Rust on arrays of eight, for CPUs without the vector instructions above.

use super::{Kernel, Simd};

/// No proof needed: baseline instructions.
#[derive(Clone, Copy)]
pub(crate) struct Portable(());

/// Runs a kernel with baseline instructions.
#[inline(never)]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Portable(()))
}

const N: usize = 8;
/// Eight lanes.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct V8([f32; N]);

#[inline(always)]
fn zip(a: V8, b: V8, f: impl Fn(f32, f32) -> f32) -> V8 {
    V8(std::array::from_fn(|i| f(a.0[i], b.0[i])))
}

/// One rounding where the instruction is part of the baseline, two elsewhere: a software FMA would
/// be far slower.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

impl Simd for Portable {
    type V = V8;
    const LANES: usize = N;
    const TILE_ROWS: usize = 4;
    const LONG_ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> V8 {
        V8([x; N])
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> V8 {
        // SAFETY: the caller vouches for eight readable values.
        V8(unsafe { p.cast::<[f32; N]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: V8) {
        // SAFETY: the caller vouches for eight writable values.
        unsafe { p.cast::<[f32; N]>().write_unaligned(v.0) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> V8 {
        let mut out = [0.0; N];
        for (i, o) in out.iter_mut().enumerate().take(n) {
            // SAFETY: the caller vouches for `n` readable values.
            *o = unsafe { *p.add(i) };
        }
        V8(out)
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, v: V8, n: usize) {
        for (i, x) in v.0.iter().enumerate().take(n) {
            // SAFETY: the caller vouches for `n` writable values.
            unsafe { p.add(i).write(*x) };
        }
    }
    #[inline(always)]
    fn add(self, a: V8, b: V8) -> V8 {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: V8, b: V8) -> V8 {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: V8, b: V8) -> V8 {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: V8, b: V8) -> V8 {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: V8, b: V8, c: V8) -> V8 {
        V8(std::array::from_fn(|i| mul_add(a.0[i], b.0[i], c.0[i])))
    }
    #[inline(always)]
    fn sqrt(self, a: V8) -> V8 {
        V8(a.0.map(f32::sqrt))
    }
    #[inline(always)]
    fn min(self, a: V8, b: V8) -> V8 {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: V8, b: V8) -> V8 {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn select_lt(self, a: V8, b: V8, x: V8, y: V8) -> V8 {
        V8(std::array::from_fn(|i| if a.0[i] < b.0[i] { x.0[i] } else { y.0[i] }))
    }
    #[inline(always)]
    fn scale_pow2(self, x: V8, n: V8) -> V8 {
        // Adding 1.5 * 2^23 leaves the integer in the low bits; no saturating cast. 2^(n - 1), then
        // twice: n may be 128.
        zip(x, n, |x, n| {
            let e = (n + 12_582_912.0).to_bits().wrapping_sub(0x4B40_0000).wrapping_add(126);
            let half = x * f32::from_bits(e << 23);
            half + half
        })
    }
    #[inline(always)]
    fn reduce_add(self, a: V8) -> f32 {
        let [a, b, c, d, e, f, g, h] = a.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}
