//! Small kernels over rows that are in the caches.

use crate::simd::map::{for_vectors, read, write};
use crate::simd::{Kernel, Simd};

/// Adds `x` to what stands at `to`.
pub(crate) struct AddRow<'a> {
    to: *mut f32,
    x: &'a [f32],
}

impl<'a> AddRow<'a> {
    /// # Safety
    /// `to` is readable and writable for as many values as `x` has.
    pub(crate) unsafe fn new(to: *mut f32, x: &'a [f32]) -> Self {
        Self { to, x }
    }
}

impl Kernel for AddRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for_vectors!(S, self.x.len(), |i, n| {
            // SAFETY: n values from index i are inside both, as `new` was told.
            unsafe {
                let to = self.to.add(i);
                write(s, to, s.add(read(s, to, n), read(s, self.x.as_ptr().add(i), n)), n);
            }
        });
    }
}
