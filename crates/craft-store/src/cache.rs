//! The folder for what can be made or fetched again.

use std::path::PathBuf;

/// `$XDG_CACHE_HOME/craft`, or `~/.cache/craft`, or a folder for temporary files.
pub fn dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    from("XDG_CACHE_HOME")
        .or_else(|| home().map(|home| home.join(".cache")))
        .map_or_else(|| std::env::temp_dir().join("craft-cache"), |cache| cache.join("craft"))
}

/// The user's folder.
pub(crate) fn home() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    from("HOME").or_else(|| from("USERPROFILE"))
}
