//! The practical peak of the multiply-add units, to compare the kernels with.

use crate::simd::amx::{Operands, TILE, Tiles};
use crate::simd::bf16::{Pairs, word};
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
    match Pairs::active(level).map(|pairs| (pairs, pairs.tiles())) {
        Some((_, Some(tiles))) => on_tiles(tiles, rounds.div_ceil(2 * TILE), x),
        Some((pairs, None)) => (2 * each, pairs.run(Chains(rounds, x))),
        None => (each, level.run(Chains(rounds, x))),
    }
}

/// Products of 2 by 2 tiles, whose operands stay in the nearest cache.
fn on_tiles(tiles: Tiles, rounds: usize, x: f32) -> (usize, f32) {
    const STEPS: usize = 4;
    const SIDE: usize = 2 * TILE;
    const DEPTH: usize = STEPS * TILE;
    let a = [word(x, x); SIDE * DEPTH];
    let b = [word(0.5, 0.5); DEPTH * SIDE];
    let mut c = [0.0f32; SIDE * SIDE];
    let o = Operands {
        a: a.as_ptr(),
        lda: DEPTH,
        b: b.as_ptr(),
        ldb: SIDE,
        b_table: std::ptr::null(),
        c: c.as_mut_ptr(),
        ldc: SIDE,
        steps: STEPS,
        load: true,
    };
    let ready = tiles.ready();
    for _ in 0..rounds {
        // SAFETY: the arrays have the rows and words that `o` names.
        unsafe { ready.multiply(2, 2, &o) };
    }
    (4 * rounds * SIDE * SIDE * DEPTH, c[0])
}
