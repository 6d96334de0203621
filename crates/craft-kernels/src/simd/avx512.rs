//! AVX-512F: sixteen lanes; with AVX-512 BF16, multiply-adds of pairs.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that the CPU has AVX-512F, and AVX-512 BF16 where `PAIRS`: then [`Simd::fma`] takes words
/// of two bf16.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const PAIRS: bool>(());

/// Runs a kernel compiled with AVX-512F.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false>(()))
}

/// Runs a kernel whose multiply-adds take words of two bf16.
#[target_feature(enable = "avx512f,avx512bf16,avx2,fma")]
pub(super) fn run_pairs<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<true>(()))
}

macro_rules! ops {
    ($($name:ident($($arg:ident),*) = $body:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: __m512),*) -> __m512 {
            // SAFETY: the token proves that the CPU has AVX-512F.
            unsafe { $body }
        })*
    };
}

#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

impl<const PAIRS: bool> Simd for Avx512<PAIRS> {
    type V = __m512;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 8;
    const LONG_ROWS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the token proves that the CPU has AVX-512F.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller vouches for the memory, the token for the instruction.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller vouches for the memory, the token for the instruction.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: masked lanes are not read; the caller vouches for the others.
        unsafe { _mm512_maskz_loadu_ps(mask(n), p) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, v: __m512, n: usize) {
        // SAFETY: masked lanes are not written; the caller vouches for the others.
        unsafe { _mm512_mask_storeu_ps(p, mask(n), v) }
    }
    ops! {
        add(a, b) = _mm512_add_ps(a, b);
        sub(a, b) = _mm512_sub_ps(a, b);
        mul(a, b) = _mm512_mul_ps(a, b);
        div(a, b) = _mm512_div_ps(a, b);
        sqrt(a) = _mm512_sqrt_ps(a);
        min(a, b) = _mm512_min_ps(a, b);
        max(a, b) = _mm512_max_ps(a, b);
        select_lt(a, b, x, y) = _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x);
        scale_pow2(x, n) = _mm512_scalef_ps(x, n);
    }
    #[inline(always)]
    fn reciprocal(self, a: __m512) -> __m512 {
        // SAFETY: the token proves that the CPU has AVX-512F.
        unsafe {
            // Good to 14 bits, and to twice as many after a step of Newton's, which infinity times
            // zero would spoil.
            let y = _mm512_rcp14_ps(a);
            let finite = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, _mm512_set1_ps(f32::MAX));
            _mm512_mask_mul_ps(y, finite, y, _mm512_fnmadd_ps(a, y, _mm512_set1_ps(2.0)))
        }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves that the CPU has AVX-512F, and AVX-512 BF16 where `PAIRS`.
        // Vectors of f32 and of bf16 are both 64 plain bytes.
        unsafe {
            if PAIRS {
                _mm512_dpbf16_ps(
                    c,
                    std::mem::transmute::<__m512, __m512bh>(a),
                    std::mem::transmute::<__m512, __m512bh>(b),
                )
            } else {
                _mm512_fmadd_ps(a, b, c)
            }
        }
    }
    #[inline(always)]
    fn reduce_add(self, a: __m512) -> f32 {
        // SAFETY: the token proves that the CPU has AVX-512F.
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, ld_src: usize, dst: *mut f32, ld_dst: usize) {
        // SAFETY: the caller vouches for both blocks, the token for the instructions.
        unsafe {
            // Lane l of the vector `i`: columns 4 j.. of row 4 l + i. Loads put the lanes in place,
            // where shuffles would all have to go through one port.
            for j in 0..4 {
                let from = |row: usize| _mm_loadu_ps(src.add(row * ld_src + 4 * j));
                let mut r = [_mm512_setzero_ps(); 4];
                for (i, v) in r.iter_mut().enumerate() {
                    let first = _mm512_castps128_ps512(from(i));
                    let two = _mm512_insertf32x4::<1>(first, from(4 + i));
                    let three = _mm512_insertf32x4::<2>(two, from(8 + i));
                    *v = _mm512_insertf32x4::<3>(three, from(12 + i));
                }
                for (i, v) in turn_lanes(r).into_iter().enumerate() {
                    _mm512_storeu_ps(dst.add((4 * j + i) * ld_dst), v);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn transpose_part(
        self,
        src: *const f32,
        ld_src: usize,
        dst: *mut f32,
        ld_dst: usize,
        rows: usize,
        columns: usize,
    ) {
        // SAFETY: masked lanes and rows beyond `rows` and `columns` are not touched; the caller
        // vouches for the others, the token for the instructions.
        unsafe {
            let mut r = [_mm512_setzero_ps(); 16];
            for (i, v) in r.iter_mut().enumerate() {
                if i < rows {
                    *v = _mm512_maskz_loadu_ps(mask(columns), src.add(i * ld_src));
                }
            }
            for (i, v) in turn(r).into_iter().enumerate() {
                if i < columns {
                    _mm512_mask_storeu_ps(dst.add(i * ld_dst), mask(rows), v);
                }
            }
        }
    }
}

/// The transpose of a 16 by 16 block.
///
/// # Safety
/// The CPU has AVX-512F.
#[inline(always)]
unsafe fn turn(r: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        // Within 128-bit lanes: transpose the 4x4 blocks of each group of four rows.
        let mut t = r;
        for g in 0..4 {
            let turned = turn_lanes([r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]]);
            t[4 * g..4 * g + 4].copy_from_slice(&turned);
        }
        // Column 4 * l + j of the result collects lane l of t[j], t[4 + j], t[8 + j], t[12 + j].
        let mut turned = t;
        for j in 0..4 {
            let x0 = _mm512_shuffle_f32x4::<0x44>(t[j], t[4 + j]);
            let x1 = _mm512_shuffle_f32x4::<0xEE>(t[j], t[4 + j]);
            let y0 = _mm512_shuffle_f32x4::<0x44>(t[8 + j], t[12 + j]);
            let y1 = _mm512_shuffle_f32x4::<0xEE>(t[8 + j], t[12 + j]);
            turned[j] = _mm512_shuffle_f32x4::<0x88>(x0, y0);
            turned[4 + j] = _mm512_shuffle_f32x4::<0xDD>(x0, y0);
            turned[8 + j] = _mm512_shuffle_f32x4::<0x88>(x1, y1);
            turned[12 + j] = _mm512_shuffle_f32x4::<0xDD>(x1, y1);
        }
        turned
    }
}

/// The transposes of four 4 by 4 blocks, one in each 128-bit lane.
///
/// # Safety
/// The CPU has AVX-512F.
#[inline(always)]
unsafe fn turn_lanes([a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let (ab0, ab1) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let (cd0, cd1) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        [
            _mm512_shuffle_ps::<0x44>(ab0, cd0),
            _mm512_shuffle_ps::<0xEE>(ab0, cd0),
            _mm512_shuffle_ps::<0x44>(ab1, cd1),
            _mm512_shuffle_ps::<0xEE>(ab1, cd1),
        ]
    }
}
