//! Narrow number formats to f32.

use rayon::prelude::*;

/// Values that one task converts.
const PIECE: usize = 1 << 16;

/// Converts every value, on all threads where there are many.
pub fn widen<T: Copy + Sync>(values: &[T], f: impl Fn(T) -> f32 + Sync) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    let convert = |(to, from): (&mut [f32], &[T])| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = f(*from));
    };
    if values.len() <= PIECE {
        convert((&mut out, values));
    } else {
        out.par_chunks_mut(PIECE).zip(values.par_chunks(PIECE)).for_each(convert);
    }
    out
}
