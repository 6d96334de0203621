//! From the hub into the cache.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::http::Client;
use super::{BlobHash, Listener, Repo, RepoFile, RepoId, Settings};
use crate::atomic::{self, create_dir};
use crate::error::{Result, StoreError};
use crate::lock::FolderLock;
use crate::space;

/// How often a download that breaks off is taken up again.
const ATTEMPTS: usize = 4;

/// Asks for the commit of a revision and its files.
pub(super) fn open(settings: &Settings, id: &RepoId) -> Result<Repo> {
    let client = Client::new(settings, id);
    let revision = id.revision.replace('/', "%2F");
    let answer = client.json(&format!("/api/models/{}/revision/{revision}?blobs=true", id.name))?;
    let strange =
        |what: &str| client.error(format!("the hub's answer has no {what}: is HF_ENDPOINT a hub?"));
    let commit = answer["sha"].as_str().filter(|s| s.len() == 40 && is_hex(s));
    let commit = commit.ok_or_else(|| strange("commit"))?.to_owned();
    let listed = answer["siblings"].as_array().ok_or_else(|| strange("list of files"))?;
    let files = listed.iter().filter_map(file).collect();
    let dir = settings.folder(id).join("snapshots").join(&commit);
    Ok(Repo { id: id.clone(), commit, files, dir, settings: settings.clone() })
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A file of the list; none without a safe path, size and hash.
fn file(entry: &Value) -> Option<RepoFile> {
    let path = entry["rfilename"].as_str()?;
    let safe = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\\');
    let hash = match entry["lfs"]["sha256"].as_str() {
        Some(sha) => BlobHash::Sha256(sha.to_owned()),
        None => BlobHash::Git(entry["blobId"].as_str()?.to_owned()),
    };
    let size = entry["lfs"]["size"].as_u64().or_else(|| entry["size"].as_u64())?;
    (path.split('/').all(safe) && is_hex(hash.name())).then(|| RepoFile {
        path: path.to_owned(),
        size,
        hash,
    })
}

impl BlobHash {
    /// The file name of the content.
    fn name(&self) -> &str {
        match self {
            Self::Sha256(hash) | Self::Git(hash) => hash,
            Self::Cached => "",
        }
    }
}

/// Computes the hash that the hub names a content by.
enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    fn new(file: &RepoFile) -> Self {
        match file.hash {
            BlobHash::Git(_) => {
                let mut hash = Sha1::new();
                hash.update(format!("blob {}\0", file.size));
                Self::Git(hash)
            }
            _ => Self::Sha256(Sha256::new()),
        }
    }
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }
    fn finish(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        match self {
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::Git(hash) => hex(&hash.finalize()),
        }
    }
}

/// Fetches what is missing, and writes down which commit the revision is.
pub(super) fn fetch(repo: &Repo, paths: &[String], listener: &mut dyn Listener) -> Result<()> {
    let client = Client::new(&repo.settings, &repo.id);
    let root = repo.settings.folder(&repo.id);
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
                let mut waits = || {
                    listener
                        .note(&format!("another process fetches {}; waiting for it", file.path));
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

/// One content, checked, under its name.
fn download(
    client: &Client<'_>,
    repo: &Repo,
    file: &RepoFile,
    blob: &Path,
    listener: &mut dyn Listener,
) -> Result<()> {
    let partial = blob.with_extension("incomplete");
    let mut hasher = Hasher::new(file);
    let mut output = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(&partial)
        .map_err(StoreError::io("write", &partial))?;
    let mut have = hash_so_far(&mut output, &partial, &mut hasher)?;
    if have > file.size {
        (have, hasher) = restart(&output, &partial, file)?;
    }
    listener.advance(have);
    let path = format!("/{}/resolve/{}/{}", repo.id.name, repo.commit, escaped(&file.path));
    let mut broke = String::new();
    for attempt in 0..ATTEMPTS {
        if have == file.size {
            break;
        }
        let before = have;
        let response = match client.get(&path, have) {
            Err(StoreError::Hub { message, unreachable: true, .. }) if attempt + 1 < ATTEMPTS => {
                broke = message;
                continue;
            }
            other => other?,
        };
        let range = response.headers().get("content-range").and_then(|v| v.to_str().ok());
        let goes_on = range.is_some_and(|r| r.starts_with(&format!("bytes {have}-")));
        if have > 0 && !goes_on {
            // The server begins from the start.
            (have, hasher) = restart(&output, &partial, file)?;
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0u8; 1 << 16];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) => {
                    broke = error.to_string();
                    break;
                }
            };
            if have + n as u64 > file.size {
                drop(std::fs::remove_file(&partial));
                return Err(client.error(format!(
                    "{} is longer than the {} bytes that the hub says it has; expected exactly these: try again, or look at HF_ENDPOINT",
                    file.path, file.size
                )));
            }
            output.write_all(&buffer[..n]).map_err(StoreError::io("write", &partial))?;
            hasher.update(&buffer[..n]);
            have += n as u64;
            listener.advance(n as u64);
        }
        if have == before && attempt > 0 {
            break;
        }
    }
    if have < file.size {
        let why = if broke.is_empty() { String::new() } else { format!(" ({broke})") };
        return Err(client.error(format!(
            "{} breaks off after {have} of {} bytes{why}; expected all of them: run the same command again, it goes on from there",
            file.path, file.size
        )));
    }
    let found = hasher.finish();
    if found != file.hash.name() {
        drop(std::fs::remove_file(&partial));
        return Err(client.error(format!(
            "{} came with hash {found}; expected {}: it was damaged on the way and has been removed; run the same command again",
            file.path,
            file.hash.name()
        )));
    }
    output.sync_all().map_err(StoreError::io("write", &partial))?;
    std::fs::rename(&partial, blob).map_err(StoreError::io("write", blob))
}

fn restart(output: &File, partial: &Path, file: &RepoFile) -> Result<(u64, Hasher)> {
    output.set_len(0).map_err(StoreError::io("write", partial))?;
    Ok((0, Hasher::new(file)))
}

/// Length of what an earlier download left, which goes into the hash.
fn hash_so_far(file: &mut File, path: &Path, hasher: &mut Hasher) -> Result<u64> {
    let mut buffer = vec![0u8; 1 << 20];
    let mut have = 0;
    loop {
        let n = file.read(&mut buffer).map_err(StoreError::io("read", path))?;
        if n == 0 {
            return Ok(have);
        }
        hasher.update(&buffer[..n]);
        have += n as u64;
    }
}

fn escaped(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~/".contains(&b);
    path.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
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
