//! Element by element over slices.

use super::{Kernel, Level, Simd};
use crate::buffer::{Output, Shared};
use crate::parallel;

/// A function of one vector.
pub(crate) trait Unary: Copy + Send + Sync {
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V;
}

/// A function of two vectors.
pub(crate) trait Binary: Copy + Send + Sync {
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V;
}

/// Runs `body(i, n)` for each vector of `len` values: `n` lanes are valid from index `i`.
macro_rules! for_vectors {
    ($s:ty, $len:expr, |$i:ident, $n:ident| $body:block) => {{
        let len = $len;
        let mut $i = 0;
        while $i < len {
            let $n = (len - $i).min(<$s as $crate::simd::Simd>::LANES);
            $body
            $i += <$s as $crate::simd::Simd>::LANES;
        }
    }};
}
pub(crate) use for_vectors;

/// Loads `n` lanes; a whole vector in one instruction.
///
/// # Safety
/// `p` is readable for `n` values.
#[inline(always)]
pub(crate) unsafe fn read<S: Simd>(s: S, p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller vouches for `n` values.
    unsafe { if n == S::LANES { s.load(p) } else { s.load_partial(p, n) } }
}

/// Stores `n` lanes; a whole vector in one instruction.
///
/// # Safety
/// `p` is writable for `n` values.
#[inline(always)]
pub(crate) unsafe fn write<S: Simd>(s: S, p: *mut f32, v: S::V, n: usize) {
    // SAFETY: the caller vouches for `n` values.
    unsafe { if n == S::LANES { s.store(p, v) } else { s.store_partial(p, v, n) } }
}

struct Map1<'a, F> {
    x: &'a [f32],
    y: Shared,
    f: F,
}

impl<F: Unary> Kernel for Map1<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for_vectors!(S, self.x.len(), |i, n| {
            // SAFETY: n values from index i are inside both x and y.
            unsafe {
                let x = read(s, self.x.as_ptr().add(i), n);
                write(s, self.y.at(i), self.f.apply(s, x), n);
            }
        });
    }
}

struct Map2<'a, F> {
    a: &'a [f32],
    b: &'a [f32],
    y: Shared,
    f: F,
}

impl<F: Binary> Kernel for Map2<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for_vectors!(S, self.a.len(), |i, n| {
            // SAFETY: n values from index i are inside a, b (of equal length) and y.
            unsafe {
                let a = read(s, self.a.as_ptr().add(i), n);
                let b = read(s, self.b.as_ptr().add(i), n);
                write(s, self.y.at(i), self.f.apply(s, a, b), n);
            }
        });
    }
}

/// `f` of every element; `cost` is its size in floating-point operations.
pub(crate) fn map1(level: Level, x: &[f32], cost: usize, f: impl Unary) -> Vec<f32> {
    let mut out = Output::new(x.len());
    let y = out.ptr();
    parallel::for_ranges(x.len(), cost, |start, end| {
        level.run(Map1 { x: &x[start..end], y: Shared::new(y.at(start)), f });
    });
    // SAFETY: the ranges cover all elements.
    unsafe { out.finish() }
}

/// `f` of every pair of elements.
pub(crate) fn map2(level: Level, a: &[f32], b: &[f32], cost: usize, f: impl Binary) -> Vec<f32> {
    assert_eq!(a.len(), b.len(), "operands of different lengths");
    let mut out = Output::new(a.len());
    let y = out.ptr();
    parallel::for_ranges(a.len(), cost, |start, end| {
        level.run(Map2 { a: &a[start..end], b: &b[start..end], y: Shared::new(y.at(start)), f });
    });
    // SAFETY: the ranges cover all elements.
    unsafe { out.finish() }
}
