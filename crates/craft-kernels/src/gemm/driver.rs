//! Products of plain matrices: packing where it pays, blocking over k, tasks over rows and columns.

use super::block::{Block, Init, panel_vectors};
use super::micro::MR;
use super::pack::{Transpose, copy_rows};
use crate::buffer::{Shared, scratch};
use crate::parallel;
use crate::simd::Level;
use crate::simd::amx::TILE;
use crate::simd::bf16::Pairs;

/// Range of k (in words, where they hold pairs) accumulated in registers before C is touched again.
const KC: usize = 256;
/// Rows of one task.
const MC: usize = 96;
/// Rows up to which a panel of the right operand is copied, used and forgotten at once: all copies together would often not stay
/// in the caches.
const FEW: usize = 512;

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

/// What is added to each row or column of a product.
#[derive(Clone, Copy)]
pub(crate) enum Bias<'a> {
    /// One value a row.
    Rows(&'a [f32]),
    /// One value a column.
    Columns(&'a [f32]),
}

/// `C[m, n] = bias + A B`.
pub(crate) struct Product<'a> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Left<'a>,
    pub b: Right<'a>,
    pub bias: Option<Bias<'a>>,
}

/// Computes the product, with factors rounded to bf16 where there are `pairs`; `c` receives `m * n` values.
///
/// # Safety
/// `c` is writable for `m * n` values and overlaps no operand.
pub(crate) unsafe fn product(level: Level, pairs: Option<Pairs>, p: &Product<'_>, c: Shared) {
    let Product { m, n, k, a, b, bias } = *p;
    match a {
        Left::Rows(a) | Left::Columns(a) => assert_eq!(a.len(), m * k, "left operand"),
    }
    match b {
        Right::Rows(b) | Right::Columns(b) => assert_eq!(b.len(), k * n, "right operand"),
    }
    match bias {
        Some(Bias::Rows(bias)) => assert_eq!(bias.len(), m, "bias"),
        Some(Bias::Columns(bias)) => assert_eq!(bias.len(), n, "bias"),
        None => {}
    }
    if m == 0 || n == 0 {
        return;
    }
    let width = panel_vectors(n, level.lanes()) * level.lanes();
    let panels = n.div_ceil(width);
    let words = words(k, pairs);
    // Rows of a panel: whole tiles where the tiles read them.
    let depth = if tiled(pairs) { words.next_multiple_of(TILE) } else { words };
    match b {
        Right::Rows(b) if pairs.is_none() && (m < 4 * MR || panels == 1) => {
            // SAFETY: the lengths were checked above; B is read in place, row by row.
            unsafe {
                tasks(
                    level,
                    pairs,
                    p,
                    c,
                    Source { b: Shared::new(b.as_ptr().cast_mut()), ldb: n, panel: 0 },
                )
            }
        }
        _ => match a {
            // SAFETY: as the caller vouches, and the lengths were checked.
            Left::Rows(a) if pairs.is_none() && m <= FEW => unsafe {
                by_panels(level, p, a, width, c)
            },
            _ => scratch(panels * depth * width, |packed| {
                let to = Shared::new(packed.as_mut_ptr());
                let kb = words.div_ceil(KC);
                parallel::for_each(panels * kb, 8 * n * k, |task| {
                    let (panel, k0) = (task / kb, task % kb * KC);
                    let ks = (words - k0).min(KC);
                    let dst = to.at(panel * depth * width + k0 * width);
                    // SAFETY: panel and range of k are this task's own, and inside the checked operand.
                    unsafe {
                        pack_part(level, pairs, p, panel * width, width, [k0, ks], dst);
                        if k0 + ks == words {
                            let rest = (depth - words) * width;
                            std::slice::from_raw_parts_mut(dst.add(ks * width), rest).fill(0.0);
                        }
                    }
                });
                let source = Source { b: to, ldb: width, panel: depth * width };
                // SAFETY: the packed panels cover all of k with `width` columns each, zero-padded.
                unsafe { tasks(level, pairs, p, c, source) }
            }),
        },
    }
}

/// Copies columns `j..` of the right operand, `width` of them or as many as there are with zeros behind them, for `ks` values or words
/// of k from `k0` on.
///
/// # Safety
/// That part is inside the operand, and `dst` is writable for `ks` rows of `width`.
unsafe fn pack_part(
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

/// The product in `f32`, a task a panel of columns, which is copied, used for all rows, and forgotten.
///
/// # Safety
/// As [`product`].
unsafe fn by_panels(level: Level, p: &Product<'_>, a: &[f32], width: usize, c: Shared) {
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
                    // SAFETY: rows, columns and k are inside the checked operands; this panel of C is this task's own.
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

/// What the sums of a block begin with.
fn start(bias: Option<Bias<'_>>, k0: usize, i: usize, j: usize) -> Init {
    match (k0, bias) {
        (0, None) => Init::Zero,
        (0, Some(Bias::Rows(bias))) => Init::Rows(bias[i..].as_ptr()),
        (0, Some(Bias::Columns(bias))) => Init::Columns(bias[j..].as_ptr()),
        _ => Init::Load,
    }
}

/// Length of the sum in the elements that the microkernel reads.
fn words(k: usize, pairs: Option<Pairs>) -> usize {
    if pairs.is_some() { k.div_ceil(2) } else { k }
}

/// Whether products are made on AMX tiles.
fn tiled(pairs: Option<Pairs>) -> bool {
    pairs.and_then(Pairs::tiles).is_some()
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
unsafe fn tasks(level: Level, pairs: Option<Pairs>, p: &Product<'_>, c: Shared, source: Source) {
    let Product { m, n, k, a, bias, .. } = *p;
    let width = panel_vectors(n, level.lanes()) * level.lanes();
    let panels = n.div_ceil(width);
    let words = words(k, pairs);
    let row_tasks = m.div_ceil(MC);
    let groups = if row_tasks >= 8 { 1 } else { panels.min(8usize.div_ceil(row_tasks)) };
    let group = panels.div_ceil(groups);
    let groups = panels.div_ceil(group);
    // The columns of A are copied row-adjacent once for several panels.
    let pack_left = pairs.is_none() && matches!(a, Left::Columns(_)) && group > 2;
    let tiled = tiled(pairs);
    parallel::for_each(row_tasks * groups, 2 * m * n * k, |task| {
        let (i0, g0) = (task / groups * MC, task % groups * group);
        let rows = (m - i0).min(MC);
        let (j0, j1) = (g0 * width, ((g0 + group) * width).min(n));
        let tiles = rows.div_ceil(MR);
        let room = match pairs {
            Some(_) => rows.next_multiple_of(TILE) * KC,
            None if pack_left => tiles * MR * KC,
            None => 0,
        };
        scratch(room, |packed| {
            let mut k0 = 0;
            loop {
                let ks = (words - k0).min(KC);
                let a_row = if tiled { ks.next_multiple_of(TILE) } else { ks };
                if let Some(pairs) = pairs {
                    // SAFETY: the rows of this task and the words k0.. of k are inside A; the buffer has room for the
                    // rows, KC words each.
                    unsafe { pack_words(level, pairs, p, [i0, rows], [k0, ks], packed, a_row) };
                }
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
                    let init = start(bias, k0, i0, j);
                    let to = c.at(i0 * n + j);
                    // SAFETY: the block is this task's own part of C; operands were checked against m, n, k.
                    unsafe {
                        match a {
                            Left::Columns(a) if !tiled => {
                                let mut g = Block::<true, false>::new(rows, columns, ks);
                                (g.a, g.a_step, g.a_tile) = if pairs.is_some() {
                                    (packed.as_ptr(), rows, MR)
                                } else if pack_left {
                                    (packed.as_ptr(), MR, MR * ks)
                                } else {
                                    (a.as_ptr().add(k0 * m + i0), m, MR)
                                };
                                (g.b, g.ldb, g.b_padded, g.c, g.ldc, g.init) =
                                    (b, source.ldb, source.panel > 0, to, n, init);
                                g.ready().compute(level, pairs);
                            }
                            Left::Rows(a) | Left::Columns(a) => {
                                let mut g = Block::<false, false>::new(rows, columns, ks);
                                (g.a, g.a_step, g.tiled) = match pairs {
                                    Some(_) => (packed.as_ptr(), a_row, tiled),
                                    None => (a.as_ptr().add(i0 * k + k0), k, false),
                                };
                                (g.b, g.ldb, g.b_padded, g.c, g.ldc, g.init) =
                                    (b, source.ldb, source.panel > 0, to, n, init);
                                g.ready().compute(level, pairs);
                            }
                        }
                    }
                }
                k0 += ks;
                if k0 >= words {
                    break;
                }
            }
        });
    });
}

/// Words k0.. of rows i0.. of the left operand: in rows of `a_row` words that end in zeros, or, where A comes in columns and
/// there are no tiles to read rows, in columns.
///
/// # Safety
/// Those rows and words are inside A; `to` has room for the rows up to whole tiles.
unsafe fn pack_words(
    level: Level,
    pairs: Pairs,
    p: &Product<'_>,
    [i0, rows]: [usize; 2],
    [k0, ks]: [usize; 2],
    to: &mut [f32],
    a_row: usize,
) {
    let Product { m, k, .. } = *p;
    let (values, dst) = ((k - 2 * k0).min(2 * ks), to.as_mut_ptr());
    // SAFETY: the caller vouches for the ranges.
    unsafe {
        match p.a {
            Left::Rows(a) => {
                pairs.rows(a.as_ptr().add(i0 * k + 2 * k0), k, rows, values, dst, a_row);
                if a_row > ks {
                    to.chunks_exact_mut(a_row).take(rows).for_each(|row| row[ks..].fill(0.0));
                }
            }
            Left::Columns(a) => {
                let from = a.as_ptr().add(2 * k0 * m + i0);
                if pairs.tiles().is_none() {
                    pairs.columns(from, m, values, rows, dst, rows, 0);
                    return;
                }
                scratch(ks * rows, |words| {
                    let words = words.as_mut_ptr();
                    pairs.columns(from, m, values, rows, words, rows, 0);
                    level.run(Transpose::new(words, rows, ks, rows, dst, a_row, a_row));
                });
            }
        }
    }
}
