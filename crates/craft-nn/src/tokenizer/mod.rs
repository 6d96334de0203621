//! Text to ids: CLIP's byte-level BPE with an end-of-word mark
//! (`transformers/models/clip/tokenization_clip.py`, `open_clip/tokenizer.py`) and BERT's
//! WordPiece.

mod added;
mod bert;
mod clean;
mod clip;
mod entities;
mod error;
mod files;
mod train;

pub use bert::BertTokenizer;
pub use clean::clean;
pub use clip::{ClipTokenizer, Encoded};
pub use error::TokenizerError;
pub use files::TokenizerTexts;
pub use train::{TokenizerFiles, train};
