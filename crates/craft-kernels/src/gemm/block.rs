//! A whole block of the result, tile by tile, on one thread.

use super::micro::{MR, NV, Tile, tile};
use super::tiles;
use crate::simd::amx::{Ready, Tiles};
use crate::simd::bf16::Pairs;
use crate::simd::{Kernel, Level, Simd};

/// What the accumulators start from.
#[derive(Clone, Copy)]
pub(crate) enum Init {
    /// Zero.
    Zero,
    /// What C holds: the continuation of an earlier range of k.
    Load,
    /// One value a row.
    Rows(*const f32),
    /// One value a column.
    Columns(*const f32),
    /// One value a row, and one for each element, laid out as C is.
    RowsAnd(*const f32, *const f32),
    /// The same with one value a column.
    ColumnsAnd(*const f32, *const f32),
}

impl Init {
    /// What C holds where it holds `some`thing, zero otherwise.
    pub(crate) fn load_if(some: bool) -> Self {
        if some { Self::Load } else { Self::Zero }
    }
}

/// `C[m, n] = init + A[m, k] B[k, n]`.
///
/// `PANEL`: rows of A adjacent in memory (`a + tile * a_tile + k * a_step + row`); otherwise values
/// of k adjacent, row r at `a + r * a_step` or, with a table, at `a + a_table[r]`.
/// `TABLE`: row k of B at `b + b_table[k]`; otherwise at `b + k * ldb`. Where `b_rows > 0`, sixteen
/// rows each follow each other at that distance, k is a multiple of sixteen, and whole tiles may be
/// read past column n.
#[derive(Clone, Copy)]
pub(crate) struct Block<const PANEL: bool, const TABLE: bool> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: *const f32,
    pub a_step: usize,
    pub a_tile: usize,
    pub a_table: *const usize,
    pub b: *const f32,
    pub ldb: usize,
    pub b_table: *const usize,
    pub b_rows: usize,
    /// Distance between the column panels of B; 0 where B is not packed (panels adjacent).
    pub b_panel: usize,
    /// Whether whole vectors may be read past column n of B.
    pub b_padded: bool,
    /// Whether A and B can be read in whole AMX tiles: rows of A up to a multiple of 16, columns of
    /// a panel of B too, and k of both, which hold zeros.
    pub tiled: bool,
    pub c: *mut f32,
    pub ldc: usize,
    pub init: Init,
}

impl<const PANEL: bool, const TABLE: bool> Block<PANEL, TABLE> {
    /// A block with the common fields; the others are zero.
    pub(crate) fn new(m: usize, n: usize, k: usize) -> Self {
        Self {
            m,
            n,
            k,
            a: std::ptr::null(),
            a_step: 0,
            a_tile: MR,
            a_table: std::ptr::null(),
            b: std::ptr::null(),
            ldb: 0,
            b_table: std::ptr::null(),
            b_rows: 0,
            b_panel: 0,
            b_padded: false,
            tiled: false,
            c: std::ptr::null_mut(),
            ldc: 0,
            init: Init::Zero,
        }
    }
}

/// Vectors of one column panel for `n` columns: as even a split as possible into at most [`NV`], or
/// two where the vectors are short: with sixteen registers, three registers for each of four rows
/// would spill.
#[inline]
pub(crate) fn panel_vectors(n: usize, lanes: usize) -> usize {
    let most = if lanes < 16 { 2 } else { NV };
    let vectors = n.div_ceil(lanes).max(1);
    vectors.div_ceil(vectors.div_ceil(most))
}

/// A [`Block`] whose pointers were vouched for.
pub(crate) struct Run<const PANEL: bool, const TABLE: bool>(Block<PANEL, TABLE>);

impl<const PANEL: bool, const TABLE: bool> Block<PANEL, TABLE> {
    /// # Safety
    /// A, B (and the tables and bias) are readable and C is writable over the block's whole extent;
    /// C overlaps nothing.
    pub(crate) unsafe fn ready(self) -> Run<PANEL, TABLE> {
        Run(self)
    }
}

impl<const TABLE: bool> Run<true, TABLE> {
    /// Computes the block; with `pairs`, A and B hold words of two bf16 and k counts words.
    #[inline]
    pub(crate) fn compute(self, level: Level, pairs: Option<Pairs>) {
        match pairs {
            Some(pairs) => pairs.run(self),
            None => level.run(self),
        }
    }
}

impl<const TABLE: bool> Run<false, TABLE> {
    /// The same, on AMX tiles if the CPU has them.
    #[inline]
    pub(crate) fn compute(self, level: Level, pairs: Option<Pairs>) {
        let ready = pairs.and_then(Pairs::tiles).map(Tiles::ready);
        self.compute_ready(level, pairs, ready.as_ref());
    }

    /// The same, on the tiles that `ready` has laid out, if there is one: laying them out costs as
    /// much as a small block.
    #[inline]
    pub(crate) fn compute_ready(self, level: Level, pairs: Option<Pairs>, ready: Option<&Ready>) {
        match (pairs, ready) {
            // SAFETY: `ready` vouched for the block.
            (Some(pairs), Some(ready)) => unsafe { tiles::compute(self.0, pairs, ready) },
            (Some(pairs), None) => pairs.run(self),
            (None, _) => level.run(self),
        }
    }
}

impl<const PANEL: bool, const TABLE: bool> Kernel for Run<PANEL, TABLE> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.0;
        let width = panel_vectors(g.n, S::LANES) * S::LANES;
        let mut j = 0;
        let mut panel = 0;
        while j < g.n {
            let columns = (g.n - j).min(width);
            let vectors = columns.div_ceil(S::LANES);
            let tail = columns - (vectors - 1) * S::LANES;
            let b = if g.b_panel == 0 {
                g.b.wrapping_add(j)
            } else {
                g.b.wrapping_add(panel * g.b_panel)
            };
            let partial = tail < S::LANES && !g.b_padded;
            let mut i = 0;
            while i < g.m {
                let left = g.m - i;
                let rows = tile_rows::<S, PANEL>(left);
                let mut t = Tile {
                    k: g.k,
                    a: g.a,
                    a_step: g.a_step,
                    rows: [g.a; MR],
                    b,
                    ldb: g.ldb,
                    table: g.b_table,
                    c: g.c.wrapping_add(i * g.ldc + j),
                    ldc: g.ldc,
                    tail,
                    init: match g.init {
                        Init::Rows(p) => Init::Rows(p.wrapping_add(i)),
                        Init::Columns(p) => Init::Columns(p.wrapping_add(j)),
                        Init::RowsAnd(p, q) => {
                            Init::RowsAnd(p.wrapping_add(i), q.wrapping_add(i * g.ldc + j))
                        }
                        Init::ColumnsAnd(p, q) => {
                            Init::ColumnsAnd(p.wrapping_add(j), q.wrapping_add(i * g.ldc + j))
                        }
                        other => other,
                    },
                };
                if PANEL {
                    t.a = g.a.wrapping_add(i / MR * g.a_tile + i % MR);
                } else {
                    for (r, p) in t.rows.iter_mut().enumerate().take(rows) {
                        *p = if g.a_table.is_null() {
                            g.a.wrapping_add((i + r) * g.a_step)
                        } else {
                            // SAFETY: the table has one entry a row of the block, and i + r < m.
                            g.a.wrapping_add(unsafe { *g.a_table.add(i + r) })
                        };
                    }
                }
                // SAFETY: `ready` vouched for the whole block, and the tile lies inside it.
                unsafe { any::<S, PANEL, TABLE>(s, &t, rows, vectors, partial) };
                i += rows;
            }
            j += width;
            panel += 1;
        }
    }
}

/// Rows of the next tile where `left` are left.
#[inline(always)]
fn tile_rows<S: Simd, const PANEL: bool>(left: usize) -> usize {
    let most = if PANEL { S::TILE_ROWS } else { S::LONG_ROWS };
    // Two halves of eight keep more sums going than six and two.
    if left >= most && !(most == 6 && left == 8) {
        most
    } else {
        (1 << left.ilog2()).min(S::TILE_ROWS)
    }
}

macro_rules! shapes {
    ($s:ident, $t:ident, $rows:ident, $vectors:ident, $partial:ident; $($m:literal $n:literal),*) => {
        match ($rows, $vectors, $partial) {
            $(($m, $n, false) => tile::<S, $m, $n, PANEL, TABLE, false>($s, $t),
            ($m, $n, true) => tile::<S, $m, $n, PANEL, TABLE, true>($s, $t),)*
            _ => unreachable!("no such tile"),
        }
    };
}

/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn any<S: Simd, const PANEL: bool, const TABLE: bool>(
    s: S,
    t: &Tile,
    rows: usize,
    vectors: usize,
    partial: bool,
) {
    // SAFETY: the caller vouches for the tile.
    unsafe {
        shapes!(s, t, rows, vectors, partial; 8 1, 8 2, 8 3, 6 1, 6 2, 4 1, 4 2, 4 3, 2 1, 2 2, 2 3, 1 1, 1 2, 1 3)
    }
}
