//! What can go wrong on the disk.

use std::io;
use std::path::{Path, PathBuf};

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A failure that names its file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), io_hint(source))]
    Io {
        /// What was tried, such as `write`.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file whose content is not what it should be.
    #[error("{}: {message}", path.display())]
    BadFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong, what was expected, how to mend it.
        message: String,
    },
    /// A line of a JSON lines file.
    #[error("{}, line {line}: {message}", path.display())]
    BadLine {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The folder belongs to another run.
    #[error(
        "{} holds another run: its recipe has hash {existing}, this one {given}{difference}. Choose another folder, resume with the recipe it holds, or remove it",
        path.display()
    )]
    OtherRun {
        /// The run folder.
        path: PathBuf,
        /// Hash of the recipe there.
        existing: String,
        /// Hash of the recipe given.
        given: String,
        /// The first line that differs, in words.
        difference: String,
    },
    /// The folder is not a run.
    #[error(
        "{} is not empty and is not a run (it has no recipe.toml; it holds {holds}): choose an empty or new folder",
        path.display()
    )]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// Some of what it holds.
        holds: String,
    },
    /// The run is in another version of the format.
    #[error(
        "{}: this run was begun by {} version of craft{by}: its folder is in format {found}, this version writes format {expected}. Nothing was changed. Continue it with the version that began it, or begin anew in another folder",
        path.display(), if found < expected { "an older" } else { "a newer" }
    )]
    OtherVersion {
        /// The manifest of a stage.
        path: PathBuf,
        /// Its version of the format.
        found: u32,
        /// This version of the format.
        expected: u32,
        /// The program that wrote it, such as ` (craft 0.1.0)`; may be empty.
        by: String,
    },
    /// Another process writes to the run.
    #[error("{} is locked by {holder}: wait until it has ended, or choose another folder", path.display())]
    Locked {
        /// The run folder.
        path: PathBuf,
        /// Who holds it, such as `process 4711`.
        holder: String,
    },
    /// A repository of the hub cannot be had.
    #[error("{id}: {message}")]
    Hub {
        /// The repository.
        id: String,
        /// What is wrong, what was expected, how to mend it.
        message: String,
        /// Whether the hub did not answer at all, so that a cached copy may do.
        unreachable: bool,
    },
    /// The user wants to stop.
    #[error("interrupted")]
    Stopped,
    /// Not enough room.
    #[error(
        "not enough space on the disk of {}: {} needed, {} free; free some, or choose a folder on another disk",
        path.display(), mebibytes(*needed), mebibytes(*free)
    )]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| StoreError::Io { action, path, source }
    }

    pub(crate) fn bad(path: &Path, message: impl Into<String>) -> Self {
        StoreError::BadFile { path: path.to_owned(), message: message.into() }
    }

    /// What is wrong with a file, for an error that names its path itself.
    pub fn without_path(&self) -> String {
        match self {
            StoreError::Io { action: "read", source, .. } => {
                format!("it cannot be read: {source}{}", io_hint(source))
            }
            StoreError::Io { action, source, .. } => {
                format!("cannot {action} it: {source}{}", io_hint(source))
            }
            StoreError::BadFile { message, .. } => message.clone(),
            StoreError::BadLine { line, message, .. } => format!("line {line}: {message}"),
            other => other.to_string(),
        }
    }

    /// What the system said, where it refused something; otherwise what is wrong.
    pub fn reason(&self) -> String {
        match self {
            StoreError::Io { source, .. } => source.to_string(),
            other => other.without_path(),
        }
    }

    /// Whether the fault lies in the content of a file that was given, rather than in the system
    /// or in how the program was called.
    pub fn is_bad_input(&self) -> bool {
        match self {
            StoreError::BadFile { .. }
            | StoreError::BadLine { .. }
            | StoreError::OtherVersion { .. }
            | StoreError::Hub { .. } => true,
            StoreError::Io { action, source, .. } => {
                let given = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
                *action == "read" && given.contains(&source.kind())
            }
            _ => false,
        }
    }
}

/// How to mend the usual refusals.
fn io_hint(source: &io::Error) -> &'static str {
    const EIO: i32 = 5;
    if cfg!(unix) && source.raw_os_error() == Some(EIO) {
        return " (the disk of this path reports a fault: check it, or choose a folder on another disk)";
    }
    match source.kind() {
        io::ErrorKind::NotFound => " (check the path)",
        io::ErrorKind::PermissionDenied => {
            " (check the permissions, or choose a folder you may write to)"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            " (a folder of the path is a file; choose another path)"
        }
        io::ErrorKind::FileTooLarge => {
            " (a limit on the size of files: raise it and run the same command again: it resumes)"
        }
        io::ErrorKind::ReadOnlyFilesystem => " (choose a folder on a disk that can be written to)",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (free some space and run the same command again: it resumes)"
        }
        _ => "",
    }
}

/// Bytes as text with a unit.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1u64 << 20) as f64)
}
