//! Operands packed in words of two bf16, and their products, for kernels that pack what they need themselves.

use super::pack::Transpose;
use super::{Block, Init};
use crate::simd::Level;
use crate::simd::amx::{Ready, TILE, Tiles};
use crate::simd::bf16::Pairs;

/// Up to whole tiles along an axis whose neighbours share a word.
pub(crate) fn whole(n: usize) -> usize {
    n.next_multiple_of(2 * TILE)
}

/// Packs operands in words and multiplies them; operands end in zeros up to whole tiles.
pub(crate) struct Narrow {
    level: Level,
    pairs: Pairs,
    ready: Option<Ready>,
}

impl Narrow {
    /// For this thread.
    pub(crate) fn new(level: Level, pairs: Pairs) -> Self {
        Self { level, pairs, ready: pairs.tiles().map(Tiles::ready) }
    }

    /// Rows `x [n, d]`, their channels in words: `[whole(n), words]`.
    ///
    /// # Safety
    /// `x + r * ld` is readable for `d` values for `r < n`.
    pub(crate) unsafe fn rows(
        &self,
        x: *const f32,
        ld: usize,
        [n, d]: [usize; 2],
        words: usize,
        to: &mut [f32],
    ) {
        let to = &mut to[..whole(n) * words];
        if 2 * words != d {
            to.fill(0.0);
        } else {
            to[n * words..].fill(0.0);
        }
        // SAFETY: the caller vouches for x; `to` holds n rows of at least d / 2 words.
        unsafe { self.pairs.rows(x, ld, n, d, to.as_mut_ptr(), words) };
    }

    /// The transpose of [`rows`](Self::rows): `[words, width]`. `room` holds `n` rows of `words`.
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
    ) {
        let (used, words) = (d.div_ceil(2), whole(d) / 2);
        let (room, to) = (&mut room[..n * used], &mut to[..words * width]);
        to[used * width..].fill(0.0);
        // SAFETY: the caller vouches for x; `room` holds n rows of the words used and `to` that many rows of `width`.
        unsafe {
            self.pairs.rows(x, ld, n, d, room.as_mut_ptr(), used);
            self.turn(room.as_ptr(), used, [n, used], to.as_mut_ptr(), width, width);
        }
    }

    /// Rows `x [n, d]`, neighbouring rows in words: `[whole(n) / 2, width]`.
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
    ) {
        let to = &mut to[..whole(n) / 2 * width];
        to[n.div_ceil(2) * width..].fill(0.0);
        // SAFETY: the caller vouches for x; `to` holds a row of `width` for every two rows of x.
        unsafe { self.pairs.columns(x, ld, n, d, to.as_mut_ptr(), width, width) };
    }

    /// The transpose of [`columns`](Self::columns): `[width, whole(n) / 2]`. `room` holds as much.
    ///
    /// # Safety
    /// As there.
    pub(crate) unsafe fn columns_turned(
        &self,
        x: *const f32,
        ld: usize,
        [n, d]: [usize; 2],
        width: usize,
        room: &mut [f32],
        to: &mut [f32],
    ) {
        let words = whole(n) / 2;
        let to = &mut to[..width * words];
        // SAFETY: the caller vouches for x; both buffers hold `width * words` values.
        unsafe {
            self.columns(x, ld, [n, d], width, room);
            self.turn(room.as_ptr(), width, [words, width], to.as_mut_ptr(), words, words);
        }
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
        self.level.run(job);
    }

    /// `c [m, n] = init + a [m, words] b [words, n]`; every length is whole tiles, and rows lie at these distances: `a`'s at
    /// `lda`, the others' at `n`.
    ///
    /// # Safety
    /// The operands and `init` are readable, and `c` writable, over those extents.
    pub(crate) unsafe fn product(
        &self,
        [m, words, n]: [usize; 3],
        (a, lda): (*const f32, usize),
        b: *const f32,
        c: *mut f32,
        init: Init,
    ) {
        let mut g = Block::<false, false>::new(m, n, words);
        (g.a, g.a_step, g.b, g.ldb, g.b_padded, g.tiled) = (a, lda, b, n, true, true);
        (g.c, g.ldc, g.init) = (c, n, init);
        // SAFETY: as the caller vouches.
        unsafe {
            g.ready().compute_ready(self.level, Some(self.pairs), self.ready.as_ref());
        }
    }
}

/// The parts of a buffer, which is as long as all of them.
pub(crate) fn split<const N: usize>(
    mut buffer: &mut [f32],
    lengths: [usize; N],
) -> [&mut [f32]; N] {
    lengths.map(|length| {
        let (part, rest) = std::mem::take(&mut buffer).split_at_mut(length);
        buffer = rest;
        part
    })
}
