//! The practical peak of the multiply-add units, to compare the kernels with.

use crate::simd::bf16::Pairs;
use crate::simd::{Kernel, Simd, level};

/// Independent chains: enough to hide the latency of the instruction.
const CHAINS: usize = 12;

struct Chains(usize, f32);

impl Kernel for Chains {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (a, b) = (s.splat(self.1), s.splat(0.5));
        let mut chains = [s.splat(1.0); CHAINS];
        for _ in 0..self.0 {
            for v in &mut chains {
                *v = s.fma(a, b, *v);
            }
        }
        s.reduce_add(chains.into_iter().fold(s.zero(), |t, v| s.add(t, v)))
    }
}

/// Runs `rounds` rounds of multiply-adds in registers on the calling thread. Returns the floating-point operations done
/// and their result, which depends on `x` so that the work cannot be left out. In bf16 where that was chosen.
#[must_use]
pub fn multiply_add_probe(rounds: usize, x: f32) -> (usize, f32) {
    let level = level();
    let each = 2 * rounds * CHAINS * level.lanes();
    match Pairs::active(level) {
        Some(pairs) => (2 * each, pairs.run(Chains(rounds, x))),
        None => (each, level.run(Chains(rounds, x))),
    }
}
