//! Operands of matrix products and the products themselves, for kernels that do many operations on
//! rows in the caches. In `f32` most operands are read where they are; in bf16 they are packed in
//! words of two, up to whole tiles.

use super::block::panel_vectors;
use super::pack::Transpose;
use super::{Block, Init};
use crate::simd::Level;
use crate::simd::amx::{Ready, TILE, Tiles};
use crate::simd::bf16::Pairs;

/// Dtype of the operands, and what follows from it for the lengths of buffers.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    level: Level,
    pairs: Option<Pairs>,
}

impl Format {
    /// The one that is active.
    pub(crate) fn active(level: Level) -> Self {
        Self { level, pairs: Pairs::active(level) }
    }

    /// Whether operands are rounded to bf16.
    pub(crate) fn pairs(self) -> Option<Pairs> {
        self.pairs
    }

    /// `n` rows or values as a product reads them, where neighbours share a word.
    pub(crate) fn whole(self, n: usize) -> usize {
        if self.pairs.is_some() { n.next_multiple_of(2 * TILE) } else { n }
    }

    /// `n` rows or columns of a result.
    pub(crate) fn tiles(self, n: usize) -> usize {
        if self.pairs.is_some() { n.next_multiple_of(TILE) } else { n }
    }

    /// Length of a sum over `n` values: words, or values.
    pub(crate) fn depth(self, n: usize) -> usize {
        if self.pairs.is_some() { self.whole(n) / 2 } else { n }
    }

    /// What [`Multiplier::rows`] needs for `n` rows of `d`.
    pub(crate) fn rows_len(self, [n, d]: [usize; 2]) -> usize {
        if self.pairs.is_some() { self.whole(n) * self.depth(d) } else { 0 }
    }

    /// What [`Multiplier::rows_turned`] needs for rows of `d`, and for the room that goes with it.
    pub(crate) fn rows_turned_len(self, [n, d]: [usize; 2], width: usize) -> [usize; 2] {
        match self.pairs {
            Some(_) => [self.depth(d) * width, n * d.div_ceil(2)],
            None => [width.div_ceil(self.panel(width)) * self.panel(width) * d, 0],
        }
    }

    /// What [`Multiplier::columns`] needs for `n` rows, and [`Multiplier::columns_turned`] twice.
    pub(crate) fn columns_len(self, n: usize, width: usize) -> usize {
        if self.pairs.is_some() { self.depth(n) * width } else { 0 }
    }

    /// Columns of a panel of a right operand in `f32`.
    fn panel(self, width: usize) -> usize {
        panel_vectors(width, self.level.lanes()) * self.level.lanes()
    }
}

/// A left operand `[m, depth]`.
#[derive(Clone, Copy)]
pub(crate) struct LeftFactor {
    at: *const f32,
    ld: usize,
    /// Whether rows are adjacent, and `ld` leads from one value of the sum to the next.
    turned: bool,
}

impl LeftFactor {
    /// The same from row `r` on.
    pub(crate) fn after_rows(self, r: usize) -> Self {
        let step = if self.turned { 1 } else { self.ld };
        Self { at: self.at.wrapping_add(r * step), ..self }
    }

    /// The same from this place of the sum on.
    pub(crate) fn after_depth(self, k: usize) -> Self {
        let step = if self.turned { self.ld } else { 1 };
        Self { at: self.at.wrapping_add(k * step), ..self }
    }
}

/// A right operand `[depth, n]`.
#[derive(Clone, Copy)]
pub(crate) struct RightFactor {
    at: *const f32,
    ld: usize,
    /// Distance between panels of columns, zero where rows go through.
    panel: usize,
    padded: bool,
}

// SAFETY: an operand only carries addresses of values that no one writes while it is in use, which
// whoever made it vouched for.
unsafe impl Send for RightFactor {}
// SAFETY: as above.
unsafe impl Sync for RightFactor {}

/// Lays operands out and multiplies them, on one thread.
pub(crate) struct Multiplier {
    format: Format,
    ready: Option<Ready>,
}

impl Multiplier {
    /// For this thread.
    pub(crate) fn new(format: Format) -> Self {
        Self { format, ready: format.pairs.and_then(Pairs::tiles).map(Tiles::ready) }
    }

    /// Its dtype.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Left operand of the rows `x [n, d]`, at a distance of `ld`.
    ///
    /// # Safety
    /// `x + r * ld` is readable for `d` values for `r < n`, and is not written while the operand is
    /// in use.
    pub(crate) unsafe fn rows(
        &self,
        x: *const f32,
        ld: usize,
        [n, d]: [usize; 2],
        to: &mut [f32],
    ) -> LeftFactor {
        let Some(pairs) = self.format.pairs else {
            return LeftFactor { at: x, ld, turned: false };
        };
        let words = self.format.depth(d);
        let to = &mut to[..self.format.whole(n) * words];
        if 2 * words != d {
            to.fill(0.0);
        } else {
            to[n * words..].fill(0.0);
        }
        // SAFETY: the caller vouches for x; `to` holds n rows of at least d / 2 words.
        unsafe { pairs.rows(x, ld, n, d, to.as_mut_ptr(), words) };
        LeftFactor { at: to.as_ptr(), ld: words, turned: false }
    }

    /// Right operand `[d, width]` of the transpose of the rows `x [n, d]`; columns from `n` on are
    /// zero or not read.
    ///
    /// # Safety
    /// As [`rows`](Self::rows), and `n <= width`.
    pub(crate) unsafe fn rows_turned(
        &self,
        x: *const f32,
        ld: usize,
        [n, d]: [usize; 2],
        width: usize,
        room: &mut [f32],
        to: &mut [f32],
    ) -> RightFactor {
        let Some(pairs) = self.format.pairs else {
            let panel = self.format.panel(width);
            let to = &mut to[..width.div_ceil(panel) * panel * d];
            for (j, to) in to.chunks_exact_mut(panel * d).enumerate() {
                let first = j * panel;
                let (from, rows) = (x.wrapping_add(first * ld), n.saturating_sub(first).min(panel));
                // SAFETY: rows `first..` of x are readable; the panel holds d rows of its width.
                unsafe { self.turn(from, ld, [rows, d], to.as_mut_ptr(), panel, panel) };
            }
            return RightFactor { at: to.as_ptr(), ld: panel, panel: panel * d, padded: true };
        };
        let (used, words) = (d.div_ceil(2), self.format.depth(d));
        let (room, to) = (&mut room[..n * used], &mut to[..words * width]);
        to[used * width..].fill(0.0);
        // SAFETY: the caller vouches for x; `room` holds n rows of the words used and `to` that
        // many rows of `width`.
        unsafe {
            pairs.rows(x, ld, n, d, room.as_mut_ptr(), used);
            self.turn(room.as_ptr(), used, [n, used], to.as_mut_ptr(), width, width);
        }
        RightFactor { at: to.as_ptr(), ld: width, panel: 0, padded: true }
    }

    /// Right operand `[n, width]` of the rows `x [n, d]`; columns from `d` on are zero or not read.
    ///
    /// # Safety
    /// As [`rows`](Self::rows), and `d <= width`.
    pub(crate) unsafe fn columns(
        &self,
        x: *const f32,
        ld: usize,
        [n, d]: [usize; 2],
        width: usize,
        to: &mut [f32],
    ) -> RightFactor {
        let Some(pairs) = self.format.pairs else {
            return RightFactor { at: x, ld, panel: 0, padded: false };
        };
        // SAFETY: as the caller vouches.
        unsafe { self.words_of_columns(pairs, x, ld, [n, d], width, to) };
        RightFactor { at: to.as_ptr(), ld: width, panel: 0, padded: true }
    }

    /// Left operand `[width, n]` of the transpose of the rows `x [n, d]`. `room` is as long as
    /// `to`.
    ///
    /// # Safety
    /// As [`columns`](Self::columns).
    pub(crate) unsafe fn columns_turned(
        &self,
        x: *const f32,
        ld: usize,
        [n, d]: [usize; 2],
        width: usize,
        room: &mut [f32],
        to: &mut [f32],
    ) -> LeftFactor {
        let Some(pairs) = self.format.pairs else {
            return LeftFactor { at: x, ld, turned: true };
        };
        let words = self.format.depth(n);
        let to = &mut to[..width * words];
        // SAFETY: the caller vouches for x; both buffers hold `width * words` values.
        unsafe {
            self.words_of_columns(pairs, x, ld, [n, d], width, room);
            self.turn(room.as_ptr(), width, [words, width], to.as_mut_ptr(), words, words);
        }
        LeftFactor { at: to.as_ptr(), ld: words, turned: false }
    }

    /// Neighbouring rows of `x` in words: `[depth(n), width]`.
    ///
    /// # Safety
    /// As [`columns`](Self::columns).
    unsafe fn words_of_columns(
        &self,
        pairs: Pairs,
        x: *const f32,
        ld: usize,
        [n, d]: [usize; 2],
        width: usize,
        to: &mut [f32],
    ) {
        let to = &mut to[..self.format.depth(n) * width];
        to[n.div_ceil(2) * width..].fill(0.0);
        // SAFETY: the caller vouches for x; `to` holds a row of `width` for every two rows of x.
        unsafe { pairs.columns(x, ld, n, d, to.as_mut_ptr(), width, width) };
    }

    /// Transposes `src [rows, columns]`; rows of `dst` end in zeros up to `padded`.
    ///
    /// # Safety
    /// As [`Transpose::new`].
    pub(crate) unsafe fn turn(
        &self,
        src: *const f32,
        ld: usize,
        [rows, columns]: [usize; 2],
        dst: *mut f32,
        ld_dst: usize,
        padded: usize,
    ) {
        // SAFETY: as the caller vouches.
        let job = unsafe { Transpose::new(src, ld, rows, columns, dst, ld_dst, padded) };
        self.format.level.run(job);
    }

    /// `c [m, n] = init + a [m, depth] b [depth, n]`, rows of `c` and `init` at a distance of `n`.
    /// In bf16 all lengths are whole tiles.
    ///
    /// # Safety
    /// The operands and `init` are readable, and `c` writable, over those extents.
    pub(crate) unsafe fn product(
        &self,
        [m, depth, n]: [usize; 3],
        a: LeftFactor,
        b: RightFactor,
        c: *mut f32,
        init: Init,
    ) {
        let Format { level, pairs } = self.format;
        macro_rules! block {
            ($turned:literal) => {{
                let mut g = Block::<$turned, false>::new(m, n, depth);
                (g.a, g.a_step) = (a.at, a.ld);
                (g.b, g.ldb, g.b_panel, g.b_padded) = (b.at, b.ld, b.panel, b.padded);
                (g.c, g.ldc, g.init, g.tiled) = (c, n, init, pairs.is_some());
                // SAFETY: as the caller vouches.
                unsafe { g.ready() }
            }};
        }
        if a.turned {
            block!(true).compute(level, pairs);
        } else {
            block!(false).compute_ready(level, pairs, self.ready.as_ref());
        }
    }
}
