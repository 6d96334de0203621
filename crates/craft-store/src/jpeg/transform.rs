//! From coefficients to samples: the accurate integer DCT (Loeffler, Ligtenberg and Moschytz 1989, with
//! 13-bit constants), rounded where libjpeg rounds.

use super::blocks::Block;

const BITS: u32 = 13;
/// Bits kept between columns and rows.
const EXTRA: u32 = 2;

/// Samples of a block, row by row, from its quantised coefficients.
pub(super) fn samples(block: &Block, quantisation: &[u16; 64]) -> [u8; 64] {
    let value = |i: usize| i64::from(block[i]) * i64::from(quantisation[i]);
    if block[1..].iter().all(|c| *c == 0) {
        return [sample((value(0) + 4) >> 3); 64];
    }
    let mut work = [0i64; 64];
    for column in 0..8 {
        let out = one_dimension(std::array::from_fn(|row| value(row * 8 + column)), BITS - EXTRA);
        for (row, v) in out.into_iter().enumerate() {
            work[row * 8 + column] = v;
        }
    }
    let mut out = [0; 64];
    for (row, to) in out.chunks_exact_mut(8).enumerate() {
        let line = one_dimension(std::array::from_fn(|i| work[row * 8 + i]), BITS + EXTRA + 3);
        for (to, v) in to.iter_mut().zip(line) {
            *to = sample(v);
        }
    }
    out
}

fn sample(value: i64) -> u8 {
    (value + 128).clamp(0, 255) as u8
}

/// Eight values of the inverse DCT, divided by `2^shift` and rounded.
fn one_dimension(v: [i64; 8], shift: u32) -> [i64; 8] {
    const fn constant(x: f64) -> i64 {
        (x * (1u64 << BITS) as f64 + 0.5) as i64
    }
    let z = (v[2] + v[6]) * constant(0.541_196_100);
    let low = z - v[6] * constant(1.847_759_065);
    let high = z + v[2] * constant(0.765_366_865);
    let (sum, gap) = ((v[0] + v[4]) << BITS, (v[0] - v[4]) << BITS);
    let even = [sum + high, gap + low, gap - low, sum - high];

    let z5 = (v[7] + v[3] + v[5] + v[1]) * constant(1.175_875_602);
    let z1 = -(v[7] + v[1]) * constant(0.899_976_223);
    let z2 = -(v[5] + v[3]) * constant(2.562_915_447);
    let z3 = z5 - (v[7] + v[3]) * constant(1.961_570_560);
    let z4 = z5 - (v[5] + v[1]) * constant(0.390_180_644);
    let odd = [
        v[1] * constant(1.501_321_110) + z1 + z4,
        v[3] * constant(3.072_711_026) + z2 + z3,
        v[5] * constant(2.053_119_869) + z2 + z4,
        v[7] * constant(0.298_631_336) + z1 + z3,
    ];
    let half = 1 << (shift - 1);
    std::array::from_fn(|i| {
        let x = if i < 4 { even[i] + odd[i] } else { even[7 - i] - odd[7 - i] };
        (x + half) >> shift
    })
}
