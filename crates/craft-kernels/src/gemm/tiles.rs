//! A block of the result on AMX tiles: the operands in whole tiles, copied where they are not laid
//! out so.

use super::block::{Block, Init, panel_vectors};
use crate::buffer::scratch;
use crate::simd::amx::{COLUMN_TILES, Operands, ROW_TILES, Ready, TILE};
use crate::simd::bf16::Pairs;
use crate::simd::{Kernel, Simd};

/// Rows of one strip of the result.
const STRIP: usize = ROW_TILES * TILE;
/// Columns of the widest panel.
const WIDTH: usize = COLUMN_TILES * TILE;

/// Computes a block whose left operand lies in rows, on the tiles of this thread that `ready` has
/// laid out.
///
/// # Safety
/// As [`Block::ready`], for words of two bf16.
pub(super) unsafe fn compute<const TABLE: bool>(
    g: Block<false, TABLE>,
    pairs: Pairs,
    ready: &Ready,
) {
    let depth = g.k.next_multiple_of(TILE);
    let a_in_place =
        g.tiled || g.a_table.is_null() && g.k.is_multiple_of(TILE) && g.m.is_multiple_of(TILE);
    let a_len = if a_in_place { 0 } else { g.m.next_multiple_of(TILE) * depth };
    let b_len = if g.tiled && !TABLE { 0 } else { depth * WIDTH };
    let run = |a: Option<*mut f32>, b| pairs.run(OnTiles { g, depth, a, b, ready });
    if a_len + b_len == 0 {
        return run(None, std::ptr::null_mut());
    }
    scratch(a_len + b_len, |room| {
        let (a, b) = room.split_at_mut(a_len);
        run((!a_in_place).then_some(a.as_mut_ptr()), b.as_mut_ptr());
    });
}

/// A block with room for copies of its operands in whole tiles.
struct OnTiles<'a, const TABLE: bool> {
    g: Block<false, TABLE>,
    /// k up to whole tiles.
    depth: usize,
    /// Room for the rows of A, `depth` words each; none if they are read in place.
    a: Option<*mut f32>,
    /// Room for one panel of B: `depth` rows of [`WIDTH`].
    b: *mut f32,
    ready: &'a Ready,
}

impl<const TABLE: bool> Kernel for OnTiles<'_, TABLE> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { g, depth, a: a_copy, b: b_copy, ready } = self;
        if depth == 0 {
            // SAFETY: the whole of C is the block's own.
            unsafe { start(s, &g, 0, 0, g.m, g.n, g.c, g.ldc) };
            return;
        }
        let (a, lda) = match a_copy {
            Some(to) => {
                // SAFETY: `compute` made room for the rows, and its caller vouched for A.
                unsafe { copy_rows(s, &g, depth, to) };
                (to.cast_const(), depth)
            }
            None => (g.a, g.a_step),
        };
        let width = panel_vectors(g.n, TILE) * TILE;
        for (panel, j) in (0..g.n).step_by(width).enumerate() {
            let columns = (g.n - j).min(width);
            let by_table = TABLE && g.b_rows > 0;
            let in_place =
                !TABLE && (g.tiled || g.k == depth && (g.b_padded || columns.is_multiple_of(TILE)));
            let from = match g.b_panel {
                0 => g.b.wrapping_add(j),
                step => g.b.wrapping_add(panel * step),
            };
            let (b, ldb) = if by_table {
                (from, g.b_rows)
            } else if in_place {
                (from, g.ldb)
            } else {
                // SAFETY: as above, for the panel's columns of B.
                unsafe { copy_panel(s, &g, from, columns, depth, b_copy) };
                (b_copy.cast_const(), WIDTH)
            };
            for i in (0..g.m).step_by(STRIP) {
                let rows = (g.m - i).min(STRIP);
                let (c, ldc) = (g.c.wrapping_add(i * g.ldc + j), g.ldc);
                let a = a.wrapping_add(i * lda);
                let b_table = if by_table { g.b_table } else { std::ptr::null() };
                let steps = depth / TILE;
                let o = Operands { a, lda, b, ldb, b_table, c, ldc, steps, load: false };
                // SAFETY: operands are in whole tiles now, and the part of C is inside the block.
                unsafe { strip(s, ready, &g, o, [i, j], [rows, columns]) };
            }
        }
    }
}

/// The part of C at `[row, column]`, `[rows, columns]` of which are valid; `o.c` is where it lies.
///
/// # Safety
/// `o` has A and B in whole tiles; the valid part of C is inside the block.
#[inline(always)]
unsafe fn strip<S: Simd, const TABLE: bool>(
    s: S,
    ready: &Ready,
    g: &Block<false, TABLE>,
    mut o: Operands,
    [i, j]: [usize; 2],
    [rows, columns]: [usize; 2],
) {
    let (high, wide) = (rows.div_ceil(TILE), columns.div_ceil(TILE));
    o.load = !matches!(g.init, Init::Zero);
    let c = o.c;
    // SAFETY: where whole tiles of C are valid they are written in place; otherwise the buffer
    // holds whole tiles, and only the valid part of C is touched.
    unsafe {
        if rows == high * TILE && columns == wide * TILE {
            if !matches!(g.init, Init::Zero | Init::Load) {
                start(s, g, i, j, rows, columns, c, g.ldc);
            }
            ready.multiply(high, wide, &o);
            return;
        }
        let mut part = [0.0f32; STRIP * WIDTH];
        (o.c, o.ldc) = (part.as_mut_ptr(), WIDTH);
        match g.init {
            Init::Zero => {}
            Init::Load => {
                for r in 0..rows {
                    copy(s, c.wrapping_add(r * g.ldc), o.c.add(r * WIDTH), columns);
                }
            }
            _ => start(s, g, i, j, rows, columns, o.c, WIDTH),
        }
        ready.multiply(high, wide, &o);
        for r in 0..rows {
            copy(s, o.c.add(r * WIDTH), c.wrapping_add(r * g.ldc), columns);
        }
    }
}

/// What the sums of rows `i..`, columns `j..` start from, to `c`.
///
/// # Safety
/// `c` is writable for `rows` rows of `columns`, and the block's bias readable.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn start<S: Simd, const TABLE: bool>(
    s: S,
    g: &Block<false, TABLE>,
    i: usize,
    j: usize,
    rows: usize,
    columns: usize,
    c: *mut f32,
    ldc: usize,
) {
    for r in 0..rows {
        let to = c.wrapping_add(r * ldc);
        // SAFETY: the caller vouches for C, for one bias a row or a column, and for an image of C's
        // layout.
        unsafe {
            match g.init {
                Init::Load => {}
                Init::Zero => fill(s, 0.0, to, columns),
                Init::Rows(bias) => fill(s, *bias.add(i + r), to, columns),
                Init::Columns(bias) => copy(s, bias.add(j), to, columns),
                Init::RowsAnd(bias, image) => {
                    let (bias, image) = (*bias.add(i + r), image.add((i + r) * g.ldc + j));
                    let sum = |at, n| s.add(s.splat(bias), s.load_partial(image.add(at), n));
                    set(s, to, columns, sum);
                }
                Init::ColumnsAnd(bias, image) => {
                    let (bias, image) = (bias.add(j), image.add((i + r) * g.ldc + j));
                    let read = |from: *const f32, at, n| s.load_partial(from.add(at), n);
                    set(s, to, columns, |at, n| s.add(read(bias, at, n), read(image, at, n)));
                }
            }
        }
    }
}

/// # Safety
/// `from` is readable and `to` writable for `n` values.
#[inline(always)]
unsafe fn copy<S: Simd>(s: S, from: *const f32, to: *mut f32, n: usize) {
    for at in (0..n).step_by(S::LANES) {
        let left = n - at;
        // SAFETY: at + min(left, LANES) <= n.
        unsafe {
            if left >= S::LANES {
                s.store(to.add(at), s.load(from.add(at)));
            } else {
                s.store_partial(to.add(at), s.load_partial(from.add(at), left), left);
            }
        }
    }
}

/// Writes `values(first, count)` of a vector each.
///
/// # Safety
/// `to` is writable for `n` values.
#[inline(always)]
unsafe fn set<S: Simd>(s: S, to: *mut f32, n: usize, values: impl Fn(usize, usize) -> S::V) {
    for at in (0..n).step_by(S::LANES) {
        let left = (n - at).min(S::LANES);
        // SAFETY: at + left <= n.
        unsafe { s.store_partial(to.add(at), values(at, left), left) };
    }
}

/// # Safety
/// `to` is writable for `n` values.
#[inline(always)]
unsafe fn fill<S: Simd>(s: S, value: f32, to: *mut f32, n: usize) {
    for at in (0..n).step_by(S::LANES) {
        // SAFETY: at + min(n - at, LANES) <= n.
        unsafe { s.store_partial(to.add(at), s.splat(value), (n - at).min(S::LANES)) };
    }
}

/// The rows of A, each `depth` words long with zeros at its end.
///
/// # Safety
/// The block's A is readable; `to` is writable for `m` rows of `depth`.
#[inline(always)]
unsafe fn copy_rows<S: Simd, const TABLE: bool>(
    s: S,
    g: &Block<false, TABLE>,
    depth: usize,
    to: *mut f32,
) {
    for r in 0..g.m {
        // SAFETY: r < m; the table, if given, has an entry a row.
        unsafe {
            let skip = if g.a_table.is_null() { r * g.a_step } else { *g.a_table.add(r) };
            let (from, to) = (g.a.wrapping_add(skip), to.add(r * depth));
            copy(s, from, to, g.k);
            fill(s, 0.0, to.add(g.k), depth - g.k);
        }
    }
}

/// One panel of B: `depth` rows of `WIDTH`, of which the columns up to whole tiles are set, with
/// rows of zeros at its end.
///
/// # Safety
/// `columns` values of all rows of B from `from` on are readable; `to` is writable for `depth`
/// rows.
#[inline(always)]
unsafe fn copy_panel<S: Simd, const TABLE: bool>(
    s: S,
    g: &Block<false, TABLE>,
    from: *const f32,
    columns: usize,
    depth: usize,
    to: *mut f32,
) {
    let padded = columns.next_multiple_of(TILE);
    for r in 0..depth {
        // SAFETY: r < k where B is read; the table has an entry a row.
        unsafe {
            let to = to.add(r * WIDTH);
            if r < g.k {
                let skip = if TABLE { *g.b_table.add(r) } else { r * g.ldb };
                copy(s, from.wrapping_add(skip), to, columns);
                fill(s, 0.0, to.add(columns), padded - columns);
            } else {
                fill(s, 0.0, to, padded);
            }
        }
    }
}
