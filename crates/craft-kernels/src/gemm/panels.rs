//! Panels of the right operand: copied into the layout that the microkernel reads, and, where they
//! serve few rows, used one by one.

use super::block::Block;
use super::driver::{KC, MC, Product, Right, start};
use super::pack::{Transpose, copy_rows};
use crate::buffer::{Shared, scratch};
use crate::parallel;
use crate::simd::Level;
use crate::simd::bf16::Pairs;

/// Rows up to which a panel is copied, used and forgotten at once: all copies together would often
/// not stay in the caches.
pub(super) const FEW: usize = 512;

/// Copies columns `j..` of the right operand, `width` of them or as many as there are with zeros
/// behind them, for `ks` values or words of k from `k0` on.
///
/// # Safety
/// That part is inside the operand, and `dst` is writable for `ks` rows of `width`.
pub(super) unsafe fn pack_part(
    level: Level,
    pairs: Option<Pairs>,
    p: &Product<'_>,
    j: usize,
    width: usize,
    [k0, ks]: [usize; 2],
    dst: *mut f32,
) {
    let Product { n, k, .. } = *p;
    let columns = (n - j).min(width);
    // SAFETY: as the caller vouches.
    unsafe {
        match (p.b, pairs) {
            (Right::Rows(b), Some(pairs)) => {
                let from = b.as_ptr().add(2 * k0 * n + j);
                let values = (k - 2 * k0).min(2 * ks);
                pairs.columns(from, n, values, columns, dst, width, width);
            }
            (Right::Columns(b), Some(pairs)) => scratch(columns * ks, |rows| {
                let from = b.as_ptr().add(j * k + 2 * k0);
                let values = (k - 2 * k0).min(2 * ks);
                let rows = rows.as_mut_ptr();
                pairs.rows(from, k, columns, values, rows, ks);
                level.run(Transpose::new(rows, ks, columns, ks, dst, width, width));
            }),
            (Right::Rows(b), None) => {
                copy_rows(b.as_ptr().add(k0 * n + j), n, ks, columns, dst, width, width);
            }
            (Right::Columns(b), None) => {
                let from = b.as_ptr().add(j * k + k0);
                level.run(Transpose::new(from, k, columns, ks, dst, width, width));
            }
        }
    }
}

/// The product in `f32`, a task a panel of columns, which is copied, used for all rows, and
/// forgotten.
///
/// # Safety
/// As [`product`](super::product), whose left operand has the rows `a`.
pub(super) unsafe fn by_panels(level: Level, p: &Product<'_>, a: &[f32], width: usize, c: Shared) {
    let Product { m, n, k, bias, .. } = *p;
    parallel::for_each(n.div_ceil(width), 2 * m * n * k, |panel| {
        let j = panel * width;
        let columns = (n - j).min(width);
        scratch(k * width, |packed| {
            for k0 in (0..k).step_by(KC) {
                let part = [k0, (k - k0).min(KC)];
                // SAFETY: the ranges are inside the checked operand, and the buffer holds k rows.
                unsafe {
                    let to = packed.as_mut_ptr().add(k0 * width);
                    pack_part(level, None, p, j, width, part, to);
                }
            }
            for i0 in (0..m).step_by(MC) {
                let rows = (m - i0).min(MC);
                let mut k0 = 0;
                loop {
                    let ks = (k - k0).min(KC);
                    let mut g = Block::<false, false>::new(rows, columns, ks);
                    g.init = start(bias, k0, i0, j);
                    (g.ldb, g.b_padded, g.ldc) = (width, true, n);
                    // SAFETY: rows, columns and k are inside the checked operands; this panel of C
                    // is this task's own.
                    unsafe {
                        (g.a, g.a_step) = (a.as_ptr().add(i0 * k + k0), k);
                        (g.b, g.c) = (packed.as_ptr().add(k0 * width), c.at(i0 * n + j));
                        level.run(g.ready());
                    }
                    k0 += ks;
                    if k0 >= k {
                        break;
                    }
                }
            }
        });
    });
}
