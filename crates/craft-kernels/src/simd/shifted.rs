//! Images in bf16, in three copies that are shifted along their rows: what the three columns of a
//! kernel read.
//!
//! A vector holds whole rows of the image, so that a shift moves values within it and what leaves a
//! row is masked away.

use super::bf16::Pairs;

/// Columns of the kernel, and so copies.
pub(crate) const COPIES: usize = 3;

/// Three copies of an image.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) struct Copies {
    /// Zeros before the image: whole rows.
    lead: usize,
    /// Length of a copy: zeros, the image, or as much of it as there is room for, and zeros.
    len: usize,
    distance: usize,
    /// For each copy the lane that each of its lanes comes from, and which of them stay inside
    /// their row.
    moves: [([i16; LANES], u32); COPIES],
}

/// Values of bf16 in a vector; words of two are half as many.
const LANES: usize = 32;

impl Copies {
    /// Copies of images with `width` columns, of which copy j is shifted by `j - left`. For words
    /// half of the lanes count.
    pub(crate) fn new(width: usize, left: usize, [lead, len]: [usize; 2]) -> Self {
        let moves = std::array::from_fn(|j| {
            let shift = j as isize - left as isize;
            let inside = |lane: &usize| {
                let column = (lane % width) as isize + shift;
                (0..width as isize).contains(&column)
            };
            let from = std::array::from_fn(|lane| (lane as isize + shift).max(0) as i16);
            (from, (0..LANES).filter(inside).fold(0, |mask, lane| mask | 1 << lane))
        });
        Self { lead, len, distance: len, moves }
    }

    /// The same, `distance` from one copy to the next: they follow each other otherwise.
    pub(crate) fn apart(self, distance: usize) -> Self {
        Self { distance, ..self }
    }
}

#[cfg(target_arch = "x86_64")]
impl Pairs {
    /// Copies of the words of one or, at a distance of `ld_src`, two channels of `image` values.
    ///
    /// # Safety
    /// The channels are readable; `dst` is writable for `len` words at each copy's place.
    pub(crate) unsafe fn copies_of_words(
        self,
        src: *const f32,
        ld_src: usize,
        values: usize,
        image: usize,
        dst: *mut f32,
        copies: &Copies,
    ) {
        // SAFETY: the caller vouches for both, `self` for the instructions.
        unsafe { x86::words(src, ld_src, values, image, dst, copies) };
    }

    /// Copies of the bf16 values of one channel of `image` values.
    ///
    /// # Safety
    /// The channel is readable; `dst` is writable for `len` values at each copy's place.
    pub(crate) unsafe fn copies_of_values(
        self,
        src: *const f32,
        image: usize,
        dst: *mut u16,
        copies: &Copies,
    ) {
        // SAFETY: the caller vouches for both, `self` for the instructions.
        unsafe { x86::values(src, image, dst, copies) };
    }
}

/// Nothing here: no value of [`Pairs`] is ever made.
#[cfg(not(target_arch = "x86_64"))]
impl Pairs {
    pub(crate) unsafe fn copies_of_words(
        self,
        _: *const f32,
        _: usize,
        _: usize,
        _: usize,
        _: *mut f32,
        _: &Copies,
    ) {
        unreachable!("no bf16 instructions")
    }
    pub(crate) unsafe fn copies_of_values(self, _: *const f32, _: usize, _: *mut u16, _: &Copies) {
        unreachable!("no bf16 instructions")
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::bf16::x86::{mask, read, words as pair};
    use super::Copies;
    use std::arch::x86_64::*;

    /// Sets what lies before and behind the image to zero; returns how much of the image there is
    /// room for.
    ///
    /// # Safety
    /// `dst` is writable for `len` values at each copy's place.
    #[inline]
    unsafe fn clear<T: Default>(image: usize, dst: *mut T, c: &Copies) -> usize {
        let kept = image.min(c.len.saturating_sub(c.lead));
        for copy in 0..super::COPIES {
            // SAFETY: both ranges are inside the copy, and all bits zero are a zero.
            unsafe {
                let dst = dst.add(copy * c.distance);
                dst.write_bytes(0, c.lead.min(c.len));
                dst.wrapping_add(c.lead + kept).write_bytes(0, c.len.saturating_sub(c.lead + kept));
            }
        }
        kept
    }

    /// See [`Pairs::copies_of_words`](super::Pairs::copies_of_words).
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn words(
        src: *const f32,
        ld_src: usize,
        values: usize,
        image: usize,
        dst: *mut f32,
        c: &Copies,
    ) {
        let [a, b, d] = c.moves.map(|(from, mask)| {
            // SAFETY: 32 bytes are half of the array.
            let from = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
            (_mm512_cvtepi16_epi32(from), mask as __mmask16)
        });
        // SAFETY: the caller vouches for the copies; lanes past the image are not read, and those
        // past what is kept not written.
        unsafe {
            let kept = clear(image, dst, c);
            for p in (0..kept).step_by(16) {
                let left = kept - p;
                let low = read(src.add(p), left);
                let high =
                    if values > 1 { read(src.add(ld_src + p), left) } else { _mm512_setzero_ps() };
                let v = pair(low, high);
                for (copy, (from, inside)) in [a, b, d].into_iter().enumerate() {
                    let to = dst.add(copy * c.distance + c.lead + p);
                    let moved = _mm512_maskz_permutexvar_ps(inside, from, v);
                    if left >= 16 {
                        _mm512_storeu_ps(to, moved);
                    } else {
                        _mm512_mask_storeu_ps(to, mask(left), moved);
                    }
                }
            }
        }
    }

    /// See [`Pairs::copies_of_values`](super::Pairs::copies_of_values).
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn values(src: *const f32, image: usize, dst: *mut u16, c: &Copies) {
        let [a, b, d] = c.moves.map(|(from, mask)| {
            // SAFETY: the array is 64 bytes long.
            (unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }, mask)
        });
        // SAFETY: as in `words`.
        unsafe {
            let kept = clear(image, dst, c);
            for p in (0..kept).step_by(32) {
                let left = kept - p;
                let low = read(src.add(p), left);
                let high = read(src.wrapping_add(p + 16), left.saturating_sub(16));
                let v: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                for (copy, (from, inside)) in [a, b, d].into_iter().enumerate() {
                    let to = dst.add(copy * c.distance + c.lead + p);
                    let moved = _mm512_maskz_permutexvar_epi16(inside, from, v);
                    if left >= 32 {
                        _mm512_storeu_si512(to.cast(), moved);
                    } else {
                        _mm512_mask_storeu_epi16(to.cast(), (1 << left) - 1, moved);
                    }
                }
            }
        }
    }
}
