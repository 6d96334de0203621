//! Products of plain matrices: packing where it pays, blocking over k, tasks over rows and columns.

use super::block::{Block, Init, panel_vectors};
use super::micro::MR;
use super::pack::{Transpose, copy_rows};
use crate::buffer::{Shared, scratch};
use crate::parallel;
use crate::simd::Level;

/// Range of k accumulated in registers before C is touched again.
const KC: usize = 256;
/// Rows of one task.
const MC: usize = 96;

/// Layout of the left operand `[m, k]`.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Row-major `[m, k]`.
    Rows(&'a [f32]),
    /// Its transpose, row-major `[k, m]`.
    Columns(&'a [f32]),
}

/// Layout of the right operand `[k, n]`.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// Row-major `[k, n]`.
    Rows(&'a [f32]),
    /// Its transpose, row-major `[n, k]`.
    Columns(&'a [f32]),
}

/// `C[m, n] = bias + A B`, the bias one value a column.
pub(crate) struct Product<'a> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Left<'a>,
    pub b: Right<'a>,
    pub bias: Option<&'a [f32]>,
}

/// Computes the product; `c` receives `m * n` values.
///
/// # Safety
/// `c` is writable for `m * n` values and overlaps no operand.
pub(crate) unsafe fn product(level: Level, p: &Product<'_>, c: Shared) {
    let Product { m, n, k, a, b, bias } = *p;
    match a {
        Left::Rows(a) | Left::Columns(a) => assert_eq!(a.len(), m * k, "left operand"),
    }
    match b {
        Right::Rows(b) | Right::Columns(b) => assert_eq!(b.len(), k * n, "right operand"),
    }
    if let Some(bias) = bias {
        assert_eq!(bias.len(), n, "bias");
    }
    if m == 0 || n == 0 {
        return;
    }
    let width = panel_vectors(n, level.lanes()) * level.lanes();
    let panels = n.div_ceil(width);
    match b {
        Right::Rows(b) if m < 4 * MR || panels == 1 => {
            // SAFETY: the lengths were checked above; B is read in place, row by row.
            unsafe {
                tasks(
                    level,
                    p,
                    c,
                    Source { b: Shared::new(b.as_ptr().cast_mut()), ldb: n, panel: 0 },
                )
            }
        }
        _ => scratch(panels * k * width, |packed| {
            let to = Shared::new(packed.as_mut_ptr());
            let kb = k.div_ceil(KC);
            parallel::for_each(panels * kb, 8 * n * k, |task| {
                let (j, k0) = (task / kb * width, task % kb * KC);
                let (columns, ks) = ((n - j).min(width), (k - k0).min(KC));
                let dst = to.at(task / kb * k * width + k0 * width);
                // SAFETY: panel and range of k are this task's own; source ranges are inside the checked operand.
                unsafe {
                    match b {
                        Right::Rows(b) => {
                            copy_rows(b.as_ptr().add(k0 * n + j), n, ks, columns, dst, width, width)
                        }
                        Right::Columns(b) => {
                            level.run(Transpose::new(
                                b.as_ptr().add(j * k + k0),
                                k,
                                columns,
                                ks,
                                dst,
                                width,
                                width,
                            ));
                        }
                    }
                }
            });
            // SAFETY: the packed panels cover k rows of `width` columns each, zero-padded.
            unsafe { tasks(level, p, c, Source { b: to, ldb: width, panel: k * width }) }
        }),
    }
}

/// The right operand as the tasks read it.
#[derive(Clone, Copy)]
struct Source {
    b: Shared,
    ldb: usize,
    panel: usize,
}

/// # Safety
/// As [`product`], and `source` describes all of B.
unsafe fn tasks(level: Level, p: &Product<'_>, c: Shared, source: Source) {
    let Product { m, n, k, a, bias, .. } = *p;
    let width = panel_vectors(n, level.lanes()) * level.lanes();
    let panels = n.div_ceil(width);
    let row_tasks = m.div_ceil(MC);
    let groups = if row_tasks >= 8 { 1 } else { panels.min(8usize.div_ceil(row_tasks)) };
    let group = panels.div_ceil(groups);
    let groups = panels.div_ceil(group);
    // The columns of A are copied row-adjacent once for several panels.
    let pack_left = matches!(a, Left::Columns(_)) && group > 2;
    parallel::for_each(row_tasks * groups, 2 * m * n * k, |task| {
        let (i0, g0) = (task / groups * MC, task % groups * group);
        let rows = (m - i0).min(MC);
        let (j0, j1) = (g0 * width, ((g0 + group) * width).min(n));
        let tiles = rows.div_ceil(MR);
        scratch(if pack_left { tiles * MR * KC } else { 0 }, |packed| {
            let mut k0 = 0;
            loop {
                let ks = (k - k0).min(KC);
                if let (true, Left::Columns(a)) = (pack_left, a) {
                    for t in 0..tiles {
                        let r = (rows - t * MR).min(MR);
                        // SAFETY: rows i0 + t * MR.. and ks values of k are inside A; the tile is inside the buffer.
                        unsafe {
                            copy_rows(
                                a.as_ptr().add(k0 * m + i0 + t * MR),
                                m,
                                ks,
                                r,
                                packed.as_mut_ptr().add(t * MR * ks),
                                MR,
                                0,
                            );
                        }
                    }
                }
                for j in (j0..j1).step_by(width) {
                    let columns = (j1 - j).min(width);
                    let b = source.b.get().wrapping_add(
                        if source.panel == 0 { j } else { j / width * source.panel }
                            + k0 * source.ldb,
                    );
                    let init = match (k0, bias) {
                        (0, None) => Init::Zero,
                        (0, Some(bias)) => Init::Columns(bias[j..].as_ptr()),
                        _ => Init::Load,
                    };
                    let to = c.at(i0 * n + j);
                    // SAFETY: the block is this task's own part of C; operands were checked against m, n, k.
                    unsafe {
                        match a {
                            Left::Rows(a) => {
                                let mut g = Block::<false, false>::new(rows, columns, ks);
                                (g.a, g.a_step) = (a.as_ptr().add(i0 * k + k0), k);
                                (g.b, g.ldb, g.b_padded, g.c, g.ldc, g.init) =
                                    (b, source.ldb, source.panel > 0, to, n, init);
                                level.run(g.ready());
                            }
                            Left::Columns(a) => {
                                let mut g = Block::<true, false>::new(rows, columns, ks);
                                (g.a, g.a_step, g.a_tile) = if pack_left {
                                    (packed.as_ptr(), MR, MR * ks)
                                } else {
                                    (a.as_ptr().add(k0 * m + i0), m, MR)
                                };
                                (g.b, g.ldb, g.b_padded, g.c, g.ldc, g.init) =
                                    (b, source.ldb, source.panel > 0, to, n, init);
                                level.run(g.ready());
                            }
                        }
                    }
                }
                k0 += ks;
                if k0 >= k {
                    break;
                }
            }
        });
    });
}
