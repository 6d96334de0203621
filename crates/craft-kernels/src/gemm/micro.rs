//! The microkernel: `MR` rows by `NV` vectors of the result stay in registers while k runs.
//!
//! Each element of the result is one chain of fused multiply-adds over k in ascending order,
//! whatever tile it falls in.

use super::block::Init;
use crate::simd::Simd;

/// Rows of the largest tile.
pub(crate) const MR: usize = 8;
/// Vectors of the largest tile.
pub(crate) const NV: usize = 3;

/// Where a tile finds its operands.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Length of the sum.
    pub k: usize,
    /// Left operand in panel form: rows adjacent, `a_step` between values of k.
    pub a: *const f32,
    pub a_step: usize,
    /// Left operand in row form: one pointer a row, values of k adjacent.
    pub rows: [*const f32; MR],
    /// Right operand: row k starts at `b + k * ldb`, or at `b + table[k]`.
    pub b: *const f32,
    pub ldb: usize,
    pub table: *const usize,
    pub c: *mut f32,
    pub ldc: usize,
    /// Valid lanes of the last vector.
    pub tail: usize,
    pub init: Init,
}

/// # Safety
/// Every operand named in `t` is readable, and `c` writable, over `M` rows, `k` values and `N`
/// vectors, of which the last has `tail` valid lanes (all lanes of B are readable unless `BTAIL`).
#[inline(always)]
pub(crate) unsafe fn tile<
    S: Simd,
    const M: usize,
    const N: usize,
    const PANEL: bool,
    const TABLE: bool,
    const BTAIL: bool,
>(
    s: S,
    t: &Tile,
) {
    let lanes = S::LANES;
    let partial = t.tail < lanes;
    let mut acc = [[s.zero(); N]; M];
    match t.init {
        Init::Zero => {}
        Init::Load => {
            for (i, row) in acc.iter_mut().enumerate() {
                for (j, v) in row.iter_mut().enumerate() {
                    // SAFETY: row i, vector j of C is inside the tile; the last vector may be
                    // partial.
                    *v = unsafe {
                        let p = t.c.add(i * t.ldc + j * lanes);
                        if j + 1 == N && partial { s.load_partial(p, t.tail) } else { s.load(p) }
                    };
                }
            }
        }
        Init::Rows(bias) => {
            for (i, row) in acc.iter_mut().enumerate() {
                // SAFETY: one value for each of the tile's rows.
                *row = [s.splat(unsafe { *bias.add(i) }); N];
            }
        }
        Init::RowsAnd(bias, image) | Init::ColumnsAnd(bias, image) => {
            for (i, row) in acc.iter_mut().enumerate() {
                for (j, v) in row.iter_mut().enumerate() {
                    let last = j + 1 == N && partial;
                    // SAFETY: as for C, whose layout the image has; one value for each of the
                    // tile's rows or valid columns.
                    *v = unsafe {
                        let at = |p: *const f32| {
                            if last { s.load_partial(p, t.tail) } else { s.load(p) }
                        };
                        let bias = match t.init {
                            Init::RowsAnd(..) => s.splat(*bias.add(i)),
                            _ => at(bias.add(j * lanes)),
                        };
                        s.add(bias, at(image.add(i * t.ldc + j * lanes)))
                    };
                }
            }
        }
        Init::Columns(bias) => {
            for j in 0..N {
                // SAFETY: one value for each of the tile's valid columns.
                let v = unsafe {
                    let p = bias.add(j * lanes);
                    if j + 1 == N && partial { s.load_partial(p, t.tail) } else { s.load(p) }
                };
                for row in &mut acc {
                    row[j] = v;
                }
            }
        }
    }
    // A copy of its own, of which only constant elements are read and written, or they would all be
    // stored at every step.
    let mut sums = acc;
    let mut a = t.a;
    let mut rows = [t.a; M];
    rows.copy_from_slice(&t.rows[..M]);
    let mut b_row = t.b;
    for k in 0..t.k {
        // SAFETY: k is below t.k, so every address is inside the operands.
        unsafe {
            if TABLE {
                b_row = t.b.add(*t.table.add(k));
            }
            let mut b = [s.zero(); N];
            for (j, v) in b.iter_mut().enumerate() {
                let p = b_row.add(j * lanes);
                *v = if BTAIL && j + 1 == N { s.load_partial(p, t.tail) } else { s.load(p) };
            }
            for (i, row) in sums.iter_mut().enumerate() {
                let x = s.splat(if PANEL { *a.add(i) } else { *rows[i].add(k) });
                for (v, &y) in row.iter_mut().zip(&b) {
                    *v = s.fma(x, y, *v);
                }
            }
            if PANEL {
                a = a.wrapping_add(t.a_step);
            }
            if !TABLE {
                b_row = b_row.wrapping_add(t.ldb);
            }
        }
    }
    let acc = sums;
    for (i, row) in acc.iter().enumerate() {
        for (j, &v) in row.iter().enumerate() {
            // SAFETY: row i, vector j of C is inside the tile; the last vector may be partial.
            unsafe {
                let p = t.c.add(i * t.ldc + j * lanes);
                if j + 1 == N && partial { s.store_partial(p, v, t.tail) } else { s.store(p, v) }
            }
        }
    }
}
