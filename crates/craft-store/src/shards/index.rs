//! Where the pictures of shards are, found by walking the headers: the pictures are passed over.

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::names;
use super::writer::{BLOCK, SUFFIX, member};
use crate::error::{Result, StoreError};
use crate::image::MAX_BYTES;
use crate::input;

/// What to do about a damaged shard.
const CURE: &str =
    "put the shard back from a copy, or remove it and run the same command as before";

/// A member of a shard in 16 bytes: its key is told apart by its hash, and then by its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    hash: u64,
    shard: u32,
    /// Where its header begins, in blocks.
    block: u32,
}

/// The members of all shards of a folder.
#[derive(Debug)]
pub(super) struct Index {
    shards: Vec<PathBuf>,
    /// By hash.
    entries: Vec<Entry>,
}

fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

fn damaged(shard: &Path, what: &str) -> StoreError {
    StoreError::bad(shard, format!("{what}: the shard is damaged; {CURE}"))
}

impl Index {
    /// Walks the headers of all shards below a folder.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let shards = names::list(root, "tar")?;
        let mut entries = Vec::new();
        for (number, path) in shards.iter().enumerate() {
            walk(path, &mut |key, start| {
                let block = u32::try_from(start / BLOCK).map_err(|_| {
                    StoreError::bad(path, "it is larger than 2 TiB: expected a smaller shard")
                })?;
                entries.push(Entry { hash: hash(key), shard: number as u32, block });
                Ok(())
            })?;
        }
        entries.sort_unstable();
        let index = Self { shards, entries };
        index.refuse_twins()?;
        Ok(index)
    }

    /// Refuses a key that is there twice.
    fn refuse_twins(&self) -> Result<()> {
        for pair in self.entries.windows(2).filter(|pair| pair[0].hash == pair[1].hash) {
            let (a, b) = (self.key(pair[0])?, self.key(pair[1])?);
            if a == b {
                let other = self.shards[pair[0].shard as usize].display();
                let message = format!(
                    "picture `{a}` is in {other}, too: expected each once; remove one shard"
                );
                return Err(StoreError::bad(&self.shards[pair[1].shard as usize], message));
            }
        }
        Ok(())
    }

    fn key(&self, entry: Entry) -> Result<String> {
        self.open(entry).map(|(_, key, _)| key)
    }

    /// Opens a shard at the bytes of a member; also its key and length.
    fn open(&self, entry: Entry) -> Result<(File, String, u64)> {
        let path = &self.shards[entry.shard as usize];
        let mut file = input::open(path)?;
        let mut block = [0; BLOCK as usize];
        file.seek(SeekFrom::Start(u64::from(entry.block) * BLOCK))
            .and_then(|_| file.read_exact(&mut block))
            .map_err(StoreError::io("read", path))?;
        let found = member(&block).and_then(|(name, size)| Some((key_of(&name)?, size)));
        match found {
            Some((key, size)) => Ok((file, key, size)),
            None => Err(damaged(path, "a member's header is not what it was")),
        }
    }

    /// Number of pictures.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The shard that a picture is in, and its bytes; `None` if it is in none.
    pub(super) fn bytes(&self, key: &str) -> Result<Option<(&Path, Vec<u8>)>> {
        let wanted = hash(key);
        let first = self.entries.partition_point(|entry| entry.hash < wanted);
        for entry in self.entries[first..].iter().take_while(|entry| entry.hash == wanted) {
            let (file, found, size) = self.open(*entry)?;
            if found == key {
                let path = &self.shards[entry.shard as usize];
                return Ok(Some((path, take(path, key, file, size)?)));
            }
        }
        Ok(None)
    }

    /// Whether a picture is there, by its header.
    pub(super) fn has(&self, key: &str) -> bool {
        let wanted = hash(key);
        let first = self.entries.partition_point(|entry| entry.hash < wanted);
        let mut same = self.entries[first..].iter().take_while(|entry| entry.hash == wanted);
        same.any(|entry| self.key(*entry).is_ok_and(|found| found == key))
    }

    /// Calls with key and bytes of every picture, in the order of shards and members.
    pub(super) fn each<E: From<StoreError>>(
        &self,
        mut visit: impl FnMut(&str, Vec<u8>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut order = self.entries.clone();
        order.sort_unstable_by_key(|entry| (entry.shard, entry.block));
        for entry in order {
            let (file, key, size) = self.open(entry)?;
            let path = &self.shards[entry.shard as usize];
            visit(&key, take(path, &key, file, size)?)?;
        }
        Ok(())
    }
}

/// The bytes of a member, which come next in the file.
fn take(path: &Path, key: &str, file: File, size: u64) -> Result<Vec<u8>> {
    if size > MAX_BYTES {
        return Err(damaged(path, &format!("member {key}{SUFFIX} says that it has {size} bytes")));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(size).read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
    if (bytes.len() as u64) < size {
        let has = bytes.len();
        return Err(damaged(
            path,
            &format!("member {key}{SUFFIX} ends after {has} of {size} bytes"),
        ));
    }
    Ok(bytes)
}

/// The keys of a shard.
pub(super) fn keys(path: &Path) -> Result<BTreeSet<String>> {
    let mut keys = BTreeSet::new();
    walk(path, &mut |key, _| {
        keys.insert(key.to_owned());
        Ok(())
    })?;
    Ok(keys)
}

/// The key of a member's name: the picture's name without `.png`, whatever folder it is in.
fn key_of(name: &str) -> Option<String> {
    let name = name.rsplit('/').next().unwrap_or(name);
    name.strip_suffix(SUFFIX).filter(|key| !key.is_empty()).map(str::to_owned)
}

/// Calls with the key of each picture of a shard and the place of its header. Other members are passed
/// over.
fn walk(path: &Path, found: &mut dyn FnMut(&str, u64) -> Result<()>) -> Result<()> {
    let file = input::open(path)?;
    let length = file.metadata().map_err(StoreError::io("read", path))?.len();
    let mut archive = tar::Archive::new(file);
    let entries = archive.entries_with_seek().map_err(|e| damaged(path, &e.to_string()))?;
    let (mut last, mut end) = (String::new(), 0);
    for entry in entries {
        let entry = entry.map_err(|e| damaged(path, &format!("after member `{last}`: {e}")))?;
        let name = entry.path().map_err(|e| damaged(path, &e.to_string()))?;
        let name = name.to_string_lossy().into_owned();
        end = entry.raw_file_position() + entry.size().next_multiple_of(BLOCK);
        if end > length {
            return Err(damaged(path, &format!("member {name} ends after the end of the file")));
        }
        if let Some(key) = key_of(&name).filter(|_| entry.header().entry_type().is_file()) {
            found(&key, entry.raw_header_position())?;
        }
        last = name;
    }
    // What ends without its two blocks of zeros was cut short between two members.
    if length < end + 2 * BLOCK {
        return Err(damaged(
            path,
            &format!("it ends after member `{last}` without the mark of its end"),
        ));
    }
    Ok(())
}
