//! Views into storages.

use std::rc::Rc;

use safetensors::Dtype;

use super::pickle::Result;

/// A view into a storage, in elements.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    pub(super) storage: Rc<str>,
    pub(super) dtype: Dtype,
    /// Elements of the storage.
    pub(super) stored: u64,
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

impl View {
    /// Number of elements.
    pub(super) fn count(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |n, s| n.checked_mul(*s as u64))
    }

    /// First element and the one after the last, checked against the storage. A view never has more
    /// elements than its storage, so that a small file cannot ask for much memory.
    pub(super) fn span(&self) -> Result<(u64, u64)> {
        let out = || {
            format!(
                "a tensor of shape {:?}, strides {:?} and offset {} does not fit its storage of {} elements",
                self.shape, self.strides, self.offset, self.stored
            )
        };
        let count = self.count().ok_or_else(out)?;
        if self.shape.len() != self.strides.len() || count > self.stored || self.shape.len() > 16 {
            return Err(out());
        }
        if count == 0 {
            return Ok((0, 0));
        }
        let mut last = self.offset;
        for (size, stride) in self.shape.iter().zip(&self.strides) {
            let step = (*size as u64 - 1).checked_mul(*stride as u64).ok_or_else(out)?;
            last = last.checked_add(step).ok_or_else(out)?;
        }
        if last >= self.stored { Err(out()) } else { Ok((self.offset, last + 1)) }
    }

    /// Copies the view's elements of `size` bytes in row-major order out of the bytes of its span.
    pub(super) fn gather(&self, span: Vec<u8>, size: usize) -> Vec<u8> {
        let plain: usize = self.shape.iter().product();
        let mut next = 1;
        let dense = self.shape.iter().zip(&self.strides).rev().all(|(n, stride)| {
            let fits = *n == 1 || *stride == next;
            next *= n;
            fits
        });
        if dense || span.is_empty() {
            return span;
        }
        let mut out = Vec::with_capacity(plain * size);
        let mut index = vec![0usize; self.shape.len()];
        for _ in 0..plain {
            let at: usize = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
            out.extend_from_slice(&span[at * size..(at + 1) * size]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        out
    }
}
