//! Files and folders that appear whole or not at all.
//!
//! A file is written under a temporary name in the folder it belongs to, flushed to the device
//! (`fsync`), renamed to its own name, and then the folder is flushed too. So after a crash, a
//! kill or a power cut, the name holds either the old content or the new, both complete; the most
//! that is left over is a temporary file (`.<name>.<pid>-<n>.tmp`), which [`remove_leftovers`]
//! deletes. What is not promised: that of two files written one after the other both are new.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Result, StoreError};

/// How temporary names end.
const TEMPORARY: &str = ".tmp";
/// How the name of a folder ends that is being replaced.
const REPLACED: &str = ".replaced.tmp";

/// Distinguishes temporary names of one process; decides nothing else.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Whether a file name is one of ours for unfinished work.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(TEMPORARY)
}

/// A temporary name beside a path.
pub(crate) fn temporary(path: &Path) -> Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| StoreError::bad(path, "expected a path that ends in a name"))?;
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = format!(".{}.{}-{n}{TEMPORARY}", name.to_string_lossy(), std::process::id());
    Ok(path.with_file_name(name))
}

/// The folder of a path; `.` for a bare name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Flushes the list of names of a folder. Does nothing where the system has no such call.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir)
            .and_then(|handle| handle.sync_all())
            .map_err(StoreError::io("flush", dir))?;
    }
    Ok(())
}

/// Makes a folder and its parents, and flushes the parent's names.
pub fn create_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(StoreError::io("create the folder", dir))?;
    sync_dir(parent_of(dir))
}

/// A file that is being written. Nothing is visible under its name before [`AtomicFile::commit`];
/// dropped without it, nothing is left.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Begins a file; its folder must exist.
    pub fn create(target: &Path) -> Result<Self> {
        let temporary = temporary(target)?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(StoreError::io("write", target))?;
        Ok(Self {
            target: target.to_owned(),
            temporary,
            file: Some(BufWriter::with_capacity(1 << 20, file)),
        })
    }

    /// Appends bytes; the error names the target.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(StoreError::io("write", &self.target))
    }

    /// Flushes the content and gives it its name.
    pub fn commit(mut self) -> Result<()> {
        let error = |path: &Path| StoreError::io("write", path);
        if let Some(buffer) = self.file.take() {
            let file = buffer.into_inner().map_err(|e| error(&self.target)(e.into_error()))?;
            file.sync_all().map_err(error(&self.target))?;
        }
        fs::rename(&self.temporary, &self.target).map_err(error(&self.target))?;
        sync_dir(parent_of(&self.target))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => Err(io::Error::other("the file is finished")),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        self.file = None;
        // After a commit the name is gone and this does nothing.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Writes a whole file atomically. Its folder must exist.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.put(bytes)?;
    file.commit()
}

/// Writes a folder atomically: `fill` puts everything into a temporary folder beside it, which is
/// flushed and renamed when `fill` returns, and removed when it fails.
///
/// A folder that exists under the name is replaced: it is moved aside first, so there is a moment
/// without either; a crash in that moment is mended by [`remove_leftovers`], which moves it back.
pub fn write_dir_atomically<T, E: From<StoreError>>(
    target: &Path,
    fill: impl FnOnce(&Path) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let temporary = temporary(target)?;
    fs::create_dir(&temporary).map_err(StoreError::io("create the folder", &temporary))?;
    let guard = RemoveOnDrop(&temporary);
    let value = fill(&temporary)?;
    sync_tree(&temporary)?;
    let aside = replaced_name(target)?;
    if target.exists() {
        if aside.exists() {
            fs::remove_dir_all(&aside).map_err(StoreError::io("remove", &aside))?;
        }
        fs::rename(target, &aside).map_err(StoreError::io("replace", target))?;
    }
    fs::rename(&temporary, target).map_err(StoreError::io("write", target))?;
    std::mem::forget(guard);
    sync_dir(parent_of(target))?;
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(StoreError::io("remove", &aside))?;
    }
    Ok(value)
}

fn replaced_name(target: &Path) -> Result<PathBuf> {
    let name = target
        .file_name()
        .ok_or_else(|| StoreError::bad(target, "expected a path that ends in a name"))?;
    Ok(target.with_file_name(format!(".{}{REPLACED}", name.to_string_lossy())))
}

struct RemoveOnDrop<'a>(&'a Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0);
    }
}

/// Flushes every file and folder of a tree.
pub(crate) fn sync_tree(dir: &Path) -> Result<()> {
    for entry in list(dir)? {
        if entry.is_dir() {
            sync_tree(&entry)?;
        } else {
            sync_file(&entry)?;
        }
    }
    sync_dir(dir)
}

/// Flushes one file that was written before.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(path).and_then(|file| file.sync_all()).map_err(StoreError::io("flush", path))?;
    }
    Ok(())
}

/// The entries of a folder in the order of their names.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(dir)
        .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>())
        .map_err(StoreError::io("read", dir))?;
    paths.sort();
    Ok(paths)
}

/// Removes what interrupted writes left in a folder, and gives a folder its name back that was
/// being replaced when the process ended. Only for folders that no other process writes to.
pub fn remove_leftovers(dir: &Path) -> Result<()> {
    for path in list(dir)? {
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        if !is_temporary(name) {
            continue;
        }
        if let Some(target) = name.strip_suffix(REPLACED).and_then(|n| n.strip_prefix('.')) {
            let target = dir.join(target);
            if !target.exists() {
                fs::rename(&path, &target).map_err(StoreError::io("restore", &target))?;
                continue;
            }
        }
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(StoreError::io("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        list(dir)
            .unwrap()
            .iter()
            .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.put(b"new, unfinished").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(file);
        assert_eq!(names(dir.path()), ["a.txt"]);
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    #[test]
    fn errors_name_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("no/such/a.txt");
        let message = write(&path, b"").unwrap_err().to_string();
        assert!(message.contains("no/such/a.txt"), "{message}");
        let message = write(Path::new("/"), b"").unwrap_err().to_string();
        assert!(message.contains('/'), "{message}");
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("step-10");
        let fill = |text: &'static str| {
            move |d: &Path| -> Result<()> {
                create_dir(&d.join("unet"))?;
                write(&d.join("unet/w"), text.as_bytes())
            }
        };
        let fail = write_dir_atomically(&target, |d| -> Result<()> {
            fill("half")(d)?;
            Err(StoreError::bad(d, "stopped"))
        });
        assert!(fail.is_err());
        assert!(names(dir.path()).is_empty());
        write_dir_atomically(&target, fill("one")).unwrap();
        write_dir_atomically(&target, fill("two")).unwrap();
        assert_eq!(names(dir.path()), ["step-10"]);
        assert_eq!(fs::read(target.join("unet/w")).unwrap(), b"two");
    }

    #[test]
    fn leftovers_are_removed_and_a_replaced_folder_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at(".a.txt.1-0.tmp"), "half").unwrap();
        fs::create_dir(at(".step-1.1-1.tmp")).unwrap();
        fs::create_dir(at(".step-1.replaced.tmp")).unwrap();
        fs::write(at("kept"), "").unwrap();
        remove_leftovers(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["kept", "step-1"]);
        fs::create_dir(at(".step-1.replaced.tmp")).unwrap();
        remove_leftovers(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["kept", "step-1"]);
    }
}
