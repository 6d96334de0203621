//! Where the hub and its cache are.

use std::path::PathBuf;

use super::{Limits, RepoId};
use crate::cache::home;

/// What the environment says, by the names of Hugging Face's own library.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Address of the hub without a slash at the end: `HF_ENDPOINT`.
    pub endpoint: String,
    /// Folder of the cache: `HF_HUB_CACHE`, or `hub` below `HF_HOME`.
    pub cache: PathBuf,
    /// Secret that proves who asks: `HF_TOKEN`, or the file `HF_TOKEN_PATH` or `token` below `HF_HOME`.
    pub token: Option<String>,
    /// No network: `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// How long the hub is waited for: `HF_HUB_DOWNLOAD_TIMEOUT` seconds without progress.
    pub limits: Limits,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .field("limits", &self.limits)
            .finish()
    }
}

impl Settings {
    /// Reads the environment.
    pub fn from_env() -> Self {
        Self::from(&|name| std::env::var(name).ok())
    }

    /// Reads an environment given as a function.
    pub fn from(var: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| var(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let cache =
            set("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cache")));
        let hf_home = set("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            cache.unwrap_or_else(|| std::env::temp_dir().join("cache")).join("huggingface")
        });
        let token_file = set("HF_TOKEN_PATH").map_or_else(|| hf_home.join("token"), PathBuf::from);
        let stored = || std::fs::read_to_string(&token_file).ok();
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(stored);
        let on = |v: String| ["1", "on", "yes", "true"].contains(&v.to_lowercase().as_str());
        Self {
            endpoint: set("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_owned())
                .trim_end_matches('/')
                .to_owned(),
            cache: set("HF_HUB_CACHE")
                .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
                .map_or_else(|| hf_home.join("hub"), PathBuf::from),
            token: token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()),
            offline: set("HF_HUB_OFFLINE").is_some_and(on),
            limits: set("HF_HUB_DOWNLOAD_TIMEOUT")
                .and_then(|seconds| seconds.parse().ok())
                .map_or(Limits::default(), |seconds| Limits::default().with_timeout(seconds)),
        }
    }

    /// The folder of a repository in the cache.
    pub(super) fn folder(&self, id: &RepoId) -> PathBuf {
        self.cache.join(self.folder_name(id))
    }

    /// The name of that folder.
    pub(super) fn folder_name(&self, id: &RepoId) -> String {
        format!("models--{}", id.name.replace('/', "--"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_environment_decides() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "stored\n").unwrap();
        let home = dir.path().to_str().unwrap().to_owned();
        let with = |vars: &[(&str, &str)]| {
            let find =
                |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            Settings::from(&find)
        };
        let s = with(&[("HF_HOME", &home)]);
        assert_eq!(s.endpoint, "https://huggingface.co");
        assert_eq!(s.cache, dir.path().join("hub"));
        assert_eq!((s.token.as_deref(), s.offline), (Some("stored"), false));
        assert!(!format!("{s:?}").contains("stored"));
        let s = with(&[
            ("HF_HOME", &home),
            ("HF_HUB_CACHE", "/c"),
            ("HF_TOKEN", "secret"),
            ("HF_ENDPOINT", "http://127.0.0.1:1/"),
            ("HF_HUB_OFFLINE", "1"),
        ]);
        assert_eq!(
            (s.endpoint.as_str(), s.cache.as_path()),
            ("http://127.0.0.1:1", Path::new("/c"))
        );
        assert_eq!((s.token.as_deref(), s.offline), (Some("secret"), true));
        assert_eq!(with(&[("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));
        let s = with(&[("HF_HUB_DOWNLOAD_TIMEOUT", "2.5")]);
        assert_eq!(s.limits.window, std::time::Duration::from_millis(2500));
        for odd in ["", "x", "-1", "0", "nan", "inf"] {
            assert_eq!(with(&[("HF_HUB_DOWNLOAD_TIMEOUT", odd)]).limits, Limits::default());
        }
        let id = RepoId::parse("a/b").unwrap();
        let s = with(&[("HF_HUB_CACHE", "/c")]);
        assert_eq!(s.folder(&id), Path::new("/c/models--a--b"));
    }
}
