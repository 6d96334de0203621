//! bf16 to f32.

use crate::buffer::Output;
use crate::parallel;

/// Values of bf16, given by their bits, as f32.
#[must_use]
pub fn widen(bits: &[u16]) -> Vec<f32> {
    let mut out = Output::new(bits.len());
    let to = out.ptr();
    // Weights are read once from memory, which takes far longer than the conversion: large enough
    // for several threads early.
    parallel::for_ranges(bits.len(), 8, |start, end| {
        // SAFETY: the ranges are disjoint and inside the vector, whose values need not be
        // initialised to be written.
        let to = unsafe { std::slice::from_raw_parts_mut(to.at(start).cast(), end - start) };
        for (to, &bits) in to.iter_mut().zip(&bits[start..end]) {
            std::mem::MaybeUninit::<f32>::write(to, f32::from_bits(u32::from(bits) << 16));
        }
    });
    // SAFETY: the ranges cover all values.
    unsafe { out.finish() }
}
