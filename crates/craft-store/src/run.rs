//! The folder of a run: one recipe, one writer.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::atomic;
use crate::error::{Result, StoreError};
use crate::faults::{self, Change};
use crate::hash::sha256_bytes;
use crate::input;
use crate::own;

/// Name of the resolved recipe in a run folder.
pub const RECIPE_FILE: &str = "recipe.toml";
/// Name of the lock file in a run folder.
pub const LOCK_FILE: &str = ".lock";

/// A run folder that this process writes to. Locked until dropped.
///
/// The lock is the operating system's, on the file `.lock`, which also names the process. The
/// system gives it up when its process ends in any way, so a lock never outlives its holder: what
/// a killed run leaves behind is taken over.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    recipe_hash: String,
    _lock: Option<File>,
}

impl RunFolder {
    /// Makes a run folder for a recipe, or opens the one that was made for it.
    ///
    /// # Errors
    /// The folder holds another run, a run of another version, files but no run, or a link; another
    /// process writes to it; it cannot be written to. Nothing is changed then.
    pub fn create_or_open(path: &Path, recipe_text: &str) -> Result<Self> {
        let given = sha256_bytes(recipe_text);
        if path.exists() && !path.is_dir() {
            return Err(StoreError::bad(
                path,
                "it is a file: expected a folder, or a name that is free",
            ));
        }
        let recipe_path = path.join(RECIPE_FILE);
        if path.is_dir() {
            check_recipe(path, &recipe_path, recipe_text, &given)?;
            own::ours_below(path)?;
        } else {
            atomic::create_dir(path)?;
        }
        let lock = lock(path)?;
        // Another process may have made the run between the check and the lock.
        check_recipe(path, &recipe_path, recipe_text, &given)?;
        own::remove_leftovers_below(path)?;
        if !recipe_path.exists() {
            atomic::write(&recipe_path, recipe_text.as_bytes())?;
        }
        Ok(Self { path: path.to_owned(), recipe_hash: given, _lock: lock })
    }

    /// Opens an existing run to write to it; its recipe is [`RunFolder::recipe_text`].
    pub fn open(path: &Path) -> Result<Self> {
        let text = read_recipe(path)?;
        own::ours_below(path)?;
        let lock = lock(path)?;
        own::remove_leftovers_below(path)?;
        Ok(Self { path: path.to_owned(), recipe_hash: sha256_bytes(text), _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in the folder.
    pub fn join(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.path.join(relative)
    }

    /// SHA-256 of the recipe's text.
    pub fn recipe_hash(&self) -> &str {
        &self.recipe_hash
    }

    /// The recipe's text.
    pub fn recipe_text(&self) -> Result<String> {
        read_recipe(&self.path)
    }
}

/// The text of a run's recipe, without locking the run.
pub fn read_recipe(path: &Path) -> Result<String> {
    let recipe = path.join(RECIPE_FILE);
    if !recipe.exists() {
        return Err(StoreError::bad(
            path,
            format!(
                "it is not a run folder (it has no {RECIPE_FILE}): give the folder that `craft run` wrote"
            ),
        ));
    }
    input::read_text(&recipe, input::MAX_RECIPE)
}

/// Refuses a folder with another recipe, or with files but no recipe.
fn check_recipe(path: &Path, recipe_path: &Path, text: &str, given: &str) -> Result<()> {
    own::no_link(recipe_path)?;
    if !recipe_path.exists() {
        return check_empty(path);
    }
    let bytes = input::read(recipe_path, input::MAX_RECIPE)?;
    let existing = String::from_utf8_lossy(&bytes).into_owned();
    let hash = sha256_bytes(&existing);
    if hash == given {
        return Ok(());
    }
    Err(StoreError::OtherRun {
        path: path.to_owned(),
        existing: short(&hash),
        given: short(given),
        difference: first_difference(&existing, text),
    })
}

fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// The first line in which two recipes differ.
fn first_difference(existing: &str, given: &str) -> String {
    let mut a = existing.lines();
    let mut b = given.lines();
    for number in 1.. {
        match (a.next(), b.next()) {
            (None, None) => break,
            (x, y) if x == y => {}
            (x, y) => {
                let word = |line: Option<&str>| {
                    line.map_or("nothing".to_owned(), |l| format!("`{}`", l.trim()))
                };
                return format!(
                    " (the first difference is in line {number}: {} there, {} here)",
                    word(x),
                    word(y)
                );
            }
        }
    }
    String::new()
}

/// Refuses a folder with anything but our own hidden files.
fn check_empty(path: &Path) -> Result<()> {
    let names: Vec<String> = atomic::list(path)?
        .iter()
        .filter_map(|entry| Some(entry.file_name()?.to_string_lossy().into_owned()))
        .filter(|name| name != LOCK_FILE && !atomic::is_temporary(name))
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut holds = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 3 {
        holds += &format!(" and {} more", names.len() - 3);
    }
    Err(StoreError::NotARun { path: path.to_owned(), holds })
}

/// Longest content of a lock file: the number of a process.
const LOCK_BYTES: u64 = 20;

/// Opens the lock file, never through a link.
fn open_lock(path: &Path) -> Result<File> {
    own::no_link(path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.custom_flags(flags.bits() as i32);
    }
    let file = faults::before(Change::Create, path)
        .and_then(|()| options.open(path))
        .map_err(StoreError::io("write", path))?;
    let meta = file.metadata().map_err(StoreError::io("read", path))?;
    if !meta.is_file() || meta.len() > LOCK_BYTES {
        return Err(StoreError::bad(
            path,
            "it is not the lock file of a run, and would be overwritten: expected none, or one with the number of a process; move it away",
        ));
    }
    Ok(file)
}

/// Takes the lock; `None` on file systems that have none.
fn lock(path: &Path) -> Result<Option<File>> {
    let lock_path = path.join(LOCK_FILE);
    let error = |e| StoreError::io("write", &lock_path)(e);
    let mut file = open_lock(&lock_path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            let holder = match text.trim() {
                "" => "another process".to_owned(),
                pid => format!("process {pid}"),
            };
            return Err(StoreError::Locked { path: path.to_owned(), holder });
        }
        Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {
            tracing::warn!(
                "{}: this file system has no locks; start only one run here",
                path.display()
            );
            return Ok(None);
        }
        Err(TryLockError::Error(e)) => return Err(error(e)),
    }
    faults::before(Change::Write, &lock_path)
        .and_then(|()| file.set_len(0))
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()))
        .map_err(error)?;
    Ok(Some(file))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_same_recipe_opens_the_same_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/run");
        let run = RunFolder::create_or_open(&path, "seed = 1\n").unwrap();
        assert_eq!(run.recipe_text().unwrap(), "seed = 1\n");
        let hash = run.recipe_hash().to_owned();
        drop(run);
        fs::write(path.join(".half.1-2.tmp"), "").unwrap();
        let run = RunFolder::create_or_open(&path, "seed = 1\n").unwrap();
        assert_eq!(run.recipe_hash(), hash);
        assert!(!path.join(".half.1-2.tmp").exists());
        drop(run);
        assert_eq!(RunFolder::open(&path).unwrap().recipe_hash(), hash);
    }

    #[test]
    fn another_recipe_and_other_files_are_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        drop(RunFolder::create_or_open(&path, "seed = 1\nx = 2\n").unwrap());
        let message =
            RunFolder::create_or_open(&path, "seed = 1\nx = 3\n").unwrap_err().to_string();
        for word in [
            "holds another run",
            "line 2",
            "`x = 2`",
            "`x = 3`",
            &sha256_bytes("seed = 1\nx = 2\n")[..12],
        ] {
            assert!(message.contains(word), "{message}");
        }
        let other = dir.path().join("photos");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("cat.jpg"), "").unwrap();
        let message = RunFolder::create_or_open(&other, "").unwrap_err().to_string();
        assert!(message.contains("cat.jpg"), "{message}");
        assert_eq!(atomic::list(&other).unwrap().len(), 1);
        let file = other.join("cat.jpg");
        assert!(RunFolder::create_or_open(&file, "").is_err());
        assert!(RunFolder::open(&other).is_err());
    }

    #[test]
    fn one_writer_and_a_stale_lock_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let run = RunFolder::create_or_open(&path, "").unwrap();
        let message = RunFolder::create_or_open(&path, "").unwrap_err().to_string();
        let pid = std::process::id().to_string();
        assert!(message.contains("locked by process") && message.contains(&pid), "{message}");
        drop(run);
        // What a killed process leaves: a lock file with a number and no lock.
        fs::write(path.join(LOCK_FILE), "999999999").unwrap();
        drop(RunFolder::create_or_open(&path, "").unwrap());
        assert_eq!(fs::read_to_string(path.join(LOCK_FILE)).unwrap(), pid);
    }

    #[test]
    #[cfg(unix)]
    fn a_lock_that_is_somebody_elses_file_is_left_alone() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        drop(RunFolder::create_or_open(&path, "").unwrap());
        let (lock, canary) = (path.join(LOCK_FILE), dir.path().join("canary"));
        let text = "a file of somebody else, longer than a number";
        fs::write(&canary, text).unwrap();
        for make in [symlink::<&Path, &Path>, |from: &Path, to: &Path| fs::hard_link(from, to)] {
            fs::remove_file(&lock).unwrap();
            make(&canary, &lock).unwrap();
            for opened in [RunFolder::open(&path), RunFolder::create_or_open(&path, "")] {
                let message = opened.unwrap_err().to_string();
                assert!(message.contains(".lock: it is "), "{message}");
            }
            assert_eq!(fs::read_to_string(&canary).unwrap(), text);
        }
    }
}
