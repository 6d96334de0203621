//! One process at a time in a folder that several share.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::error::{Result, StoreError};

/// Held until dropped, or until the process ends.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock `.lock` of a folder that exists. If another process holds it, calls `waits` once
    /// and waits.
    ///
    /// # Errors
    /// When the lock file cannot be made or the disk knows no locks.
    pub fn acquire(dir: &Path, waits: &mut dyn FnMut()) -> Result<Self> {
        let path = dir.join(".lock");
        let failed = || StoreError::io("lock", &path);
        let file = open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waits();
                file.lock().map_err(failed())?;
            }
            Err(TryLockError::Error(error)) => return Err(failed()(error)),
        }
        Ok(Self { _file: file })
    }

    /// The same with a file of any name; `waits` is called several times a second, until it says that
    /// the user wants to stop.
    ///
    /// # Errors
    /// The same, and when the user wants to stop.
    #[cfg(feature = "hub")]
    pub(crate) fn at(path: &Path, waits: &mut dyn FnMut() -> bool) -> Result<Self> {
        let file = open(path)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if waits() => return Err(StoreError::Stopped),
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", path)(error)),
            }
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    options.open(path).map_err(StoreError::io("lock", path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _lock = FolderLock::acquire(dir.path(), &mut || ()).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        let held = FolderLock::acquire(dir.path(), &mut || ()).unwrap();
        let mut waited = false;
        std::thread::scope(|scope| {
            let other =
                scope.spawn(|| FolderLock::acquire(dir.path(), &mut || waited = true).is_ok());
            std::thread::sleep(std::time::Duration::from_millis(30));
            drop(held);
            assert!(other.join().unwrap());
        });
        assert!(waited);
    }
}
