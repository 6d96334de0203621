//! AVX2 with FMA: eight lanes.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Runs a kernel compiled with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

macro_rules! ops {
    ($($name:ident($($arg:ident),*) = $body:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: __m256),*) -> __m256 {
            // SAFETY: the token proves that the CPU has AVX2 and FMA.
            unsafe { $body }
        })*
    };
}

static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    let n = n.min(8);
    // SAFETY: eight values from index 8 - n <= 8 lie inside the table of sixteen.
    unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - n).cast()) }
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 4;
    const LONG_ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: the token proves that the CPU has AVX2 and FMA.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: the caller vouches for the memory, the token for the instruction.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller vouches for the memory, the token for the instruction.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: masked lanes are not read; the caller vouches for the others.
        unsafe { _mm256_maskload_ps(p, mask(n)) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, v: __m256, n: usize) {
        // SAFETY: masked lanes are not written; the caller vouches for the others.
        unsafe { _mm256_maskstore_ps(p, mask(n), v) }
    }
    ops! {
        add(a, b) = _mm256_add_ps(a, b);
        sub(a, b) = _mm256_sub_ps(a, b);
        mul(a, b) = _mm256_mul_ps(a, b);
        div(a, b) = _mm256_div_ps(a, b);
        fma(a, b, c) = _mm256_fmadd_ps(a, b, c);
        sqrt(a) = _mm256_sqrt_ps(a);
        min(a, b) = _mm256_min_ps(a, b);
        max(a, b) = _mm256_max_ps(a, b);
        select_lt(a, b, x, y) = _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
        scale_pow2(x, n) = {
            // 2^(n - 1) by its exponent bits, then twice that: n may be 128.
            let e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(126));
            let p = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(e));
            let half = _mm256_mul_ps(x, p);
            _mm256_add_ps(half, half)
        };
    }
    #[inline(always)]
    fn reduce_add(self, a: __m256) -> f32 {
        // SAFETY: the token proves that the CPU has AVX2 and FMA.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, ld_src: usize, dst: *mut f32, ld_dst: usize) {
        // SAFETY: the caller vouches for both blocks, the token for the instructions.
        unsafe {
            // Lane l of the vector `i`: columns 4 j.. of row 4 l + i. Loads put the lanes in place,
            // where shuffles would all have to go through one port.
            for j in 0..2 {
                let from = |row: usize| _mm_loadu_ps(src.add(row * ld_src + 4 * j));
                let mut r = [_mm256_setzero_ps(); 4];
                for (i, v) in r.iter_mut().enumerate() {
                    *v = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(from(i)), from(4 + i));
                }
                for (i, v) in turn_lanes(r).into_iter().enumerate() {
                    _mm256_storeu_ps(dst.add((4 * j + i) * ld_dst), v);
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
            let mut r = [_mm256_setzero_ps(); 8];
            for (i, v) in r.iter_mut().enumerate() {
                if i < rows {
                    *v = _mm256_maskload_ps(src.add(i * ld_src), mask(columns));
                }
            }
            for (i, v) in turn(r).into_iter().enumerate() {
                if i < columns {
                    let to = dst.add(i * ld_dst);
                    // A whole store if the vector is whole: some processors are slow at masked
                    // ones.
                    if rows == 8 {
                        _mm256_storeu_ps(to, v);
                    } else {
                        _mm256_maskstore_ps(to, mask(rows), v);
                    }
                }
            }
        }
    }
}

/// The transpose of an 8 by 8 block.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn turn(r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        // Within 128-bit lanes: transpose the 4x4 blocks of both groups of four rows.
        let mut t = r;
        for g in 0..2 {
            let turned = turn_lanes([r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]]);
            t[4 * g..4 * g + 4].copy_from_slice(&turned);
        }
        // Column 4 * l + j of the result collects lane l of t[j] and t[4 + j].
        let mut turned = t;
        for j in 0..4 {
            turned[j] = _mm256_permute2f128_ps::<0x20>(t[j], t[4 + j]);
            turned[4 + j] = _mm256_permute2f128_ps::<0x31>(t[j], t[4 + j]);
        }
        turned
    }
}

/// The transposes of two 4 by 4 blocks, one in each 128-bit lane.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn turn_lanes([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let (ab0, ab1) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd0, cd1) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0x44>(ab0, cd0),
            _mm256_shuffle_ps::<0xEE>(ab0, cd0),
            _mm256_shuffle_ps::<0x44>(ab1, cd1),
            _mm256_shuffle_ps::<0xEE>(ab1, cd1),
        ]
    }
}
