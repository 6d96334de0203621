//! The tokenizer of CLIP: byte-level BPE with an end-of-word mark
//! (`transformers/models/clip/tokenization_clip.py`).

mod clip;
mod train;

pub use clip::{ClipTokenizer, Encoded, TokenizerError};
pub use train::{TokenizerFiles, train};
