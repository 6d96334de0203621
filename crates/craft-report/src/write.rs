//! Files of a report: they appear whole, are flushed before they get their name, and never reach through
//! a link into somebody else's folder.

use std::path::Path;

use craft_store::atomic;

use crate::ReportError;

/// Makes the folder of a report, which may be there but must not be a link.
pub(crate) fn folder(dir: &Path) -> Result<(), ReportError> {
    no_link(dir)?;
    Ok(atomic::create_dir(dir)?)
}

/// Refuses a folder or file that is a link.
pub(crate) fn no_link(path: &Path) -> Result<(), ReportError> {
    match path.is_symlink() {
        true => Err(ReportError::Link { path: path.to_owned() }),
        false => Ok(()),
    }
}

/// Writes a file, which appears whole.
pub(crate) fn file(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    Ok(atomic::write(path, bytes)?)
}

#[cfg(test)]
#[cfg(unix)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use std::fs;

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
