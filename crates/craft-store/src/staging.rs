//! A place beside a target where something large is made and looked at before it gets its name.
//!
//! What is made lies in a folder `.<name>.<pid>-<n>.tmp` beside the target. It is locked as long as the process
//! lives, so that the next one with the same target can tell what a killed one left and remove it.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::atomic::{list, parent_of, sync_dir, sync_file, sync_tree, temporary};
use crate::error::{Result, StoreError};

/// The file that is locked.
const LOCK: &str = ".lock";

/// An unfinished target; removed when dropped.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    folder: PathBuf,
    _lock: File,
}

impl Staging {
    /// Makes the place for a target, whose folder must exist, and removes what killed processes left of the
    /// same target.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn begin(target: &Path) -> Result<Self> {
        remove_dead(target)?;
        let folder = temporary(target)?;
        fs::create_dir(&folder).map_err(StoreError::io("create the folder", &folder))?;
        let lock = folder.join(LOCK);
        let failed = || StoreError::io("lock", &lock);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock);
        let file = file.map_err(failed())?;
        // A disk without locks only makes leftovers harder to tell.
        let _ = file.try_lock();
        Ok(Self { target: target.to_owned(), folder, _lock: file })
    }

    /// Where the target is made, under its own name.
    pub fn path(&self) -> PathBuf {
        self.folder.join(self.target.file_name().unwrap_or_default())
    }

    /// A place for something that is only needed meanwhile.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(format!(".{name}"))
    }

    /// Gives what was made its name. Returns `false`, and leaves both as they are, where the name is taken by
    /// something else; the same content is as good.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn commit(self) -> Result<bool> {
        let made = self.path();
        if self.target.exists() {
            return same(&made, &self.target);
        }
        if made.is_dir() {
            sync_tree(&made)?;
        } else {
            sync_file(&made)?;
            // A link is refused where a file of that name came up meanwhile; a renaming would replace it.
            if fs::hard_link(&made, &self.target).is_ok() {
                sync_dir(parent_of(&self.target))?;
                return Ok(true);
            }
            if self.target.exists() {
                return same(&made, &self.target);
            }
        }
        fs::rename(&made, &self.target).map_err(StoreError::io("write", &self.target))?;
        sync_dir(parent_of(&self.target))?;
        Ok(true)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Whether two files, or two folders, have the same content.
fn same(a: &Path, b: &Path) -> Result<bool> {
    if a.is_dir() != b.is_dir() {
        return Ok(false);
    }
    if !a.is_dir() {
        let length = |path: &Path| fs::metadata(path).map(|m| m.len());
        let equal = length(a).map_err(StoreError::io("read", a))?
            == length(b).map_err(StoreError::io("read", b))?;
        return Ok(equal && crate::hash::sha256_file(a)? == crate::hash::sha256_file(b)?);
    }
    let names = |dir: &Path| -> Result<Vec<_>> {
        Ok(list(dir)?.iter().filter_map(|p| Some(p.file_name()?.to_owned())).collect())
    };
    let found = names(a)?;
    if found != names(b)? {
        return Ok(false);
    }
    for name in found {
        if !same(&a.join(&name), &b.join(&name))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a process that ended left something of a target: it was killed before it was done, or just when it was.
///
/// # Errors
/// When the target's folder cannot be read.
pub fn was_interrupted(target: &Path) -> Result<bool> {
    Ok(parent_of(target).is_dir() && !dead(target)?.is_empty())
}

/// Removes what processes that ended left of a target.
fn remove_dead(target: &Path) -> Result<()> {
    for path in dead(target)? {
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(StoreError::io("remove", &path))?;
    }
    Ok(())
}

/// What processes that ended left of a target.
fn dead(target: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Of earlier versions: a model folder in the making, under a name of its own.
    let merging = target.with_extension("merging");
    let merging_name = merging.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for path in list(parent_of(target))? {
        let found = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let owner = owner(&found, &name).or_else(|| owner(&found, &merging_name));
        let dead = match owner {
            Some(pid) => !locked(&path) && !alive(pid),
            None => path == merging && path.join("model_index.json").is_file(),
        };
        if dead {
            all.push(path);
        }
    }
    Ok(all)
}

/// The process of a temporary name `.<name>.<pid>-<n>.tmp` of a target.
fn owner(found: &str, name: &str) -> Option<u32> {
    let rest = found.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.')?;
    let (pid, n) = rest.strip_suffix(".tmp")?.split_once('-')?;
    n.parse::<u64>().ok()?;
    pid.parse().ok()
}

/// Whether a living process holds the lock of a folder.
fn locked(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)) {
        Ok(file) => matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// Whether another process of that number may be at work on a place without a lock. A number that is used
/// again keeps a leftover a while longer, no more.
fn alive(pid: u32) -> bool {
    pid != std::process::id()
        && (!cfg!(target_os = "linux") || Path::new(&format!("/proc/{pid}")).exists())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let name = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().into_owned();
        list(dir).unwrap().iter().map(name).collect()
    }

    #[test]
    fn a_target_appears_whole_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("m.safetensors");
        let staging = Staging::begin(&target).unwrap();
        fs::write(staging.path(), "one").unwrap();
        fs::create_dir(staging.beside("merged")).unwrap();
        assert!(!target.exists());
        assert!(staging.commit().unwrap());
        assert_eq!(names(dir.path()), ["m.safetensors"]);
        // The same again is as good, another is not.
        for (text, good) in [("one", true), ("two", false)] {
            let staging = Staging::begin(&target).unwrap();
            fs::write(staging.path(), text).unwrap();
            assert_eq!(staging.commit().unwrap(), good);
            assert_eq!(names(dir.path()), ["m.safetensors"]);
            assert_eq!(fs::read_to_string(&target).unwrap(), "one");
        }
    }

    #[test]
    fn folders_are_compared_file_by_file() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("m");
        for (text, good) in [("one", true), ("one", true), ("two", false)] {
            let staging = Staging::begin(&target).unwrap();
            fs::create_dir_all(staging.path().join("unet")).unwrap();
            fs::write(staging.path().join("unet/w"), text).unwrap();
            assert_eq!(staging.commit().unwrap(), good);
            assert_eq!(names(dir.path()), ["m"]);
        }
    }

    #[test]
    fn what_killed_processes_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // No process has this number: Linux ends below 2²².
        for left in [".m.st.4194999-0.tmp", ".m.merging.4194999-1.tmp", "m.merging", "n.merging"] {
            fs::create_dir(at(left)).unwrap();
        }
        fs::write(at("m.merging/model_index.json"), "{}").unwrap();
        fs::write(at(".m.st.4194999-3.tmp"), "a file").unwrap();
        for kept in [".m.st.x.tmp", ".other.4194999-0.tmp", "m", "k.merging"] {
            fs::write(at(kept), "kept").unwrap();
        }
        assert!(was_interrupted(&at("m.st")).unwrap() && !was_interrupted(&at("k")).unwrap());
        let living = Staging::begin(&at("m.st")).unwrap();
        let other = Staging::begin(&at("m.st")).unwrap();
        assert!(living.folder.is_dir(), "a living process keeps its place");
        assert!(!was_interrupted(&at("m.st")).unwrap());
        drop((living, other));
        assert_eq!(
            names(dir.path()),
            [".m.st.x.tmp", ".other.4194999-0.tmp", "k.merging", "m", "n.merging"]
        );
    }
}
