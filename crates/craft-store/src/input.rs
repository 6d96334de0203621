//! Small files of users, read whole: with a bound, and never from a pipe or device that does not end.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The bytes of a file of `most` bytes at most. Errors are texts without the path.
///
/// # Errors
/// When it cannot be read, is a folder, pipe or device, or is larger.
pub fn bounded(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let mut file = regular(path)?;
    let length = file.metadata().map_or(0, |m| m.len());
    let too_large = || {
        Err(format!("the file is larger than {} MiB, which is the most that is read", most >> 20))
    };
    if length > most {
        return too_large();
    }
    let mut bytes = Vec::with_capacity(length as usize + 1);
    let read = file.by_ref().take(most + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("the file cannot be read ({error})"))?;
    // Files of some systems say that they have no length.
    if bytes.len() as u64 > most { too_large() } else { Ok(bytes) }
}

/// Opens a file that has an end. What is opened is looked at before, since opening a pipe waits for a writer.
///
/// # Errors
/// When it cannot be opened, or is a folder, pipe or device.
pub fn regular(path: &Path) -> Result<File, String> {
    let unreadable = |error: std::io::Error| format!("the file cannot be read ({error})");
    let found = std::fs::metadata(path).map_err(unreadable)?;
    if found.is_dir() {
        return Err("it is a folder; expected a file".to_owned());
    }
    if !found.is_file() {
        return Err(
            "it is a pipe or device, and is read more than once; save its contents as a file"
                .to_owned(),
        );
    }
    File::open(path).map_err(unreadable)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_have_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(bounded(&path, 3).unwrap(), b"abc");
        assert!(bounded(&path, 2).unwrap_err().contains("larger than"));
        assert!(bounded(dir.path(), 9).unwrap_err().contains("folder"));
        assert!(bounded(&dir.path().join("b"), 9).unwrap_err().contains("cannot be read"));
        if cfg!(unix) {
            assert!(bounded(Path::new("/dev/zero"), 9).unwrap_err().contains("device"));
        }
    }
}
