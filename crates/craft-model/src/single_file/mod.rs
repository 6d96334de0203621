//! Single-file checkpoints, in and out. Tensors are copied one at a time in their own number formats.

mod check;
mod export;
mod import;

pub use export::{About, Header, about, export};
pub use import::{import, import_into};

use craft_nn::ldm::Take;
use craft_store::raw::Raw;

/// Key of a file's header that tells what an export was made of.
pub const RUN_KEY: &str = "craft_export";

/// A matrix with rows and columns exchanged.
fn transposed(raw: &Raw) -> Vec<u8> {
    let size = raw.format.bitsize() / 8;
    let [rows, columns] = raw.shape[..] else { return raw.bytes.clone() };
    let mut out = Vec::with_capacity(raw.bytes.len());
    for c in 0..columns {
        for r in 0..rows {
            let at = (r * columns + c) * size;
            out.extend_from_slice(&raw.bytes[at..at + size]);
        }
    }
    out
}

/// The shape that a tensor of the file has in diffusers.
fn shape_in_diffusers(take: Take, shape: &[usize]) -> Vec<usize> {
    let mut shape = shape.to_vec();
    match take {
        Take::Whole => {}
        Take::Square => shape.truncate(2),
        Take::Transposed => shape.reverse(),
        Take::Third(_) => {
            if let Some(first) = shape.first_mut() {
                *first /= 3;
            }
        }
    }
    shape
}

/// The values that a tensor of the file gives in diffusers.
fn bytes_in_diffusers(take: Take, raw: Raw) -> Vec<u8> {
    match take {
        Take::Whole | Take::Square => raw.bytes,
        Take::Transposed => transposed(&raw),
        Take::Third(i) => {
            let third = raw.bytes.len() / 3;
            raw.bytes[i * third..(i + 1) * third].to_vec()
        }
    }
}
