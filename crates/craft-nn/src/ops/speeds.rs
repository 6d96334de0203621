//! How fast this machine multiplies: the upper bound of every matmul.

use std::time::Instant;

use craft_kernels::multiply_add_probe;

use super::{Precision, precision, set_precision};

/// Share of bf16's multiply-adds over f32's from which on the factors are worth laying out anew.
const PAYS: f64 = 1.3;

/// Multiply-adds, in the [`precision`](super::precision) chosen, in registers on every thread at
/// once, GFLOP/s: the most of a few tries.
pub fn peak_gflops() -> f64 {
    // Small tasks, as those of the kernels are, so that a thread that comes late does fewer of
    // them.
    let tasks = 32 * rayon::current_num_threads();
    let once = || {
        let start = Instant::now();
        let flops = multiply_add_probe(tasks, 40_000);
        flops as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    (0..5).map(|_| once()).fold(0.0, f64::max)
}

/// [`peak_gflops`] of every dtype.
#[derive(Clone, Copy, Debug)]
pub struct Speeds {
    /// In f32.
    pub f32: f64,
    /// In bf16, where the processor multiplies it.
    pub bf16: Option<f64>,
}

impl Speeds {
    /// Measures them, which takes a tenth of a second. Changes the process's matmul dtype
    /// meanwhile: run it while nothing else computes.
    pub fn measure() -> Self {
        let chosen = precision();
        let in_format = |format| set_precision(format).then(peak_gflops);
        let f32 = in_format(Precision::F32).unwrap_or_default();
        let bf16 = in_format(Precision::Bf16);
        set_precision(chosen);
        Self { f32, bf16 }
    }

    /// Whether bf16 matmuls are faster. On Intel processors with AVX-512 BF16 and without AMX they
    /// are not.
    pub fn bf16_pays(self) -> bool {
        self.bf16.is_some_and(|bf16| bf16 >= PAYS * self.f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_pays_where_it_is_faster() {
        let pays = |f32, bf16| Speeds { f32, bf16 }.bf16_pays();
        assert!(pays(300.0, Some(1200.0)), "tiles");
        assert!(!pays(300.0, Some(160.0)) && !pays(300.0, None));
    }
}
