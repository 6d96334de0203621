//! Files that somebody gave us to read: ordinary ones only, and no more of them than makes sense.
//!
//! A device such as `/dev/zero` never ends, a named pipe waits for its other side, and a folder or a
//! socket has no bytes. They are refused by name, before anything is read.

use std::fs::{File, FileType, OpenOptions};
use std::io::Read;
use std::path::Path;

use crate::error::{Result, StoreError, mebibytes};

/// Longest recipe.
pub const MAX_RECIPE: u64 = 16 << 20;
/// Longest list of prompts, config or vocabulary.
pub const MAX_TEXT: u64 = 256 << 20;

/// Opens an ordinary file for reading. A link to one is followed.
///
/// # Errors
/// When it is something else, or cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A named pipe is opened without waiting for its other side.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) => {
            // Sockets cannot be opened at all: say what it is, not only that it failed.
            return Err(match std::fs::metadata(path).map(|meta| refused(meta.file_type())) {
                Ok(Some(kind)) => special(path, kind),
                _ => StoreError::io("read", path)(error),
            });
        }
    };
    let kind = file.metadata().map_err(StoreError::io("read", path))?.file_type();
    match refused(kind) {
        Some(kind) => Err(special(path, kind)),
        None => Ok(file),
    }
}

/// Reads an ordinary file of `most` bytes at most.
///
/// # Errors
/// When it is no ordinary file, has more bytes, or cannot be read.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata().map_err(StoreError::io("read", path))?.len();
    // Some files of the system (`/proc`) say that they are empty, so what is read is counted, too.
    let mut bytes = Vec::new();
    if length <= most {
        bytes.reserve_exact(length as usize);
        let read = file.take(most + 1).read_to_end(&mut bytes);
        read.map_err(StoreError::io("read", path))?;
    }
    match length.max(bytes.len() as u64) {
        length if length > most => Err(StoreError::bad(
            path,
            format!(
                "it has more than {}: expected a smaller file; is it the one that you mean?",
                mebibytes(most)
            ),
        )),
        _ => Ok(bytes),
    }
}

/// The same as text.
///
/// # Errors
/// Also when it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read(path, most)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        StoreError::bad(path, format!("it is not UTF-8 (byte {at}): save it as UTF-8"))
    })
}

/// The same; `None` if there is no such file.
///
/// # Errors
/// Those of [`read_text`] but for that.
pub fn read_text_if_there(path: &Path, most: u64) -> Result<Option<String>> {
    match read_text(path, most) {
        Ok(text) => Ok(Some(text)),
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Length of a file in bytes; 0 if there is none.
pub fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

fn special(path: &Path, kind: &str) -> StoreError {
    StoreError::bad(
        path,
        format!("it is {kind}: expected an ordinary file; give its path, or save the bytes to one"),
    )
}

/// What is no ordinary file.
fn refused(kind: FileType) -> Option<&'static str> {
    if kind.is_dir() {
        return Some("a folder");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return Some("a named pipe");
        }
        if kind.is_socket() {
            return Some("a socket");
        }
        if kind.is_char_device() || kind.is_block_device() {
            return Some("a device");
        }
    }
    (!kind.is_file()).then_some("no file")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_ordinary_files_of_a_bounded_length_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"abc");
        assert!(read(&path, 2).unwrap_err().to_string().contains("a.txt: it has more than"));
        std::fs::write(&path, [b'a', 0xff]).unwrap();
        assert!(read_text(&path, 9).unwrap_err().to_string().contains("UTF-8 (byte 1)"));
        let message = read(dir.path(), 9).unwrap_err().to_string();
        assert!(message.contains("it is a folder: expected an ordinary file"), "{message}");
        assert!(read(&dir.path().join("no"), 9).unwrap_err().is_bad_input());
    }

    #[test]
    #[cfg(unix)]
    fn devices_pipes_and_sockets_are_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let zero = std::path::PathBuf::from("/dev/zero");
        for (path, kind) in [(&pipe, "a named pipe"), (&socket, "a socket"), (&zero, "a device")] {
            let error = read(path, 1 << 20).unwrap_err();
            assert!(error.is_bad_input());
            assert!(error.to_string().contains(&format!("it is {kind}")), "{error}");
        }
    }
}
