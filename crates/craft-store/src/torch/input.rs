//! The bytes of a pickle, taken from the front.

use super::pickle::Result;

/// What is left of a pickle.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let cut = "its pickle ends in the middle: the file is damaged";
        let (head, rest) =
            usize::try_from(count).ok().and_then(|n| self.0.split_at_checked(n)).ok_or(cut)?;
        self.0 = rest;
        Ok(head)
    }

    /// A little-endian number.
    pub(super) fn number(&mut self, bytes: u64) -> Result<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// Text up to the end of its line.
    pub(super) fn line(&mut self) -> Result<&'a str> {
        let end = self.0.iter().position(|b| *b == b'\n').unwrap_or(self.0.len());
        let line = self.take(end as u64)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| "its pickle holds a name that is not UTF-8".into())
    }

    pub(super) fn text(&mut self, bytes: u64) -> Result<&'a str> {
        let text = std::str::from_utf8(self.take(bytes)?);
        text.map_err(|_| "its pickle holds a text that is not UTF-8".into())
    }
}
