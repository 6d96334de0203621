//! Matmuls of plain matrices: packing if it pays, blocking over k, tasks over rows and columns.

use super::block::{Block, Init, panel_vectors};
use super::micro::MR;
use super::pack::{Transpose, copy_rows};
use super::panels::{FEW, by_panels, pack_part};
use crate::buffer::{Shared, scratch};
use crate::parallel;
use crate::simd::Level;
use crate::simd::amx::TILE;
use crate::simd::bf16::Pairs;

/// Range of k (in words, where they hold pairs) accumulated in registers before C is touched again.
pub(super) const KC: usize = 256;
/// Rows of one task.
pub(super) const MC: usize = 96;

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

/// Computes the product, in bf16 if `pairs` is given; `c` receives `m * n` values.
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
    match (a, b) {
        (_, Right::Rows(b)) if pairs.is_none() && (m < 4 * MR || panels == 1) => {
            let source = Source { b: Shared::new(b.as_ptr().cast_mut()), ldb: n, panel: 0 };
            // SAFETY: the lengths were checked above; B is read in place, row by row.
            unsafe { tasks(level, pairs, p, c, source) }
        }
        // SAFETY: the lengths were checked above.
        (Left::Rows(a), _) if pairs.is_none() && m <= FEW => unsafe {
            by_panels(level, p, a, width, c);
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
    }
}

/// What the sums of a block begin with.
pub(super) fn start(bias: Option<Bias<'_>>, k0: usize, i: usize, j: usize) -> Init {
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

/// Whether matmuls use AMX tiles.
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
                    // SAFETY: the rows of this task and the words k0.. of k are inside A; the
                    // buffer has room for the rows, KC words each.
                    unsafe { pack_words(level, pairs, p, [i0, rows], [k0, ks], packed, a_row) };
                }
                if let (true, Left::Columns(a)) = (pack_left, a) {
                    for t in 0..tiles {
                        let r = (rows - t * MR).min(MR);
                        // SAFETY: rows i0 + t * MR.. and ks values of k are inside A; the tile is
                        // inside the buffer.
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
                    // SAFETY: the block is this task's own part of C; operands were checked against
                    // m, n, k.
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

/// Words k0.. of rows i0.. of the left operand: in rows of `a_row` words that end in zeros, or,
/// where A comes in columns and there are no tiles to read rows, in columns.
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
