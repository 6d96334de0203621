//! One small vector abstraction and its run-time dispatch.
//!
//! A value of a type that implements [`Simd`] is a proof that the CPU has the instructions it
//! needs; it can only be made by [`Level::run`], which checks. Kernels implement [`Kernel`] with an
//! `#[inline(always)]` body generic over
//! `Simd`; the body is compiled once for every instruction set.

pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod bf16;
pub(crate) mod map;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
pub(crate) mod shifted;

use std::sync::atomic::{AtomicU8, Ordering};

/// Vector instruction sets the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimdLevel {
    /// Plain Rust on arrays of eight; the compiler's baseline instructions.
    Portable,
    /// NEON of 64-bit ARM, eight lanes in two registers.
    Neon,
    /// AVX2 with fused multiply-add, eight lanes.
    Avx2,
    /// AVX-512F, sixteen lanes.
    Avx512,
}

/// A level the running CPU is known to support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(SimdLevel);

static ACTIVE: AtomicU8 = AtomicU8::new(0);

fn encode(level: SimdLevel) -> u8 {
    match level {
        SimdLevel::Portable => 1,
        SimdLevel::Avx2 => 2,
        SimdLevel::Avx512 => 3,
        SimdLevel::Neon => 4,
    }
}

/// Whether the running CPU can execute the kernels compiled for `level`.
#[must_use]
pub fn simd_supported(level: SimdLevel) -> bool {
    #[cfg(target_arch = "x86_64")]
    let (avx2, avx512) = {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        (avx2, avx2 && is_x86_feature_detected!("avx512f"))
    };
    #[cfg(not(target_arch = "x86_64"))]
    let (avx2, avx512) = (false, false);
    match level {
        SimdLevel::Portable => true,
        SimdLevel::Neon => cfg!(target_arch = "aarch64"),
        SimdLevel::Avx2 => avx2,
        SimdLevel::Avx512 => avx512,
    }
}

/// The instruction set the kernels use now.
#[must_use]
pub fn simd_level() -> SimdLevel {
    level().0
}

/// Forces an instruction set for the whole process, or goes back to the best one with `None`.
///
/// Meant for tests and for finding out whether a result depends on the instruction set. Returns
/// `false`, and changes nothing, where the CPU does not support the level. Each operation reads the
/// level once, when it starts.
pub fn set_simd_level(level: Option<SimdLevel>) -> bool {
    match level {
        None => ACTIVE.store(0, Ordering::Relaxed),
        Some(l) if simd_supported(l) => ACTIVE.store(encode(l), Ordering::Relaxed),
        Some(_) => return false,
    }
    true
}

/// The active level, detected at first use.
pub(crate) fn level() -> Level {
    match ACTIVE.load(Ordering::Relaxed) {
        1 => Level(SimdLevel::Portable),
        2 => Level(SimdLevel::Avx2),
        3 => Level(SimdLevel::Avx512),
        4 => Level(SimdLevel::Neon),
        _ => {
            let best = [SimdLevel::Avx512, SimdLevel::Avx2, SimdLevel::Neon]
                .into_iter()
                .find(|&l| simd_supported(l))
                .unwrap_or(SimdLevel::Portable);
            ACTIVE.store(encode(best), Ordering::Relaxed);
            Level(best)
        }
    }
}

/// A computation compiled once for every instruction set. Implementations of `run` are
/// `#[inline(always)]`.
pub(crate) trait Kernel {
    /// What the computation returns.
    type Output;
    /// The computation; `s` proves that the instructions are there.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

impl Level {
    /// Runs a kernel compiled for this level.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            // SAFETY: a `Level` is only made for instruction sets found on the running CPU.
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => unsafe { avx512::run(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 => unsafe { avx2::run(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            SimdLevel::Neon => unsafe { neon::run(kernel) },
            _ => portable::run(kernel),
        }
    }

    /// Number of `f32` lanes of one vector at this level.
    pub(crate) fn lanes(self) -> usize {
        match self.0 {
            SimdLevel::Avx512 => 16,
            SimdLevel::Avx2 | SimdLevel::Neon | SimdLevel::Portable => 8,
        }
    }
}

/// Vectors of `f32`. `fma(a, b, c)` is `a * b + c`, rounded once where the hardware has the
/// instruction; run by [`bf16::Pairs`], a and b are words of two bf16 and it adds both products.
pub(crate) trait Simd: Copy {
    /// One vector.
    type V: Copy;
    /// Number of lanes of [`Simd::V`].
    const LANES: usize;
    /// Rows of a tile of the widest panel whose sums stay in registers: a power of two.
    const TILE_ROWS: usize;
    /// The same where the rows of the left operand are read in place, so that there need not be a
    /// power of two.
    const LONG_ROWS: usize;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `p` is readable for `LANES` values.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `p` is writable for `LANES` values.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// First `n <= LANES` lanes from memory, the others zero.
    /// # Safety
    /// `p` is readable for `n` values.
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::V;
    /// Stores the first `n <= LANES` lanes.
    /// # Safety
    /// `p` is writable for `n` values.
    unsafe fn store_partial(self, p: *mut f32, v: Self::V, n: usize);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `1 / a` for normal `a > 0`, relative error at most 2e-7; 0 for infinity.
    #[inline(always)]
    fn reciprocal(self, a: Self::V) -> Self::V {
        self.div(self.splat(1.0), a)
    }
    /// Lane-wise `a < b ? a : b`; `b` where one is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise `a > b ? a : b`; `b` where one is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise `a < b ? x : y`.
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// `x * 2^n` for integral `n` in -125..=128.
    fn scale_pow2(self, x: Self::V, n: Self::V) -> Self::V;
    /// Sum of all lanes in a fixed order.
    fn reduce_add(self, a: Self::V) -> f32;
    /// Writes the transpose of a `LANES x LANES` block.
    /// # Safety
    /// `src + r * ld_src` is readable and `dst + r * ld_dst` writable for `LANES` values, for every
    /// `r < LANES`.
    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, ld_src: usize, dst: *mut f32, ld_dst: usize) {
        for r in 0..Self::LANES {
            for c in 0..Self::LANES {
                // SAFETY: the caller vouches for both blocks.
                unsafe { *dst.add(c * ld_dst + r) = *src.add(r * ld_src + c) };
            }
        }
    }

    /// As [`Simd::transpose`] for the first `rows` rows and `columns` columns, at most `LANES`
    /// each.
    /// # Safety
    /// `src + r * ld_src` is readable for `columns` values for every `r < rows`, `dst + c * ld_dst`
    /// writable for `rows` values for every `c < columns`.
    #[inline(always)]
    unsafe fn transpose_part(
        self,
        src: *const f32,
        ld_src: usize,
        dst: *mut f32,
        ld_dst: usize,
        rows: usize,
        columns: usize,
    ) {
        for r in 0..rows {
            for c in 0..columns {
                // SAFETY: the caller vouches for both blocks.
                unsafe { *dst.add(c * ld_dst + r) = *src.add(r * ld_src + c) };
            }
        }
    }

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }
}
