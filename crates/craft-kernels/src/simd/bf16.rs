//! Pairs of bf16 in one 32-bit word, multiplied two at a time into `f32` sums.
//!
//! A product `C = A B` over k takes words that hold two neighbours along k, the even one in the low
//! half; everything around the multiply-add (tiles, panels, tables) handles a word as if it were
//! one `f32`. Products of bf16 are exact in `f32`; the sums are rounded in `f32`.
//!
//! If the CPU has AMX [tiles](super::amx), matmuls use them; the words are the same.

use super::amx::Tiles;
use super::{Kernel, Level, SimdLevel};
use crate::precision::{Precision, precision};
use std::sync::atomic::{AtomicBool, Ordering};

/// Proof that the CPU multiplies pairs of bf16, and in AMX tiles if it has them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairs(Option<Tiles>);

static TILES: AtomicBool = AtomicBool::new(true);

/// Lets bf16 matmuls use the CPU's AMX tiles (`true`, as at the start), or keeps them to AVX-512
/// BF16.
///
/// Process-wide; meant for tests and measurements. Each operation reads it once, when it starts.
pub fn set_amx(on: bool) {
    TILES.store(on, Ordering::Relaxed);
}

/// Whether bf16 matmuls use AMX tiles: the CPU has them, the operating system lets this process use
/// them, and [`set_amx`] did not switch them off.
#[must_use]
pub fn amx_active() -> bool {
    supported() && active_tiles().is_some()
}

fn active_tiles() -> Option<Tiles> {
    Tiles::get().filter(|_| TILES.load(Ordering::Relaxed))
}

/// Whether the running CPU has the instructions: AVX-512 BF16.
pub(crate) fn supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        super::simd_supported(SimdLevel::Avx512)
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

impl Pairs {
    /// The proof, if matmuls are to be in bf16 and `level` has the instructions.
    pub(crate) fn active(level: Level) -> Option<Self> {
        let wanted = precision() == Precision::Bf16 && level.0 == SimdLevel::Avx512;
        (wanted && supported()).then(|| Self(active_tiles()))
    }

    /// The tiles, if matmuls are to use them.
    pub(crate) fn tiles(self) -> Option<Tiles> {
        self.0
    }
}

#[cfg(target_arch = "x86_64")]
impl Pairs {
    /// Runs a kernel whose multiply-adds take words of pairs.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` proves that the CPU has AVX-512 BF16.
        unsafe { super::avx512::run_pairs(kernel) }
    }

    /// Neighbours in a row: `src [rows, values]` to `dst [rows, values / 2 rounded up]`, an odd
    /// last value is paired with zero.
    ///
    /// # Safety
    /// `src + r * ld_src` is readable for `values` values and `dst + r * ld_dst` writable for the
    /// words, for every
    /// `r < rows`; they do not overlap.
    pub(crate) unsafe fn rows(
        self,
        src: *const f32,
        ld_src: usize,
        rows: usize,
        values: usize,
        dst: *mut f32,
        ld_dst: usize,
    ) {
        // SAFETY: the caller vouches for the rows of both, `self` for the instructions.
        unsafe { x86::rows(src, ld_src, rows, values, dst, ld_dst) };
    }

    /// Neighbours in a column: `src [values, columns]` to `dst [values / 2 rounded up, columns]`,
    /// an odd last row beside zeros; where `padded > columns`, the rest of each row of `dst` up to
    /// `padded` is set to zero.
    ///
    /// # Safety
    /// `src + r * ld_src` is readable for `columns` values for every `r < values`, and `dst + q *
    /// ld_dst` writable for
    /// `max(columns, padded)` words for every word `q` of a column; they do not overlap.
    #[allow(clippy::too_many_arguments)]
    pub(crate) unsafe fn columns(
        self,
        src: *const f32,
        ld_src: usize,
        values: usize,
        columns: usize,
        dst: *mut f32,
        ld_dst: usize,
        padded: usize,
    ) {
        // SAFETY: the caller vouches for the rows of both, `self` for the instructions.
        unsafe { x86::columns(src, ld_src, values, columns, dst, ld_dst, padded) };
    }
}

#[cfg(target_arch = "x86_64")]
impl Pairs {
    /// Sixteen words of values that lie `step` apart, of which the first `values` are read and the
    /// others zero.
    ///
    /// # Safety
    /// `src + i * step` is readable for `i < values`, `31 * step` fits in 31 bits, and `dst` is
    /// writable for 16 words.
    pub(crate) unsafe fn gather(self, src: *const f32, step: usize, values: usize, dst: *mut f32) {
        // SAFETY: the caller vouches for both, `self` for the instructions.
        unsafe { x86::gather(src, step, values, dst) };
    }

    /// The values of words: the even one of each to `low`, the odd one to `high`.
    pub(crate) fn split(self, words: &[f32], low: &mut [f32], high: &mut [f32]) {
        assert!(low.len() == words.len() && high.len() == words.len(), "two values a word");
        // SAFETY: `self` proves that the instructions are there.
        unsafe { x86::split(words, low, high) };
    }
}

/// Nothing here: no value of [`Pairs`] is ever made.
#[cfg(not(target_arch = "x86_64"))]
impl Pairs {
    pub(crate) fn split(self, _: &[f32], _: &mut [f32], _: &mut [f32]) {
        unreachable!("no bf16 instructions")
    }
    pub(crate) fn run<K: Kernel>(self, _: K) -> K::Output {
        unreachable!("no bf16 instructions")
    }
    pub(crate) unsafe fn gather(self, _: *const f32, _: usize, _: usize, _: *mut f32) {
        unreachable!("no bf16 instructions")
    }
    pub(crate) unsafe fn rows(
        self,
        _: *const f32,
        _: usize,
        _: usize,
        _: usize,
        _: *mut f32,
        _: usize,
    ) {
        unreachable!("no bf16 instructions")
    }
    #[allow(clippy::too_many_arguments)]
    pub(crate) unsafe fn columns(
        self,
        _: *const f32,
        _: usize,
        _: usize,
        _: usize,
        _: *mut f32,
        _: usize,
        _: usize,
    ) {
        unreachable!("no bf16 instructions")
    }
}

/// One word of two values, each rounded to the nearest bf16, ties to even.
pub(crate) fn word(even: f32, odd: f32) -> f32 {
    f32::from_bits(round(even) >> 16 | round(odd) & 0xFFFF_0000)
}

/// The bits of `x` rounded to bf16, in the upper half.
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    // A NaN stays one: the carry of the rounding must not reach its exponent.
    if x.is_nan() { bits | 1 << 22 } else { bits + (0x7FFF + (bits >> 16 & 1)) }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    /// First `n`, at most 16, values from memory, the others zero.
    ///
    /// # Safety
    /// `p` is readable for `n` values.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(in super::super) unsafe fn read(p: *const f32, n: usize) -> __m512 {
        // SAFETY: masked lanes are not read; the caller vouches for the others.
        unsafe { _mm512_maskz_loadu_ps(mask(n), p) }
    }

    #[inline(always)]
    pub(in super::super) fn mask(n: usize) -> __mmask16 {
        if n >= 16 { 0xFFFF } else { (1 << n) - 1 }
    }

    /// See [`Pairs::rows`](super::Pairs::rows).
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn rows(
        src: *const f32,
        ld_src: usize,
        rows: usize,
        values: usize,
        dst: *mut f32,
        ld_dst: usize,
    ) {
        let whole = values / 32 * 32;
        for r in 0..rows {
            for i in (0..whole).step_by(32) {
                // SAFETY: i + 32 <= values.
                unsafe {
                    let (src, dst) = (src.add(r * ld_src + i), dst.add(r * ld_dst + i / 2));
                    let (low, high) = (_mm512_loadu_ps(src), _mm512_loadu_ps(src.add(16)));
                    let words: __m512 = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_storeu_ps(dst, words);
                }
            }
        }
        let left = values - whole;
        let (low, high, words) =
            (mask(left), mask(left.saturating_sub(16)), mask(left.div_ceil(2)));
        for r in 0..if left > 0 { rows } else { 0 } {
            // SAFETY: the masks keep to the values and words that are left of row r; masked lanes
            // are not touched.
            unsafe {
                let src = src.wrapping_add(r * ld_src + whole);
                let low = _mm512_maskz_loadu_ps(low, src);
                let high = _mm512_maskz_loadu_ps(high, src.wrapping_add(16));
                let both: __m512 = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_mask_storeu_ps(dst.wrapping_add(r * ld_dst + whole / 2), words, both);
            }
        }
    }

    /// See [`Pairs::split`](super::Pairs::split).
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn split(words: &[f32], low: &mut [f32], high: &mut [f32]) {
        for ((word, low), high) in words.iter().zip(low).zip(high) {
            let bits = word.to_bits();
            *low = f32::from_bits(bits << 16);
            *high = f32::from_bits(bits & 0xFFFF_0000);
        }
    }

    /// Words of the values in `low` and `high` at the same place.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(in super::super) fn words(low: __m512, high: __m512) -> __m512 {
        // Halves 0..16 of the converted vector come from `low`, 16..32 from `high`.
        const HALVES: [u16; 32] = {
            let mut halves = [0; 32];
            let mut i = 0;
            while i < 32 {
                halves[i] = (i / 2 + i % 2 * 16) as u16;
                i += 1;
            }
            halves
        };
        // SAFETY: the array is 64 bytes long, and so are the vectors.
        unsafe {
            let order = _mm512_loadu_si512(HALVES.as_ptr().cast());
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, both))
        }
    }

    /// See [`Pairs::gather`](super::Pairs::gather).
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn gather(src: *const f32, step: usize, values: usize, dst: *mut f32) {
        let counts = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        let at = _mm512_mullo_epi32(counts, _mm512_set1_epi32(2 * step as i32));
        let (evens, odds) = (mask(values.div_ceil(2)), mask(values / 2));
        let none = _mm512_setzero_ps();
        // SAFETY: masked places are not read; place 2 i and 2 i + 1 of the others are below
        // `values`.
        unsafe {
            let low = _mm512_mask_i32gather_ps::<4>(none, evens, at, src);
            let high = _mm512_mask_i32gather_ps::<4>(none, odds, at, src.wrapping_add(step));
            _mm512_storeu_ps(dst, words(low, high));
        }
    }

    /// See [`Pairs::columns`](super::Pairs::columns).
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn columns(
        src: *const f32,
        ld_src: usize,
        values: usize,
        columns: usize,
        dst: *mut f32,
        ld_dst: usize,
        padded: usize,
    ) {
        for q in 0..values.div_ceil(2) {
            let odd_row = 2 * q + 1 < values;
            let mut c = 0;
            while c < columns {
                let left = columns - c;
                // SAFETY: columns c.. of rows 2 q and, if it exists, 2 q + 1 of `src` and of
                // row q of `dst` are inside; the masks keep to what is left.
                unsafe {
                    let (even, to) = (src.add(2 * q * ld_src + c), dst.add(q * ld_dst + c));
                    let low = read(even, left);
                    let high =
                        if odd_row { read(even.add(ld_src), left) } else { _mm512_setzero_ps() };
                    _mm512_mask_storeu_ps(to, mask(left), words(low, high));
                }
                c += 16;
            }
            for c in columns..padded {
                // SAFETY: the caller vouches for `padded` words of each row of `dst`.
                unsafe { *dst.add(q * ld_dst + c) = 0.0 };
            }
        }
    }
}
