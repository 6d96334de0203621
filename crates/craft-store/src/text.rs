//! Texts: those that are published compressed, and those that are too long for a message.

use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{Result, StoreError};
use crate::input;

/// A text of another's as a message quotes it: its beginning, where it is long.
pub fn shorten(text: &str) -> String {
    const SHOWN: usize = 160;
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
    }
}

/// Reads a gzip file of UTF-8 text that unpacks to `most` bytes at most.
///
/// # Errors
/// When it cannot be read, is damaged, is larger, or is not UTF-8.
pub fn read_gzip(path: &Path, most: u64) -> Result<String> {
    let file = input::open(path)?;
    gunzip(file, most).map_err(|message| StoreError::bad(path, message))
}

/// Unpacks gzip of UTF-8 text, `most` bytes at most; errors are texts without a path.
///
/// # Errors
/// When it is damaged, larger, or not UTF-8.
pub fn gunzip(packed: impl Read, most: u64) -> std::result::Result<String, String> {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(packed)
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("it is not a whole gzip file ({error}): download it again"))?;
    if bytes.len() as u64 > most {
        return Err(format!("it unpacks to more than {most} bytes: expected a file of texts"));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text: download it again".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn gzip_is_read_with_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt.gz");
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all("é".repeat(500).as_bytes()).unwrap();
        let packed = packer.finish().unwrap();
        std::fs::write(&path, &packed).unwrap();
        assert_eq!(read_gzip(&path, 1000).unwrap(), "é".repeat(500));
        assert!(read_gzip(&path, 999).unwrap_err().to_string().contains("more than 999"));
        std::fs::write(&path, &packed[..packed.len() - 3]).unwrap();
        assert!(read_gzip(&path, 1000).unwrap_err().to_string().contains("whole gzip"));
        std::fs::write(&path, "plain").unwrap();
        assert!(read_gzip(&path, 1000).unwrap_err().is_bad_input());
    }
}
