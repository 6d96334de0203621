//! Files of a report: they appear whole, are flushed before they get their name, and never reach through
//! a link into somebody else's folder.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ReportError;

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Makes the folder of a report, which may be there but must not be a link.
pub(crate) fn folder(dir: &Path) -> Result<(), ReportError> {
    no_link(dir)?;
    fs::create_dir_all(dir).map_err(|e| ReportError::io(dir, "create", e))
}

/// Refuses a folder or file that is a link.
pub(crate) fn no_link(path: &Path) -> Result<(), ReportError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => Err(ReportError::Link { path: path.to_owned() }),
        _ => Ok(()),
    }
}

/// Writes a file: under a temporary name, flushed to the device, renamed, and its folder flushed. The
/// temporary name is of the kind that the next start of a run removes.
pub(crate) fn file(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let temporary = temporary(path);
    let written = write_and_rename(path, &temporary, bytes);
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(|error| ReportError::io(path, "write", error))
}

fn write_and_rename(path: &Path, temporary: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    match path.parent() {
        // Windows has no such call.
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{n}.tmp", std::process::id()))
}

#[cfg(test)]
#[cfg(unix)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole_and_links_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("canary"), "keep").unwrap();
        std::os::unix::fs::symlink(at("canary"), at("page")).unwrap();
        file(&at("page"), b"new").unwrap();
        assert_eq!(fs::read(at("page")).unwrap(), b"new");
        assert_eq!(fs::read(at("canary")).unwrap(), b"keep");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        std::os::unix::fs::symlink(dir.path(), at("report")).unwrap();
        let message = folder(&at("report")).unwrap_err().to_string();
        assert!(message.contains("report` is a link"), "{message}");
        assert!(file(&at("no/page"), b"").unwrap_err().to_string().contains("no/page"));
    }
}
