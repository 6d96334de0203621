//! What lies in a run folder is the run's own: nothing there leads elsewhere.
//!
//! A run replaces and removes files in its folder. Through a link it would do that to somebody else's,
//! so no part of a run may be one. The run folder itself may be reached through a link.

use std::fs;
use std::path::Path;

use crate::atomic;
use crate::error::{Result, StoreError};
use crate::manifest::{STAGE_FILE, require_version};
use crate::stage::INPUTS_FILE;

/// Refuses a path that is a link; passes if there is nothing.
pub(crate) fn no_link(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => Err(leads_away(path)),
        _ => Ok(()),
    }
}

fn leads_away(path: &Path) -> StoreError {
    let to = fs::read_link(path).map_or("elsewhere".to_owned(), |to| to.display().to_string());
    StoreError::bad(
        path,
        format!(
            "it is a link to {to}, and what a run replaces or removes there would not be its own: expected files and folders of the run itself. Remove the link; to keep a run on another disk, put the whole run folder there"
        ),
    )
}

/// Refuses a folder below `root` that is a link, or is reached through one below `root`.
pub(crate) fn no_link_up_to(root: &Path, path: &Path) -> Result<()> {
    let Ok(relative) = path.strip_prefix(root) else { return no_link(path) };
    let mut here = root.to_owned();
    for part in relative {
        here.push(part);
        no_link(&here)?;
    }
    Ok(())
}

/// Refuses a folder in which, at any depth, there is a link. A folder that does not exist has none.
///
/// # Errors
/// Names the first link.
pub fn no_links_below(dir: &Path) -> Result<()> {
    each_below(dir, &mut |path, kind| {
        if kind.is_symlink() { Err(leads_away(path)) } else { Ok(()) }
    })
}

/// The same, and refuses a folder of a run with a stage of another version of the format. Runs within
/// it are not looked into: they are, when they are opened.
///
/// # Errors
/// Names the first link or manifest.
pub(crate) fn ours_below(dir: &Path) -> Result<()> {
    each_below(dir, &mut |path, kind| {
        if kind.is_symlink() {
            return Err(leads_away(path));
        }
        match path.file_name().and_then(|name| name.to_str()) {
            Some(STAGE_FILE | INPUTS_FILE) => require_version(path),
            _ => Ok(()),
        }
    })
}

/// Removes what interrupted writes left anywhere below a folder, runs within it excepted, which have
/// a lock of their own. Only for folders that no other process writes to.
///
/// # Errors
/// When a leftover cannot be removed.
pub fn remove_leftovers_below(dir: &Path) -> Result<()> {
    let mut folders = vec![dir.to_owned()];
    each_below(dir, &mut |path, kind| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if kind.is_dir() && !atomic::is_temporary(&name) && !is_run(path) {
            folders.push(path.to_owned());
        }
        Ok(())
    })?;
    folders.iter().try_for_each(|folder| atomic::remove_leftovers(folder))
}

/// Calls `visit` for everything below a folder, links not followed, other runs not entered.
fn each_below(dir: &Path, visit: &mut dyn FnMut(&Path, fs::FileType) -> Result<()>) -> Result<()> {
    let failed = || StoreError::io("read", dir);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed())?,
    };
    for entry in entries {
        let entry = entry.map_err(failed())?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed())?);
        visit(&path, kind)?;
        if kind.is_dir() && !is_run(&path) {
            each_below(&path, visit)?;
        }
    }
    Ok(())
}

fn is_run(dir: &Path) -> bool {
    dir.join(crate::run::RECIPE_FILE).exists()
}

#[cfg(test)]
#[cfg(unix)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_at_any_depth_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        fs::create_dir_all(run.join("a/b")).unwrap();
        no_links_below(&run).unwrap();
        no_links_below(&dir.path().join("nothing")).unwrap();
        symlink("/tmp", run.join("a/b/c")).unwrap();
        let message = no_links_below(&run).unwrap_err().to_string();
        for word in ["a/b/c: it is a link to /tmp", "expected", "Remove the link"] {
            assert!(message.contains(word), "{message}");
        }
        assert!(no_link_up_to(&run, &run.join("a/b/c/d")).is_err());
        assert!(no_link_up_to(&run, &run.join("a/b")).is_ok());
        // The run itself may be behind one.
        symlink(&run, dir.path().join("other")).unwrap();
        assert!(no_link_up_to(&dir.path().join("other"), &dir.path().join("other/a")).is_ok());
    }

    #[test]
    fn leftovers_are_found_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("checkpoints/.step-2.77-1.tmp")).unwrap();
        fs::create_dir_all(at("rounds/1")).unwrap();
        for name in
            ["checkpoints/.step-2.77-1.tmp/unet", "rounds/1/recipe.toml", "rounds/1/.a.1-1.tmp"]
        {
            fs::write(at(name), "").unwrap();
        }
        remove_leftovers_below(dir.path()).unwrap();
        assert!(!at("checkpoints/.step-2.77-1.tmp").exists() && at("checkpoints").exists());
        assert!(at("rounds/1/.a.1-1.tmp").exists(), "another run's, which has its own lock");
    }
}
