//! From the hub into the cache.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::download::download;
use super::http::Client;
use super::{BlobHash, Listener, Repo, RepoFile, RepoId, Settings};
use crate::atomic::{self, create_dir};
use crate::error::{Result, StoreError};
use crate::lock::FolderLock;
use crate::space;

/// The hub's answer about a revision; what is not of interest is passed over.
#[derive(Deserialize)]
struct Listing {
    sha: Option<String>,
    siblings: Option<Vec<Sibling>>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: Option<String>,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// Asks for the commit of a revision and its files.
pub(super) fn open(
    settings: &Settings,
    id: &RepoId,
    patient: bool,
    listener: &mut dyn Listener,
) -> Result<Repo> {
    let client = Client::new(settings, id);
    let revision = id.revision.replace('/', "%2F");
    let path = format!("/api/models/{}/revision/{revision}?blobs=true", id.name);
    let text = client.text(&path, patient, listener)?;
    let answer: Listing = serde_json::from_slice(&text).map_err(|error| {
        client.error(format!("the answer is not JSON of a hub ({error}): is HF_ENDPOINT a hub?"))
    })?;
    let strange =
        |what: &str| client.error(format!("the hub's answer has no {what}: is HF_ENDPOINT a hub?"));
    let commit = answer.sha.filter(|s| s.len() == 40 && is_hex(s));
    let commit = commit.ok_or_else(|| strange("commit"))?;
    let listed = answer.siblings.ok_or_else(|| strange("list of files"))?;
    let files = listed.into_iter().filter_map(file).collect();
    let dir = settings.folder(id).join("snapshots").join(&commit);
    Ok(Repo { id: id.clone(), commit, files, dir, settings: settings.clone() })
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A file of the list; none without a safe path, size and hash.
fn file(entry: Sibling) -> Option<RepoFile> {
    let path = entry.rfilename?;
    let safe = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\\');
    let lfs = entry.lfs.unwrap_or(Lfs { sha256: None, size: None });
    let hash = match lfs.sha256 {
        Some(sha) => BlobHash::Sha256(sha),
        None => BlobHash::Git(entry.blob?),
    };
    let size = lfs.size.or(entry.size)?;
    (path.split('/').all(safe) && is_hex(hash.name())).then_some(RepoFile { path, size, hash })
}

impl BlobHash {
    /// The file name of the content.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Sha256(hash) | Self::Git(hash) => hash,
            Self::Cached => "",
        }
    }
}

/// Fetches what is missing, and writes down which commit the revision is.
pub(super) fn fetch(repo: &Repo, paths: &[String], listener: &mut dyn Listener) -> Result<()> {
    let client = Client::new(&repo.settings, &repo.id);
    let root = repo.settings.folder(&repo.id);
    let paths: BTreeSet<&String> = paths.iter().collect();
    let wanted: Vec<&RepoFile> = repo
        .files
        .iter()
        .filter(|f| paths.contains(&f.path) && f.hash != BlobHash::Cached)
        .filter(|f| !is_whole(&repo.dir.join(&f.path), f.size))
        .collect();
    if !wanted.is_empty() {
        let blobs = root.join("blobs");
        let locks = repo.settings.cache.join(".locks").join(repo.settings.folder_name(&repo.id));
        create_dir(&blobs)?;
        create_dir(&locks)?;
        let missing = |f: &&&RepoFile| !is_whole(&blobs.join(f.hash.name()), f.size);
        let bytes: u64 = wanted.iter().filter(missing).map(|f| f.size).sum();
        space::require_free(&blobs, bytes)?;
        listener.start(bytes);
        for file in wanted {
            let blob = blobs.join(file.hash.name());
            {
                let lock = locks.join(format!("{}.lock", file.hash.name()));
                let mut told = false;
                let mut waits = || {
                    if !std::mem::replace(&mut told, true) {
                        let text = format!("another process fetches {}; waiting for it", file.path);
                        listener.note(&text);
                    }
                    listener.stopped()
                };
                let _lock = FolderLock::at(&lock, &mut waits)?;
                if !is_whole(&blob, file.size) {
                    download(&client, repo, file, &blob, listener)?;
                }
            }
            link(&blob, &repo.dir.join(&file.path), &file.path)?;
        }
    }
    if !repo.id.is_commit() {
        let name = root.join("refs").join(&repo.id.revision);
        create_dir(atomic::parent_of(&name))?;
        atomic::write(&name, repo.commit.as_bytes())?;
    }
    Ok(())
}

fn is_whole(path: &Path, size: u64) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.len() == size)
}

/// Puts a content into a snapshot: as a relative link, or as a copy where links cannot be made.
fn link(blob: &Path, target: &Path, path: &str) -> Result<()> {
    create_dir(atomic::parent_of(target))?;
    if target.symlink_metadata().is_ok() {
        std::fs::remove_file(target).map_err(StoreError::io("replace", target))?;
    }
    let mut relative = PathBuf::from("../..");
    relative.extend(path.split('/').skip(1).map(|_| ".."));
    relative.push("blobs");
    relative.push(blob.file_name().unwrap_or_default());
    if symlink(&relative, target).is_ok() {
        return Ok(());
    }
    if std::fs::hard_link(blob, target).is_ok() {
        return Ok(());
    }
    std::fs::copy(blob, target).map(drop).map_err(StoreError::io("write", target))
}

#[cfg(unix)]
fn symlink(to: &Path, at: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::Error::other("links need rights that users rarely have"))
}
