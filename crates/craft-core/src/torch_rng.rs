//! The normals of `torch.Generator("cpu").manual_seed(seed)` and `torch.randn`, in f32.
//!
//! Sources: PyTorch `aten/src/ATen/native/cpu/DistributionTemplates.h` (`normal_fill`) and
//! `aten/src/ATen/core/DistributionsHelper.h`. PyTorch computes logarithm, sine and cosine with vector
//! instructions, so that values agree to a few units in the last place, not to the bit.

use std::f64::consts::TAU;

use rand_mt::Mt;

/// PyTorch's generator of the CPU.
#[derive(Debug, Clone)]
pub struct TorchRng {
    twister: Mt,
    /// Second normal of the last pair of a small tensor.
    kept: Option<f64>,
}

/// From this length on PyTorch fills a tensor in blocks.
const BLOCK: usize = 16;

impl TorchRng {
    /// As `manual_seed` leaves it; the Mersenne twister takes the low 32 bits.
    pub fn new(seed: u64) -> Self {
        Self { twister: Mt::new(seed as u32), kept: None }
    }

    /// `torch.randn(n, generator=…)`: one call per tensor, whatever its shape.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        if n < BLOCK {
            return (0..n).map(|_| self.single() as f32).collect();
        }
        let mut out: Vec<f32> = (0..n).map(|_| self.uniform()).collect();
        let whole = n - n % BLOCK;
        out[..whole].chunks_exact_mut(BLOCK).for_each(box_muller);
        if whole < n {
            // The last block overlaps the one before it, and is drawn anew.
            let tail = &mut out[n - BLOCK..];
            tail.iter_mut().for_each(|v| *v = self.uniform());
            box_muller(tail);
        }
        out
    }

    /// [0, 1) in steps of 2⁻²⁴.
    fn uniform(&mut self) -> f32 {
        (self.twister.next_u32() & 0x00ff_ffff) as f32 / 16_777_216.0
    }

    /// [0, 1) in steps of 2⁻⁵³.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.twister.next_u32());
        let bits = (high << 32) | u64::from(self.twister.next_u32());
        (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    fn single(&mut self) -> f64 {
        if let Some(kept) = self.kept.take() {
            return kept;
        }
        let (turn, length) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * libm::log1p(-length)).sqrt();
        self.kept = Some(radius * libm::sin(TAU * turn));
        radius * libm::cos(TAU * turn)
    }
}

/// Sixteen uniforms to sixteen normals: the first half gives lengths, the second turns.
fn box_muller(block: &mut [f32]) {
    let (lengths, turns) = block.split_at_mut(BLOCK / 2);
    for (length, turn) in lengths.iter_mut().zip(turns) {
        let radius = (-2.0 * libm::logf(1.0 - *length)).sqrt();
        let angle = std::f32::consts::TAU * *turn;
        (*length, *turn) = (radius * libm::cosf(angle), radius * libm::sinf(angle));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() <= 2e-6 * e.abs().max(1.0), "{f} instead of {e}");
        }
    }

    /// Values printed by PyTorch 2.15.0: `torch.randn(5, generator=torch.Generator().manual_seed(42))`.
    #[test]
    fn small_tensors() {
        let five = [0.336_690_37, 0.128_809_4, 0.234_462_37, 0.230_333_03, -1.122_856_4];
        close(&TorchRng::new(42).randn(5), &five);
    }

    /// `torch.randn(40, …)` of the same seed, then `torch.randn(16, …)`; 40 is no multiple of 16.
    #[test]
    fn blocks_and_their_overlapping_tail() {
        let mut rng = TorchRng::new(42);
        let forty = rng.randn(40);
        close(&forty[..4], &[1.926_915_3, 1.487_284_1, 0.900_717_2, -2.105_521]);
        close(
            &forty[20..28],
            &[
                -0.758_131_15,
                1.078_317_6,
                0.800_800_56,
                1.680_620_6,
                0.034_912_344,
                0.321_103,
                1.573_600_2,
                -0.845_467_45,
            ],
        );
        close(&forty[36..], &[1.178_950_9, -0.434_454_4, -1.386_365_5, -1.286_215_4]);
        close(&rng.randn(16)[..4], &[-0.837_124_65, -0.922_390_04, 1.811_317_8, 0.160_564_93]);
    }

    /// Seeds are cut to 32 bits, and the second normal of a pair is kept from call to call.
    #[test]
    fn long_seeds_and_kept_normals() {
        let mut rng = TorchRng::new((1 << 40) + 7);
        let block = [-0.820_134_5, 0.395_631_16, 0.898_908_5, -1.388_403_9];
        close(&rng.randn(16)[..4], &block);
        close(&rng.randn(3), &[0.138_172_66, -1.682_198_5, 0.317_678_3]);
        close(&rng.randn(3), &[0.132_806_97, 0.137_324_1, 0.240_546_12]);
        close(&TorchRng::new(7).randn(16)[..4], &block);
    }
}
