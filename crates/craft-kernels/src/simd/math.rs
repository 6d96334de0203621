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
    let t = s.min(s.splat(89.0), s.max(s.splat(-86.0), x));
    let shifted = s.fma(t, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(shifted, s.splat(ROUND));
    let r = s.fma(n, s.splat(-LN2_HIGH), t);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    // (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2, least maximum error.
    let q = polynomial(
        s,
        r,
        [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_716, 0.001_381_459_8],
    );
    let p = s.add(s.splat(1.0), s.fma(s.mul(r, r), q, r));
    s.select_lt(x, s.splat(-86.0), s.zero(), s.scale_pow2(p, n))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.zero(), x))))
}

/// Error function, absolute error about 1e-7.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let t = s.max(s.sub(s.zero(), x), x);
    // erf(x) / x as a polynomial of x^2 on [0, 1].
    let near = polynomial(
        s,
        s.mul(x, x),
        [
            std::f32::consts::FRAC_2_SQRT_PI,
            -0.376_126_26,
            0.112_836,
            -0.026_854_444,
            0.005_189_535,
            -8.020_84e-4,
            7.889_115e-5,
        ],
    );
    let near = s.mul(near, x);
    // ln(erfc(t)) on [1, 4]; beyond, erf is 1 within 2e-8.
    let far = polynomial(
        s,
        s.min(s.splat(4.0), t),
        [
            -3.125_768e-4,
            -1.127_201_8,
            -0.637_965_86,
            -0.103_255_42,
            0.021_906_072,
            -0.002_963_896_8,
            1.879_596_2e-4,
        ],
    );
    let far = s.sub(one, exp(s, far));
    let far = s.select_lt(x, s.zero(), s.sub(s.zero(), far), far);
    // NaN compares as not less: the polynomial of x keeps it.
    s.select_lt(one, t, far, near)
}

/// Distribution function of the standard normal, `(1 + erf(x / sqrt 2)) / 2`.
#[inline(always)]
pub(crate) fn normal_cdf<S: Simd>(s: S, x: S::V) -> S::V {
    let half = s.splat(0.5);
    s.fma(half, erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2))), half)
}

/// Density of the standard normal.
#[inline(always)]
pub(crate) fn normal_pdf<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(s.splat(0.398_942_3), exp(s, s.mul(s.mul(x, s.splat(-0.5)), x)))
}
