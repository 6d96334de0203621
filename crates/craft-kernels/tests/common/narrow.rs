//! Tests that need the process in a given dtype.
#![allow(clippy::print_stderr)]

use craft_kernels::*;
use std::sync::{Mutex, MutexGuard, PoisonError};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Puts the process back to `f32` and the CPU's best.
struct Restore(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Drop for Restore {
    fn drop(&mut self) {
        set_amx(true);
        set_winograd(true);
        assert!(set_simd_level(None) && set_precision(Precision::F32));
    }
}

/// Runs a test as [`in_f32_at_all_levels`] and then as [`in_bf16`]; it is told which.
#[allow(dead_code)]
pub fn in_both_formats(test: impl Fn(bool)) {
    in_f32_at_all_levels(|| test(false));
    in_bf16(|| test(true));
}

/// Runs a test with bf16 switched on, on AVX-512 BF16 and then on AMX tiles, as far as the CPU has
/// them.
#[allow(dead_code)]
pub fn in_bf16(test: impl Fn()) {
    let _restore = Restore(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
    if !set_precision(Precision::Bf16) {
        assert!(!bf16_supported());
        assert_eq!(precision(), Precision::F32);
        eprintln!("skipped: this CPU has no bf16 multiply-adds");
        return;
    }
    assert_eq!(precision(), Precision::Bf16);
    set_amx(false);
    assert!(!amx_active());
    test();
    set_amx(true);
    if amx_active() {
        test();
    } else {
        eprintln!("without AMX, which this CPU does not have");
    }
}

/// Runs a test in f32 with every instruction set that the CPU has.
pub fn in_f32_at_all_levels(test: impl Fn()) {
    let _restore = Restore(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
    for level in [SimdLevel::Portable, SimdLevel::Neon, SimdLevel::Avx2, SimdLevel::Avx512] {
        if set_simd_level(Some(level)) {
            test();
        }
    }
}

/// The nearest bf16, the even one of two.
fn round(x: f32) -> f32 {
    let down = f32::from_bits(x.to_bits() & 0xFFFF_0000);
    let up = f32::from_bits((x.to_bits() & 0xFFFF_0000).wrapping_add(1 << 16));
    let (below, above) = ((x - down).abs(), (up - x).abs());
    let even = down.to_bits() >> 16 & 1 == 0;
    if below < above || below == above && even { down } else { up }
}

pub fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&v| round(v)).collect()
}
