//! Exponential, logistic function and error function on vectors.

use super::Simd;

/// 1.5 * 2^23: adding and subtracting it rounds to the nearest integer.
const ROUND: f32 = 12_582_912.0;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// Polynomial with the coefficients in ascending order, by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::V, c: [f32; N]) -> S::V {
    let mut y = s.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        y = s.fma(y, x, s.splat(c[i]));
    }
    y
}

/// `e^x`, relative error about 1e-7; 0 below -86, infinity above 88.73, NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let (p, n) = exp_parts(s, s.min(s.splat(89.0), s.max(s.splat(-86.0), x)));
    s.select_lt(x, s.splat(-86.0), s.zero(), s.scale_pow2(p, n))
}

/// [`exp`] of what is at most 88.
#[inline(always)]
pub(crate) fn exp_at_most_88<S: Simd>(s: S, x: S::V) -> S::V {
    let (p, n) = exp_parts(s, s.max(s.splat(-86.0), x));
    s.select_lt(x, s.splat(-86.0), s.zero(), s.scale_pow2(p, n))
}

/// `e^x = p * 2^n` for -86 <= x <= 89.
#[inline(always)]
fn exp_parts<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let shifted = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(shifted, s.splat(ROUND));
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    // (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2, least maximum error; before it 1 and r themselves.
    let p = polynomial(
        s,
        r,
        [1.0, 1.0, 0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_716, 0.001_381_459_8],
    );
    (p, n)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    s.reciprocal(s.add(s.splat(1.0), exp(s, s.sub(s.zero(), x))))
}

/// Distribution function and density of the standard normal, absolute error about 3e-7.
///
/// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: `erfc(z) = e^(-z^2) t q(t)`,
/// `t = 1 / (1 + p z)`.
#[inline(always)]
pub(crate) fn normal<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let e = exp_at_most_88(s, s.mul(s.mul(x, s.splat(-0.5)), x));
    let magnitude = s.max(s.sub(s.zero(), x), x);
    let t = s.reciprocal(s.fma(s.splat(0.231_641_89), magnitude, s.splat(1.0)));
    let q = polynomial(s, t, [0.127_414_8, -0.142_248_37, 0.710_706_9, -0.726_576, 0.530_702_7]);
    let tail = s.mul(s.mul(q, t), e);
    (s.select_lt(x, s.zero(), tail, s.sub(s.splat(1.0), tail)), s.mul(s.splat(0.398_942_3), e))
}
