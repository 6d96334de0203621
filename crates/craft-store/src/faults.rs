//! A disk that fails on request, for tests of the whole program: every change that this crate makes to
//! the disk asks here first.
//!
//! The variable `CRAFT_TEST_DISK` says what happens. `kill@N` ends the process at the N-th change (a
//! write is left half done), `eio@N` refuses that one change, `enospc@N` and `erofs@N` refuse whatever
//! takes room, or everything, from then on, and `log=FILE` writes a line for each change. Without the
//! variable nothing happens. docs/reliability.md tells how the tests use it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable.
const VARIABLE: &str = "CRAFT_TEST_DISK";

static CHANGES: AtomicU64 = AtomicU64::new(0);
static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A file that is made or opened for writing.
    Create,
    /// Bytes that are written.
    Write,
    /// A flush to the device.
    Flush,
    /// A new name.
    Rename,
    /// A file or folder that is removed.
    Remove,
    /// A folder that is made.
    Folder,
}

impl Change {
    /// Whether a full disk can refuse it.
    fn takes_room(self) -> bool {
        !matches!(self, Self::Rename | Self::Remove)
    }
}

enum Plan {
    Kill(u64),
    Full(u64),
    Faulty(u64),
    ReadOnly(u64),
    Log(PathBuf),
}

impl Plan {
    fn parse(text: &str) -> Option<Self> {
        if let Some(file) = text.strip_prefix("log=") {
            return Some(Self::Log(file.into()));
        }
        let (kind, at) = text.split_once('@')?;
        let at = at.parse().ok()?;
        match kind {
            "kill" => Some(Self::Kill(at)),
            "enospc" => Some(Self::Full(at)),
            "eio" => Some(Self::Faulty(at)),
            "erofs" => Some(Self::ReadOnly(at)),
            _ => None,
        }
    }

    fn read() -> Option<Self> {
        let text = std::env::var(VARIABLE).ok()?;
        let plan = Self::parse(&text);
        if plan.is_none() {
            tracing::warn!(
                "{VARIABLE} = {text}: expected kill@N, enospc@N, eio@N, erofs@N or log=FILE"
            );
        }
        plan
    }
}

/// What is to happen to a change.
enum Fate {
    Done,
    Killed,
    /// With this number of the system (the same on Linux, macOS and the BSDs).
    Refused(i32),
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

fn fate(change: Change, path: &Path) -> Fate {
    let Some(plan) = PLAN.get_or_init(Plan::read) else { return Fate::Done };
    let n = CHANGES.fetch_add(1, Ordering::SeqCst) + 1;
    match plan {
        Plan::Kill(at) if n == *at => Fate::Killed,
        Plan::Full(at) if n >= *at && change.takes_room() => Fate::Refused(ENOSPC),
        Plan::Faulty(at) if n == *at => Fate::Refused(EIO),
        Plan::ReadOnly(at) if n >= *at => Fate::Refused(EROFS),
        Plan::Log(file) => {
            let line = format!("{change:?} {}\n", path.display());
            let opened = OpenOptions::new().create(true).append(true).open(file);
            let _ = opened.and_then(|mut file| file.write_all(line.as_bytes()));
            Fate::Done
        }
        _ => Fate::Done,
    }
}

/// Must be called before a change of the disk.
pub(crate) fn before(change: Change, path: &Path) -> io::Result<()> {
    match fate(change, path) {
        Fate::Done => Ok(()),
        Fate::Killed => std::process::abort(),
        Fate::Refused(code) => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Writes bytes to a file that is going to be `path`.
pub(crate) fn write(mut to: impl Write, bytes: &[u8], path: &Path) -> io::Result<usize> {
    match fate(Change::Write, path) {
        Fate::Done => to.write(bytes),
        Fate::Killed => {
            let _ = to.write_all(&bytes[..bytes.len() / 2]);
            std::process::abort()
        }
        Fate::Refused(code) => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read() {
        assert!(matches!(Plan::parse("kill@12"), Some(Plan::Kill(12))));
        assert!(matches!(Plan::parse("enospc@1"), Some(Plan::Full(1))));
        assert!(matches!(Plan::parse("log=/tmp/x"), Some(Plan::Log(_))));
        assert!(["", "kill", "kill@", "kill@x", "fire@1"].iter().all(|t| Plan::parse(t).is_none()));
    }

    #[test]
    fn without_a_plan_nothing_happens() {
        before(Change::Rename, Path::new("a")).unwrap();
        let mut out = Vec::new();
        assert_eq!(write(&mut out, b"abc", Path::new("a")).unwrap(), 3);
    }
}
