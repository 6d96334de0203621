//! What can be wrong with the files of a tokenizer.

use thiserror::Error;

/// Why a tokenizer cannot be built.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// A file that is not what it should be.
    #[error("{file}: {problem}; expected {expected}: take all tokenizer files from one model")]
    File {
        /// The file.
        file: &'static str,
        /// What is wrong.
        problem: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A special token without an id.
    #[error(
        "the {role} token `{token}` is not in vocab.json; expected it there: take all tokenizer files from one model"
    )]
    Special {
        /// What the token is for.
        role: &'static str,
        /// The token.
        token: String,
    },
    /// An added token with an id that it cannot have.
    #[error(
        "the tokenizer adds the token `{token}` with id {found}, but the next free id is {expected}; expected added tokens to follow the vocabulary without gaps: save the tokenizer again with transformers, or use the model's original one"
    )]
    Added {
        /// The token.
        token: String,
        /// Its id in the files.
        found: u32,
        /// The id that follows the others.
        expected: u32,
    },
    /// Too short to hold anything.
    #[error("model_max_length is {0}; expected at least 3, to hold begin, a word and end")]
    Length(usize),
    /// Longer than the text encoder can read.
    #[error(
        "model_max_length is {found}, but the text encoder reads {expected} tokens (max_position_embeddings); expected {expected} at most: take tokenizer and text encoder from one model"
    )]
    TooLong {
        /// The tokenizer's length.
        found: usize,
        /// The text encoder's.
        expected: usize,
    },
    /// A token that the text encoder has no vector for.
    #[error(
        "the token `{token}` has id {id}, but the text encoder's embedding has {rows} rows; expected ids below {rows}: take tokenizer and text encoder from one model (after textual inversion, save both)"
    )]
    NoRow {
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the embedding.
        rows: usize,
    },
    /// The library refused the parts.
    #[error("the tokenizer cannot be built from vocab.json and merges.txt, or tokenizer.json: {0}")]
    Library(String),
}
