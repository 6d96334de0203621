//! Repositories of the Hugging Face hub, through the cache that its Python library uses.
//!
//! Layout below `HF_HUB_CACHE`: `models--owner--name/refs/<revision>` holds a commit,
//! `snapshots/<commit>/<path>` links to `blobs/<hash>`, where the hash is the SHA-256 of large files
//! and git's SHA-1 of small ones. What one program has fetched, the other finds.
//!
//! Why not the crate `hf-hub` (1.0): it compares no hash of what it downloads, begins anew where a
//! download broke off, and brings an asynchronous runtime along.

#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod fetch;
#[cfg(feature = "hub")]
mod http;
mod id;
#[cfg_attr(not(feature = "hub"), allow(dead_code))]
mod patience;
mod settings;

use std::path::{Path, PathBuf};

use crate::error::{Result, StoreError};
use crate::hash::files_below;

pub use id::RepoId;
pub use patience::Limits;
pub use settings::Settings;

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoFile {
    /// Its path with `/`.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// How its content is checked.
    hash: BlobHash,
}

/// The name of a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
enum BlobHash {
    /// SHA-256 of the content.
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    Sha256(String),
    /// git's SHA-1 of the content.
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    Git(String),
    /// Fetched before.
    Cached,
}

/// What is told while files are fetched.
pub trait Listener {
    /// Files of so many bytes begin.
    fn start(&mut self, bytes: u64);
    /// So many bytes have come.
    fn advance(&mut self, bytes: u64);
    /// Something the user should know.
    fn note(&mut self, text: &str);
    /// Whether the user wants to stop. Asked several times a second.
    fn stopped(&self) -> bool {
        false
    }
}

/// One commit of a repository.
#[derive(Debug)]
pub struct Repo {
    /// The repository.
    pub id: RepoId,
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// Its files: all of them, or of a cached copy those that are there.
    pub files: Vec<RepoFile>,
    /// The folder of the commit in the cache.
    pub dir: PathBuf,
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    settings: Settings,
}

impl Repo {
    /// The cached copy of a revision, without any network; `None` if there is none.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn cached(settings: &Settings, id: &RepoId) -> Result<Option<Self>> {
        let root = settings.folder(id);
        let commit = if id.is_commit() {
            id.revision.clone()
        } else {
            let path = root.join("refs").join(&id.revision);
            match std::fs::read_to_string(path) {
                Ok(text) => text.trim().to_owned(),
                Err(_) => return Ok(None),
            }
        };
        let dir = root.join("snapshots").join(&commit);
        if commit.is_empty() || !dir.is_dir() {
            return Ok(None);
        }
        let file = |path: String| {
            let size = dir.join(&path).metadata().map_or(0, |m| m.len());
            RepoFile { path, size, hash: BlobHash::Cached }
        };
        let files = files_below(&dir)?.into_iter().map(file).collect();
        Ok(Some(Self { id: id.clone(), commit, files, dir, settings: settings.clone() }))
    }

    /// Asks the hub for a revision; `patient`: a hub that is busy is asked again and again.
    ///
    /// # Errors
    /// [`StoreError::Hub`]; its `unreachable` says whether the hub did not answer at all.
    #[cfg(feature = "hub")]
    pub fn open(
        settings: &Settings,
        id: &RepoId,
        patient: bool,
        listener: &mut dyn Listener,
    ) -> Result<Self> {
        if settings.offline {
            return Err(offline(id, "HF_HUB_OFFLINE is set"));
        }
        fetch::open(settings, id, patient, listener)
    }

    /// This build has no network.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "hub"))]
    pub fn open(_: &Settings, id: &RepoId, _: bool, _: &mut dyn Listener) -> Result<Self> {
        Err(offline(id, "this build has no downloads (cargo feature `hub`)"))
    }

    /// Whether the repository has a file.
    pub fn has(&self, path: &str) -> bool {
        self.files.iter().any(|file| file.path == path)
    }

    /// Fetches files that are not in the cache yet. Interrupted downloads go on where they stopped.
    ///
    /// # Errors
    /// When the hub refuses, the network fails, or what came has another length or hash.
    #[cfg(feature = "hub")]
    pub fn fetch(&self, paths: &[String], listener: &mut dyn Listener) -> Result<()> {
        fetch::fetch(self, paths, listener)
    }

    /// Without network: nothing to do, since a cached copy's files are there.
    ///
    /// # Errors
    /// Never.
    #[cfg(not(feature = "hub"))]
    pub fn fetch(&self, _: &[String], _: &mut dyn Listener) -> Result<()> {
        Ok(())
    }
}

fn offline(id: &RepoId, why: &str) -> StoreError {
    StoreError::Hub { id: id.to_string(), message: why.to_owned(), unreachable: true }
}

/// The repository and commit of a folder in a cache, if it is one (`models--…/snapshots/<commit>`).
pub fn provenance(dir: &Path) -> Option<(String, String)> {
    let commit = dir.file_name()?.to_str()?;
    let snapshots = dir.parent()?;
    let repo = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    let is_commit = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
    (snapshots.file_name()? == "snapshots" && is_commit)
        .then(|| (repo.replacen("--", "/", 1), commit.to_owned()))
}
