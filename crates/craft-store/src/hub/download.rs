//! One content of the hub, taken up where it broke off and checked.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use craft_net::Trouble;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::http::Client;
use super::patience::Patience;
use super::{BlobHash, Listener, Repo, RepoFile};
use crate::error::{Result, StoreError};

/// Bytes after which a download that breaks off has got on, so that patience begins anew.
const ENOUGH: u64 = 1 << 20;

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

/// One content, checked, under its name.
pub(super) fn download(
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
    let mut patience = Patience::new(repo.settings.limits);
    while have < file.size {
        let before = have;
        let mut stream = client
            .get(&path, have, &mut patience, listener)
            .map_err(|error| broken_off(client, file, error, have))?;
        let range = stream.headers.get("content-range").and_then(|v| v.to_str().ok());
        let goes_on = range.is_some_and(|r| r.starts_with(&format!("bytes {have}-")));
        if have > 0 && !goes_on {
            // The server begins from the start.
            (have, hasher) = restart(&output, &partial, file)?;
        }
        let trouble = loop {
            let data = match stream.next(&|| listener.stopped()) {
                Ok(Some(data)) => data,
                Ok(None) => break None,
                Err(trouble) => break Some(trouble),
            };
            if have + data.len() as u64 > file.size {
                drop(std::fs::remove_file(&partial));
                return Err(client.error(format!(
                    "{} is longer than the {} bytes that the hub says it has; expected exactly these: try again, or look at HF_ENDPOINT",
                    file.path, file.size
                )));
            }
            output.write_all(&data).map_err(StoreError::io("write", &partial))?;
            hasher.update(&data);
            have += data.len() as u64;
            listener.advance(data.len() as u64);
        };
        if have >= before + ENOUGH {
            patience.renew();
        }
        let trouble = match trouble {
            _ if have == file.size => continue,
            // An answer that is whole and no longer will not be another one the next time.
            None if have <= before => return Err(client.error(short(file, have))),
            None => Trouble::Broke("the answer ended early".to_owned()),
            Some(trouble) => trouble,
        };
        client
            .wait(client.fault(trouble), &path, &mut patience, listener)
            .map_err(|error| broken_off(client, file, error, have))?;
    }
    check_hash(client, file, &partial, hasher)?;
    output.sync_all().map_err(StoreError::io("write", &partial))?;
    std::fs::rename(&partial, blob).map_err(StoreError::io("write", blob))
}

/// Says that a content is not there in full, and how to go on.
fn short(file: &RepoFile, have: u64) -> String {
    format!(
        "{} breaks off after {have} of {} bytes; expected all of them: run the same command again, it goes on from there",
        file.path, file.size
    )
}

/// An error of the hub after `have` bytes: it says that what is there is kept.
fn broken_off(client: &Client<'_>, file: &RepoFile, error: StoreError, have: u64) -> StoreError {
    match error {
        StoreError::Hub { message, .. } if have > 0 => {
            client.error(format!("{} ({message})", short(file, have)))
        }
        other => other,
    }
}

/// Compares the hash with the hub's; removes what is damaged.
fn check_hash(client: &Client<'_>, file: &RepoFile, partial: &Path, hasher: Hasher) -> Result<()> {
    let found = hasher.finish();
    if found == file.hash.name() {
        return Ok(());
    }
    drop(std::fs::remove_file(partial));
    Err(client.error(format!(
        "{} came with hash {found}; expected {}: it was damaged on the way and has been removed; run the same command again",
        file.path,
        file.hash.name()
    )))
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
