//! Memory: outputs without zero fill, scratch space kept per thread, and pointers that cross
//! threads.

use std::cell::RefCell;

/// A vector being filled through its pointer; every element is written before [`Output::finish`].
pub(crate) struct Output {
    data: Vec<f32>,
    len: usize,
}

impl Output {
    pub(crate) fn new(len: usize) -> Self {
        Self { data: Vec::with_capacity(len), len }
    }

    pub(crate) fn ptr(&mut self) -> Shared {
        Shared(self.data.as_mut_ptr())
    }

    /// # Safety
    /// All `len` elements were written through [`Output::ptr`].
    pub(crate) unsafe fn finish(mut self) -> Vec<f32> {
        // SAFETY: the capacity is at least `len` and the caller vouches that the elements are
        // initialised.
        unsafe { self.data.set_len(self.len) };
        self.data
    }
}

/// A pointer to memory that several tasks write in disjoint places.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: `Shared` only carries an address; every use through it is in an `unsafe` block that
// argues disjointness.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(p: *mut f32) -> Self {
        Self(p)
    }
    #[inline(always)]
    pub(crate) fn get(self) -> *mut f32 {
        self.0
    }
    /// Pointer to element `i`; no claim that it is in bounds until it is used.
    #[inline(always)]
    pub(crate) fn at(self, i: usize) -> *mut f32 {
        self.0.wrapping_add(i)
    }
}

thread_local! {
    static POOL: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Buffers kept per thread, and the largest one kept (in values): 16 MiB.
const KEPT: usize = 8;
const LARGEST_KEPT: usize = 4 << 20;

/// Lends a buffer of `len` values aligned to 64 bytes. Its contents are arbitrary.
pub(crate) fn scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let need = len + 16;
    let mut buffer = POOL.with_borrow_mut(|pool| {
        let found = pool.iter().position(|b| b.len() >= need);
        match found {
            Some(i) => pool.swap_remove(i),
            None => pool.pop().unwrap_or_default(),
        }
    });
    if buffer.len() < need {
        buffer = vec![0.0; need.next_multiple_of(1024)];
    }
    let skip = buffer.as_ptr().align_offset(64).min(16);
    let result = f(&mut buffer[skip..skip + len]);
    if buffer.len() <= LARGEST_KEPT {
        POOL.with_borrow_mut(|pool| {
            if pool.len() < KEPT {
                pool.push(buffer);
            }
        });
    }
    result
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
