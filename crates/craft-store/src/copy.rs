//! Copies of files, with errors that say which of the two places refused.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use crate::error::{Result, StoreError};

/// Bytes that are copied at a time.
const PART: usize = 1 << 20;

/// Copies a file. The copy is not there under its name by one rename: put it into a folder that is.
///
/// # Errors
/// `read` with the source's path, or `write` with the target's, so that a full disk is called by its name.
pub fn file(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(StoreError::io("read", from))?;
    let mut target = File::create(to).map_err(StoreError::io("write", to))?;
    let mut buffer = vec![0u8; PART];
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(StoreError::io("read", from)(error)),
        };
        target.write_all(&buffer[..count]).map_err(StoreError::io("write", to))?;
    }
    target.sync_all().map_err(StoreError::io("write", to))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_place_that_refuses_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("a"), vec![7u8; PART + 5]).unwrap();
        file(&at("a"), &at("b")).unwrap();
        assert_eq!(std::fs::read(at("b")).unwrap(), std::fs::read(at("a")).unwrap());
        let message = |from: &str, to: &str| file(&at(from), &at(to)).unwrap_err().to_string();
        let missing = message("none", "c");
        assert!(missing.starts_with("cannot read") && missing.contains("none"), "{missing}");
        let refused = message("a", "no/such/folder");
        assert!(refused.starts_with("cannot write") && refused.contains("no/such"), "{refused}");
        if Path::new("/dev/full").exists() {
            let error = file(&at("a"), Path::new("/dev/full")).unwrap_err();
            let says = error.to_string();
            assert!(says.contains("/dev/full") && says.contains("free some space"), "{says}");
            assert!(!error.is_bad_input());
        }
    }
}
