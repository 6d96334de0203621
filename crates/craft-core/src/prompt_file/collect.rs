//! Prompts as they are found: blank, repeated and overlong ones are told apart here, for every format.

use std::collections::BTreeSet;
use std::fmt;

use sha2::{Digest, Sha256};

use super::{Entry, MAX_CHARS, PromptFileError, PromptSet};

/// Where an entry stands: `line 7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    what: &'static str,
    number: usize,
}

impl Place {
    /// A line of a file, from 1.
    pub fn line(number: usize) -> Self {
        Self { what: "line", number }
    }

    /// An entry of a list, from 1.
    pub fn entry(number: usize) -> Self {
        Self { what: "entry", number }
    }

    /// A row of a table, from 1.
    pub fn row(number: usize) -> Self {
        Self { what: "row", number }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.number)
    }
}

/// The prompts found so far, of one file or of several.
#[derive(Debug, Default)]
pub struct Collector {
    /// What was found.
    pub set: PromptSet,
    /// Digests of the texts, which take less memory than the texts.
    seen: BTreeSet<[u8; 16]>,
}

impl Collector {
    /// Takes an entry unless it is blank or its text came before.
    ///
    /// # Errors
    /// When the text is longer than [`MAX_CHARS`].
    pub fn add(
        &mut self,
        place: Place,
        text: &str,
        category: Option<String>,
    ) -> Result<(), PromptFileError> {
        let text = text.trim();
        if text.is_empty() {
            self.set.blank += 1;
            return Ok(());
        }
        // A character has one byte at least, so short texts need no counting.
        if text.len() > MAX_CHARS {
            let chars = text.chars().count();
            if chars > MAX_CHARS {
                return Err(PromptFileError::TooLong { place, chars });
            }
        }
        let digest = Sha256::digest(text.to_lowercase());
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        if !self.seen.insert(short) {
            self.set.repeated += 1;
            return Ok(());
        }
        let category = category.map(|c| c.trim().to_owned()).filter(|c| !c.is_empty());
        self.set.entries.push(Entry { text: text.to_owned(), category });
        Ok(())
    }
}
