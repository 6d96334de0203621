//! The dtype of the operands of linear maps, attention and convolutions.

use crate::simd::bf16;
use std::sync::atomic::{AtomicBool, Ordering};

/// Dtype in which linear maps, attention and convolutions multiply. Sums, results and every other
/// operation are `f32` (but for what [`feed_forward`](crate::feed_forward) keeps), and so are
/// convolutions by Winograd's algorithm ([`ConvShape::winograd`](crate::ConvShape::winograd)):
/// without AMX it is faster than multiplying directly in bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// Both operands rounded to bfloat16 (8 bits of significand), to nearest, ties to even; their
    /// products are exact.
    Bf16,
}

static NARROW: AtomicBool = AtomicBool::new(false);

/// Whether the running CPU multiplies bf16: AVX-512 BF16, or AMX tiles
/// ([`amx_active`](crate::amx_active)).
#[must_use]
pub fn bf16_supported() -> bool {
    bf16::supported()
}

/// The dtype that was asked for.
#[must_use]
pub fn precision() -> Precision {
    if NARROW.load(Ordering::Relaxed) { Precision::Bf16 } else { Precision::F32 }
}

/// Chooses the dtype of matmul operands for the whole process. Each operation reads it once, when
/// it starts.
///
/// Returns `false`, and changes nothing, if the CPU does not support it. Below
/// [`SimdLevel::Avx512`](crate::SimdLevel::Avx512), as tests force it, everything stays in `f32`.
pub fn set_precision(precision: Precision) -> bool {
    let narrow = precision == Precision::Bf16;
    if narrow && !bf16_supported() {
        return false;
    }
    NARROW.store(narrow, Ordering::Relaxed);
    true
}
