//! Files and folders that appear whole or not at all.
//!
//! A file is written under a temporary name in the folder it belongs to, flushed to the device
//! (`fsync`), renamed to its own name, and then the folder is flushed too. So after a crash, a
//! kill or a power cut, the name holds either the old content or the new, both complete; the most
//! that is left over is a temporary file (`.<name>.<pid>-<n>.tmp`), which [`remove_leftovers`]
//! deletes. What is not promised: that of two files written one after the other both are new.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Result, StoreError};
use crate::faults::{self, Change};
use crate::input;

/// How temporary names end.
const TEMPORARY: &str = ".tmp";
/// How the name of a folder ends that is being replaced.
const REPLACED: &str = ".replaced.tmp";

/// Distinguishes temporary names of one process; decides nothing else.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Whether a file name is one of ours for unfinished work.
pub(crate) fn is_temporary(name: &str) -> bool {
    let Some(name) = name.strip_prefix('.') else { return false };
    if name.ends_with(REPLACED) {
        return true;
    }
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let marks = name.strip_suffix(TEMPORARY).and_then(|name| name.rsplit_once('.'));
    let numbers = marks.and_then(|(_, marks)| marks.split_once('-'));
    numbers.is_some_and(|(process, n)| number(process) && number(n))
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
    sync_file(dir)
}

/// Makes a folder and its parents, and flushes the names of each one's parent.
pub fn create_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = parent_of(dir);
    if parent != dir && !parent.exists() {
        create_dir(parent)?;
    }
    let made = faults::before(Change::Folder, dir).and_then(|()| fs::create_dir(dir));
    match made {
        // Another process may have been faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        other => other.map_err(StoreError::io("create the folder", dir))?,
    }
    sync_dir(parent)
}

/// Gives a file or folder another name; errors name the latter.
pub fn rename(from: &Path, to: &Path, action: &'static str) -> Result<()> {
    faults::before(Change::Rename, to)
        .and_then(|()| fs::rename(from, to))
        .map_err(StoreError::io(action, to))
}

/// Removes a file. There need not be one.
pub fn remove_file(path: &Path) -> Result<()> {
    match faults::before(Change::Remove, path).and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(StoreError::io("remove", path)),
    }
}

/// Removes a file, a link (not what it leads to), or a folder with all that is in it.
pub fn remove_tree(path: &Path) -> Result<()> {
    if !fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        return remove_file(path);
    }
    for entry in list(path)? {
        remove_tree(&entry)?;
    }
    faults::before(Change::Remove, path)
        .and_then(|()| fs::remove_dir(path))
        .map_err(StoreError::io("remove", path))
}

/// Removes a folder so that no part of it is ever left under its name: it gets a temporary one first.
pub fn remove_dir(dir: &Path) -> Result<()> {
    let gone = temporary(dir)?;
    faults::before(Change::Rename, dir)
        .and_then(|()| fs::rename(dir, &gone))
        .map_err(StoreError::io("remove", dir))?;
    remove_tree(&gone)
}

/// Copies a file atomically. Errors name the side that failed.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = input::open(from)?;
    let mut file = AtomicFile::create(to)?;
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match source.read(&mut buffer).map_err(StoreError::io("read", from))? {
            0 => return file.commit(),
            n => file.put(&buffer[..n])?,
        }
    }
}

/// Puts a file under a second name: as a hard link, or as a copy where there can be none. Nothing must be
/// there.
pub fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    let linked = faults::before(Change::Create, to).and_then(|()| fs::hard_link(from, to));
    if linked.is_ok() { Ok(()) } else { copy(from, to) }
}

/// Writes a file that is needed for a moment only: neither flushed nor atomic.
pub fn write_scratch(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(StoreError::io("write", path))
}

/// A file that is being written. Nothing is visible under its name before [`AtomicFile::commit`];
/// dropped without it, nothing is left.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<Raw>>,
}

/// An open file, and the name that its errors are told under.
#[derive(Debug)]
struct Raw {
    file: File,
    target: PathBuf,
}

impl Write for Raw {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        faults::write(&self.file, bytes, &self.target)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AtomicFile {
    /// Begins a file; its folder must exist.
    pub fn create(target: &Path) -> Result<Self> {
        let temporary = temporary(target)?;
        let file = faults::before(Change::Create, target)
            .and_then(|()| OpenOptions::new().write(true).create_new(true).open(&temporary))
            .map_err(StoreError::io("write", target))?;
        let raw = Raw { file, target: target.to_owned() };
        let file = Some(BufWriter::with_capacity(1 << 20, raw));
        Ok(Self { target: target.to_owned(), temporary, file })
    }

    /// Appends bytes; the error names the target.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(StoreError::io("write", &self.target))
    }

    /// Flushes the content and gives it its name.
    pub fn commit(mut self) -> Result<()> {
        let error = |path: &Path| StoreError::io("write", path);
        if let Some(buffer) = self.file.take() {
            let raw = buffer.into_inner().map_err(|e| error(&self.target)(e.into_error()))?;
            faults::before(Change::Flush, &self.target)
                .and_then(|()| raw.file.sync_all())
                .map_err(error(&self.target))?;
        }
        rename(&self.temporary, &self.target, "write")?;
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
        // Without flushing: what is not committed is thrown away.
        if let Some(buffer) = self.file.take() {
            let _ = buffer.into_parts();
        }
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
    faults::before(Change::Folder, target)
        .and_then(|()| fs::create_dir(&temporary))
        .map_err(StoreError::io("write", target))?;
    let guard = RemoveOnDrop(&temporary);
    let value = fill(&temporary)?;
    sync_tree(&temporary)?;
    let aside = replaced_name(target)?;
    if target.exists() {
        if aside.exists() {
            remove_tree(&aside)?;
        }
        rename(target, &aside, "replace")?;
    }
    if let Err(error) = rename(&temporary, target, "write") {
        // The old one gets its name back at once, not only at the next start.
        if aside.exists() && !target.exists() {
            let _ = fs::rename(&aside, target);
        }
        return Err(error.into());
    }
    std::mem::forget(guard);
    sync_dir(parent_of(target))?;
    if aside.exists() {
        remove_tree(&aside)?;
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
        faults::before(Change::Flush, path)
            .and_then(|()| File::open(path)?.sync_all())
            .map_err(StoreError::io("flush", path))?;
    }
    Ok(())
}

/// Flushes all that was written to the disk of a folder: one call in the place of one a file. Returns
/// `false`, having done nothing, where the system has no such call.
pub(crate) fn sync_disk(dir: &Path) -> Result<bool> {
    #[cfg(target_os = "linux")]
    {
        faults::before(Change::Flush, dir)
            .and_then(|()| Ok(rustix::fs::syncfs(File::open(dir)?)?))
            .map_err(StoreError::io("flush", dir))?;
        Ok(true)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = dir;
        Ok(false)
    }
}

/// The entries of a folder in the order of their names.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(dir)
        .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>())
        .map_err(StoreError::io("read", dir))?;
    // By bytes: all have one parent, and comparing paths part by part takes ten times as long.
    paths.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    Ok(paths)
}

/// Removes what interrupted writes left in a folder, and gives a folder its name back that was
/// being replaced when the process ended. Only for folders that no other process writes to.
pub fn remove_leftovers(dir: &Path) -> Result<()> {
    let failed = || StoreError::io("read", dir);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        names.extend(name.to_str().filter(|name| is_temporary(name)).map(str::to_owned));
    }
    names.sort_unstable();
    for name in names {
        let path = dir.join(&name);
        if let Some(target) = name.strip_suffix(REPLACED).and_then(|n| n.strip_prefix('.')) {
            let target = dir.join(target);
            if !target.exists() {
                rename(&path, &target, "restore")?;
                continue;
            }
        }
        remove_tree(&path)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
