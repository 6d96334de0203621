//! Where a shard lies.

use std::path::{Path, PathBuf};

use crate::atomic;
use crate::error::{Result, StoreError};

/// Shards of one kind in a folder. Four kinds side by side are no more than a thousand entries, beyond
/// which many file systems get slow.
pub const PER_FOLDER: usize = 250;

/// Path of a shard below `root`: `000/shard-000012.tar`.
pub fn path(root: &Path, shard: usize, extension: &str) -> PathBuf {
    root.join(format!("{:03}", shard / PER_FOLDER)).join(format!("shard-{shard:06}.{extension}"))
}

/// The number of a shard, by its file's name.
fn number(name: &str, extension: &str) -> Option<usize> {
    let digits = name.strip_prefix("shard-")?.strip_suffix(extension)?.strip_suffix('.')?;
    let digits =
        Some(digits).filter(|text| text.len() >= 6 && text.bytes().all(|b| b.is_ascii_digit()));
    digits?.parse().ok()
}

/// Paths of all shards of a kind below `root`, by their numbers from 0. A folder that does not exist has
/// none.
///
/// # Errors
/// When a folder cannot be read, or a number is missing between others.
pub fn list(root: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !root.is_dir() {
        return Ok(Vec::new());
    }
    for folder in atomic::list(root)?.into_iter().filter(|path| path.is_dir()) {
        for path in atomic::list(&folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(number) = number(&name, extension) {
                found.push((number, path));
            }
        }
    }
    found.sort();
    for (expected, (number, found)) in found.iter().enumerate() {
        if *number != expected {
            return Err(StoreError::bad(
                &path(root, expected, extension),
                format!(
                    "this shard is missing, while {} is there: expected shards without a gap; put it back from a copy, or remove the stage's folder and run the same command as before",
                    found.display()
                ),
            ));
        }
    }
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_found_by_their_numbers_and_gaps_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(list(&root.join("no"), "tar").unwrap(), Vec::<PathBuf>::new());
        let at = |n| path(root, n, "tar");
        assert!(at(12).ends_with("000/shard-000012.tar"));
        assert!(at(1_234_567).ends_with("4938/shard-1234567.tar"));
        let all: Vec<PathBuf> = (0..2 * PER_FOLDER + 1).map(at).collect();
        for path in &all {
            atomic::create_dir(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::fs::write(root.join("000/.shard-000001.tar.partial"), "").unwrap();
        std::fs::write(root.join("000/shard-000900.jsonl"), "").unwrap();
        assert_eq!(list(root, "tar").unwrap(), all);
        std::fs::remove_file(&all[7]).unwrap();
        let message = list(root, "tar").unwrap_err().to_string();
        assert!(message.contains("shard-000007.tar: this shard is missing"), "{message}");
    }
}
