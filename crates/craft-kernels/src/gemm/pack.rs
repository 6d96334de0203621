//! Copies into the layouts the microkernel reads fastest.

use crate::simd::{Kernel, Simd};

/// Transposes `src[rows, columns]` into `dst[columns, rows]` with row lengths `ld_src` and
/// `ld_dst`; where
/// `padded > rows`, the rest of each row of `dst` up to `padded` is set to zero.
pub(crate) struct Transpose {
    src: *const f32,
    ld_src: usize,
    rows: usize,
    columns: usize,
    dst: *mut f32,
    ld_dst: usize,
    padded: usize,
}

impl Transpose {
    /// # Safety
    /// `src + r * ld_src` is readable for `columns` values for `r < rows`, `dst + c * ld_dst`
    /// writable for
    /// `max(rows, padded)` values for `c < columns`, and they do not overlap.
    pub(crate) unsafe fn new(
        src: *const f32,
        ld_src: usize,
        rows: usize,
        columns: usize,
        dst: *mut f32,
        ld_dst: usize,
        padded: usize,
    ) -> Self {
        Self { src, ld_src, rows, columns, dst, ld_dst, padded }
    }
}

impl Kernel for Transpose {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { src, ld_src, rows, columns, dst, ld_dst, padded } = self;
        let l = S::LANES;
        for r in (0..rows).step_by(l) {
            for c in (0..columns).step_by(l) {
                let (high, wide) = ((rows - r).min(l), (columns - c).min(l));
                // SAFETY: the block at (r, c) lies inside both matrices.
                unsafe {
                    let (from, to) = (src.add(r * ld_src + c), dst.add(c * ld_dst + r));
                    if high == l && wide == l {
                        s.transpose(from, ld_src, to, ld_dst);
                    } else {
                        s.transpose_part(from, ld_src, to, ld_dst, high, wide);
                    }
                }
            }
        }
        for c in 0..columns {
            for r in rows..padded {
                // SAFETY: the caller vouches for `padded` values of each row of `dst`.
                unsafe { *dst.add(c * ld_dst + r) = 0.0 };
            }
        }
    }
}

/// Copies `rows` rows of `columns` values and sets the rest of each row of `dst` up to `padded` to
/// zero.
///
/// # Safety
/// `src + r * ld_src` is readable for `columns` values and `dst + r * ld_dst` writable for
/// `max(columns, padded)`.
pub(crate) unsafe fn copy_rows(
    src: *const f32,
    ld_src: usize,
    rows: usize,
    columns: usize,
    dst: *mut f32,
    ld_dst: usize,
    padded: usize,
) {
    for r in 0..rows {
        // SAFETY: the caller vouches for row r of both.
        unsafe {
            let to = dst.add(r * ld_dst);
            std::ptr::copy_nonoverlapping(src.add(r * ld_src), to, columns);
            for c in columns..padded {
                *to.add(c) = 0.0;
            }
        }
    }
}
