//! SHA-256 of texts, files and folders, as lower-case hexadecimal.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::atomic::{is_temporary, list};
use crate::error::{Result, StoreError};
use crate::input;

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of bytes.
pub fn sha256_bytes(bytes: impl AsRef<[u8]>) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes.as_ref());
    hex(hash)
}

/// SHA-256 of a file's content.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = input::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(StoreError::io("read", path))?;
        if n == 0 {
            return Ok(hex(hash));
        }
        hash.update(&buffer[..n]);
    }
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
    use super::*;
    use std::fs;

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
