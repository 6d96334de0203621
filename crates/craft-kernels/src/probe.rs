//! The practical peak of the multiply-add units, to compare the kernels with.

use crate::parallel;
use crate::simd::amx::{Operands, TILE, Tiles};
use crate::simd::bf16::{Pairs, word};
use crate::simd::{Kernel, Simd, SimdLevel, level, simd_level};
use std::hint::black_box;

/// Independent chains: enough to hide the latency of the instruction, few enough for sixteen
/// registers.
const CHAINS: usize = 12;
/// The same where a vector is two registers.
const HALF: usize = CHAINS / 2;
/// Steps along k of a product on tiles, and its rows or columns and words along k.
const STEPS: usize = 4;
const SIDE: usize = 2 * TILE;
const DEPTH: usize = STEPS * TILE;

struct Chains<const N: usize>(usize, f32);

impl<const N: usize> Kernel for Chains<N> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (a, b) = (s.splat(self.1), s.splat(0.5));
        let mut chains = [s.splat(1.0); N];
        for _ in 0..self.0 {
            for v in &mut chains {
                *v = s.fma(a, b, *v);
            }
        }
        s.reduce_add(chains.into_iter().fold(s.zero(), |t, v| s.add(t, v)))
    }
}

/// Runs `tasks` tasks of `rounds` rounds of multiply-adds in registers, on the threads and in the
/// order in which the kernels' tasks run, and returns the floating-point operations done. In bf16
/// where that was chosen.
#[must_use]
pub fn multiply_add_probe(tasks: usize, rounds: usize) -> usize {
    let level = level();
    let pairs = Pairs::active(level);
    let in_two = matches!(simd_level(), SimdLevel::Portable);
    let each = 2 * rounds * CHAINS * level.lanes();
    let tiles = rounds.div_ceil(2 * TILE);
    let flops = match pairs.map(Pairs::tiles) {
        Some(Some(_)) => 4 * tiles * SIDE * SIDE * DEPTH,
        Some(None) => 2 * each,
        None => each,
    };
    parallel::for_each(tasks, tasks * flops, |_| {
        let x = black_box(0.1);
        black_box(match pairs.map(|pairs| (pairs, pairs.tiles())) {
            Some((_, Some(on))) => on_tiles(on, tiles, x),
            Some((pairs, None)) => pairs.run(Chains::<CHAINS>(rounds, x)),
            None if in_two => level.run(Chains::<HALF>(2 * rounds, x)),
            None => level.run(Chains::<CHAINS>(rounds, x)),
        });
    });
    tasks * flops
}

/// Products of 2 by 2 tiles, whose operands stay in the nearest cache.
fn on_tiles(tiles: Tiles, rounds: usize, x: f32) -> f32 {
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
    c[0]
}
