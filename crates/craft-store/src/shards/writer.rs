//! One tar of pictures that is being written.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::atomic::{self, AtomicFile, parent_of, sync_dir};
use crate::error::{Result, StoreError};
use crate::faults::{self, Change};
use crate::image;

/// Bytes of a block of a tar.
pub(super) const BLOCK: u64 = 512;
/// How the name of a picture in a shard ends.
pub(super) const SUFFIX: &str = ".png";
/// Longest key, so that a member's name fits into its header.
const MAX_KEY: usize = 96;

/// A whole picture in a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    key: String,
    /// Where its header begins.
    start: u64,
    /// Where the next member's header begins.
    end: u64,
}

/// A tar that pictures are appended to, one by one.
///
/// A picture is one write: header, bytes and filling. A kill leaves at most one that is torn, which is
/// cut off when the shard is opened again; pictures before it are whole, which their own checksums
/// tell. The bytes of a finished shard depend on the pictures and their order only.
#[derive(Debug)]
pub struct ShardWriter {
    target: PathBuf,
    path: PathBuf,
    file: File,
    members: Vec<Member>,
    keys: BTreeSet<String>,
}

impl ShardWriter {
    /// Begins a shard, or goes on with the unfinished or finished one of that name. Its folder must
    /// exist.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(target: &Path) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!(".{name}.partial"));
        if target.exists() && !path.exists() {
            atomic::rename(target, &path, "continue")?;
        }
        let file = faults::before(Change::Create, &path)
            .and_then(|()| {
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)
            })
            .map_err(StoreError::io("write", &path))?;
        let mut shard = Self {
            target: target.to_owned(),
            path,
            file,
            members: Vec::new(),
            keys: BTreeSet::new(),
        };
        shard.resume()?;
        Ok(shard)
    }

    /// Finds the pictures that are whole, and cuts off what comes after them.
    fn resume(&mut self) -> Result<()> {
        let path = self.path.clone();
        let failed = || StoreError::io("read", &path);
        let length = self.file.metadata().map_err(failed())?.len();
        let mut end = 0;
        let mut bytes = Vec::new();
        while let Some((key, size)) = self.header(end, length)? {
            let next = end + BLOCK + size.next_multiple_of(BLOCK);
            bytes.resize(size as usize, 0);
            self.file.seek(SeekFrom::Start(end + BLOCK)).map_err(failed())?;
            self.file.read_exact(&mut bytes).map_err(failed())?;
            if !image::is_whole_png_bytes(&bytes) || !self.keys.insert(key.clone()) {
                break;
            }
            self.members.push(Member { key, start: end, end: next });
            end = next;
        }
        if end < length {
            faults::before(Change::Write, &self.path)
                .and_then(|()| self.file.set_len(end))
                .map_err(StoreError::io("mend", &self.path))?;
        }
        Ok(())
    }

    /// Key and length of the picture whose header begins at a place, if all of it can be there.
    fn header(&mut self, at: u64, length: u64) -> Result<Option<(String, u64)>> {
        if at + BLOCK > length {
            return Ok(None);
        }
        let mut block = [0; BLOCK as usize];
        self.file
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.file.read_exact(&mut block))
            .map_err(StoreError::io("read", &self.path))?;
        let Some((name, size)) = member(&block) else { return Ok(None) };
        let key = name.strip_suffix(SUFFIX).map(str::to_owned);
        let fits = size <= image::MAX_BYTES && at + BLOCK + size.next_multiple_of(BLOCK) <= length;
        Ok(key.filter(|_| fits).map(|key| (key, size)))
    }

    /// Whether a picture is there and whole.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Number of pictures that are there.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Appends the bytes of a PNG.
    ///
    /// # Errors
    /// When the key is there already or cannot be a member's name, or the disk refuses; nothing of it is
    /// left in the shard then.
    pub fn put(&mut self, key: &str, png: &[u8]) -> Result<()> {
        check_key(&self.target, key)?;
        if self.has(key) {
            let message = format!("picture `{key}` is there already: expected each once");
            return Err(StoreError::bad(&self.target, message));
        }
        let start = self.members.last().map_or(0, |member| member.end);
        let mut bytes = header(&self.target, key, png.len() as u64)?;
        bytes.extend_from_slice(png);
        bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
        if let Err(error) = self.append(start, &bytes) {
            let _ = self.file.set_len(start);
            return Err(error);
        }
        let end = start + bytes.len() as u64;
        self.members.push(Member { key: key.to_owned(), start, end });
        self.keys.insert(key.to_owned());
        Ok(())
    }

    fn append(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let failed = || StoreError::io("write", &self.path);
        self.file.seek(SeekFrom::Start(at)).map_err(failed())?;
        let mut rest = bytes;
        while !rest.is_empty() {
            match faults::write(&self.file, rest, &self.path) {
                Ok(0) => return Err(failed()(std::io::ErrorKind::WriteZero.into())),
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed()(error)),
            }
        }
        Ok(())
    }

    /// Flushes to the device what was appended.
    pub fn sync(&mut self) -> Result<()> {
        faults::before(Change::Flush, &self.path)
            .and_then(|()| self.file.sync_data())
            .map_err(StoreError::io("flush", &self.path))
    }

    /// Ends the shard and gives it its name. Its members get the order of `keys`; where they were
    /// appended in it nothing is copied.
    ///
    /// # Errors
    /// When the pictures are not exactly those of `keys`, or the disk refuses.
    pub fn finish(mut self, keys: &[String]) -> Result<()> {
        let missing = keys.iter().find(|key| !self.has(key));
        if missing.is_some() || keys.len() != self.members.len() {
            let what = match missing {
                Some(key) => format!("picture `{key}` is not there"),
                None => format!("it holds {} pictures, expected {}", self.len(), keys.len()),
            };
            let message =
                format!("the shard cannot be finished: {what}; run the same command again");
            return Err(StoreError::bad(&self.target, message));
        }
        if self.members.iter().zip(keys).any(|(member, key)| member.key != *key) {
            return self.reorder(keys);
        }
        let end = self.members.last().map_or(0, |member| member.end);
        self.append(end, &[0; 2 * BLOCK as usize])?;
        faults::before(Change::Flush, &self.path)
            .and_then(|()| self.file.sync_all())
            .map_err(StoreError::io("flush", &self.path))?;
        atomic::rename(&self.path, &self.target, "write")?;
        sync_dir(parent_of(&self.target))
    }

    /// Writes the shard once more, in the order of `keys`.
    fn reorder(mut self, keys: &[String]) -> Result<()> {
        let mut file = AtomicFile::create(&self.target)?;
        let mut bytes = Vec::new();
        for key in keys {
            let Some(member) = self.members.iter().find(|member| member.key == *key) else {
                continue;
            };
            bytes.resize((member.end - member.start) as usize, 0);
            self.file
                .seek(SeekFrom::Start(member.start))
                .and_then(|_| self.file.read_exact(&mut bytes))
                .map_err(StoreError::io("read", &self.path))?;
            file.put(&bytes)?;
        }
        file.put(&[0; 2 * BLOCK as usize])?;
        file.commit()?;
        atomic::remove_file(&self.path)
    }
}

/// Refuses keys that WebDataset would read as another one, or that are no name of a file.
fn check_key(shard: &Path, key: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(plain) {
        return Err(StoreError::bad(
            shard,
            format!(
                "`{key}` cannot be a picture's key: expected 1 to {MAX_KEY} letters, digits, `-` and `_`"
            ),
        ));
    }
    Ok(())
}

/// The header of a picture: the same for the same key and length.
fn header(shard: &Path, key: &str, size: u64) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    let named = header.set_path(format!("{key}{SUFFIX}"));
    named.map_err(|e| StoreError::bad(shard, format!("picture `{key}`: {e}")))?;
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

/// Name and length of an ordinary member, by its header; `None` if the block is none, or damaged.
pub(super) fn member(block: &[u8; BLOCK as usize]) -> Option<(String, u64)> {
    let header = tar::Header::from_byte_slice(block);
    let mut again = header.clone();
    again.set_cksum();
    if header.cksum().ok()? != again.cksum().ok()? || !header.entry_type().is_file() {
        return None;
    }
    let name = header.path().ok()?.to_str()?.to_owned();
    Some((name, header.entry_size().ok()?))
}
