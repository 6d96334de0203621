//! SHA-256 of texts, files and folders, as lower-case hexadecimal.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::atomic::{is_temporary, list};
use crate::error::{Result, StoreError};
use crate::input;

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of bytes.
pub fn sha256_bytes(bytes: impl AsRef<[u8]>) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes.as_ref());
    hex(&hash.finalize())
}

/// SHA-256 of a file's content.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = input::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(StoreError::io("read", path))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// Files up to this length are read as a whole by [`sha256_samples`].
const WHOLE: u64 = 64 << 20;
/// Bytes of the head and of the tail of a longer one.
const ENDS: u64 = 4 << 20;
/// Pieces between them, and their bytes.
const PIECES: (u64, u64) = (2048, 4096);

/// SHA-256 of samples of a file's content, which tell files of one length apart without reading
/// gigabytes: head, tail, and pieces in equal distances between them. Shorter files are read whole.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256_samples(path: &Path) -> Result<String> {
    let length = path.metadata().map_err(StoreError::io("read", path))?.len();
    if length <= WHOLE {
        return sha256_file(path);
    }
    let mut file = input::open(path)?;
    let mut hash = Sha256::new();
    let mut piece = |from: u64, bytes: u64| -> std::io::Result<()> {
        file.seek(SeekFrom::Start(from))?;
        let mut buffer = Vec::new();
        (&mut file).take(bytes).read_to_end(&mut buffer)?;
        hash.update(&buffer);
        Ok(())
    };
    let between = length - 2 * ENDS - PIECES.1;
    let starts = (0..PIECES.0).map(|i| (ENDS + between / (PIECES.0 - 1) * i, PIECES.1));
    for (from, bytes) in [(0, ENDS), (length - ENDS, ENDS)].into_iter().chain(starts) {
        piece(from, bytes).map_err(StoreError::io("read", path))?;
    }
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of a folder: of the lines `<sha256 of the file>  <path relative to it, with />`, sorted
/// by path (what `sha256sum` prints). Hidden files (`.git`, `.cache`, temporary files) do not
/// count, so a folder and its copy agree.
pub fn sha256_dir(dir: &Path) -> Result<String> {
    let mut lines: Vec<(String, String)> = files_below(dir)?
        .into_iter()
        .map(|name| Ok((sha256_file(&dir.join(&name))?, name)))
        .collect::<Result<_>>()?;
    lines.sort_by(|a, b| a.1.cmp(&b.1));
    let text: String = lines.iter().map(|(hash, name)| format!("{hash}  {name}\n")).collect();
    Ok(sha256_bytes(text))
}

/// Relative paths, with `/`, of all files below a folder that are not hidden, sorted.
pub(crate) fn files_below(dir: &Path) -> Result<Vec<String>> {
    fn walk(dir: &Path, prefix: &str, found: &mut Vec<String>) -> Result<()> {
        for path in list(dir)? {
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
                return Err(StoreError::bad(&path, "its name is not UTF-8: rename it"));
            };
            if name.starts_with('.') || is_temporary(name) {
                continue;
            }
            if path.is_dir() {
                walk(&path, &format!("{prefix}{name}/"), found)?;
            } else {
                found.push(format!("{prefix}{name}"));
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(dir, "", &mut found)?;
    found.sort();
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;

    use super::*;
    use std::fs;

    #[test]
    fn samples_tell_files_of_one_length_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let length = WHOLE + 12_345;
        let file = File::create(&path).unwrap();
        file.set_len(length).unwrap();
        let hash = || sha256_samples(&path).unwrap();
        let zeros = hash();
        assert_eq!(zeros, hash());
        let change = |at: u64, bytes: &[u8]| {
            use std::io::Write;
            let mut file = File::options().write(true).open(&path).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(bytes).unwrap();
        };
        // One byte of the head or the tail, or a run of bytes in between.
        for (at, n) in [(0, 1), (ENDS - 1, 1), (length - 1, 1), (length / 2, 64 << 10)] {
            change(at, &vec![1; n]);
            assert_ne!(hash(), zeros, "{at}");
            change(at, &vec![0; n]);
            assert_eq!(hash(), zeros, "{at}");
        }
        file.set_len(1000).unwrap();
        assert_eq!(hash(), sha256_file(&path).unwrap(), "short files are read whole");
    }

    #[test]
    fn known_digests() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_bytes("abc"), abc);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "abc").unwrap();
        assert_eq!(sha256_file(&path).unwrap(), abc);
        let before = sha256_dir(dir.path()).unwrap();
        assert_eq!(before, sha256_bytes(format!("{abc}  a\n")));
        fs::write(dir.path().join(".hidden"), "x").unwrap();
        assert_eq!(sha256_dir(dir.path()).unwrap(), before);
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(dir.path().join("b/c"), "x").unwrap();
        assert_ne!(sha256_dir(dir.path()).unwrap(), before);
        assert!(sha256_file(&dir.path().join("no")).unwrap_err().is_bad_input());
    }
}
