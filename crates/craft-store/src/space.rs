//! Room on the disk.

use std::path::Path;

use crate::error::{Result, StoreError};
pub use crate::meter::available_memory;

/// Bytes that an ordinary user can still write on the disk of a path (of its nearest folder that
/// exists); `None` where the system does not say.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let mut here = path;
    while !here.exists() {
        here = here.parent()?;
    }
    let here = if here.as_os_str().is_empty() { Path::new(".") } else { here };
    free_bytes_at(here)
}

#[cfg(unix)]
fn free_bytes_at(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes_at(_: &Path) -> Option<u64> {
    None
}

/// Bytes of the files below a folder; 0 where there is none. Links are not followed.
pub fn used_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => used_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Refuses if fewer than `needed` bytes are free on the disk of `path`. Passes where the system
/// does not say how many are.
pub fn require_free(path: &Path, needed: u64) -> Result<()> {
    match free_bytes(path) {
        Some(free) if free < needed => {
            Err(StoreError::NoSpace { path: path.to_owned(), needed, free })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn asks_for_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not/there");
        assert!(require_free(&path, 1).is_ok());
        if cfg!(unix) {
            assert!(free_bytes(&path).unwrap() > 0);
            let message = require_free(&path, u64::MAX).unwrap_err().to_string();
            assert!(message.contains("not/there") && message.contains("MiB free"), "{message}");
        }
    }
}
