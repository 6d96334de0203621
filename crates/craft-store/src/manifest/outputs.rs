//! What is recorded of the files that a stage wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::times;
use super::{Line, Listed, OUTPUTS_FILE, Output, STAGE_FILE};
use crate::atomic;
use crate::error::{Result, StoreError};
use crate::hash::{files_below, sha256_file};
use crate::jsonl;

/// The outputs of a stage.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Those that stand in the manifest.
    pub(crate) outputs: BTreeMap<String, Output>,
    /// The others.
    pub(crate) listed: Option<Listed>,
    /// When each was last changed, in the order of [`super::Manifest::each_output`].
    pub(crate) times: Vec<Option<u128>>,
}

/// Folder of a file, by its relative path.
fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Flushes and hashes all files of a stage's folder (hidden ones excepted), each once, and writes the
/// list of those that are too many for the manifest. `known` gives hashes that were computed when a
/// file was written. Folders of more than `few` files are too many.
pub(crate) fn record(dir: &Path, known: &BTreeMap<String, Output>, few: usize) -> Result<Record> {
    let mut names = files_below(dir)?;
    names.retain(|name| name != OUTPUTS_FILE && name != STAGE_FILE);
    // A flush a file is several seconds a thousand files.
    let flushed = names.len() > few && atomic::sync_disk(dir)?;
    let known = Known { hashes: known, flushed };
    let mut in_folder: BTreeMap<&str, usize> = BTreeMap::new();
    for name in &names {
        *in_folder.entry(folder(name)).or_default() += 1;
    }
    let many = |name: &str| in_folder.get(folder(name)).is_some_and(|count| *count > few);
    let mut record = Record::default();
    for name in names.iter().filter(|name| !many(name)) {
        let (output, time) = known.one(dir, name)?;
        record.outputs.insert(name.clone(), output);
        record.times.push(time);
    }
    let list = dir.join(OUTPUTS_FILE);
    if record.outputs.len() == names.len() {
        // Of an attempt that was killed when it had written one.
        if list.exists() {
            atomic::remove_file(&list)?;
        }
        return Ok(record);
    }
    let (mut files, mut bytes, mut times) = (0, 0, Vec::new());
    let mut writer = jsonl::Writer::create(&list)?;
    for name in names.iter().filter(|name| many(name)) {
        let (output, time) = known.one(dir, name)?;
        files += 1;
        bytes += output.bytes;
        times.push(time);
        writer.put(&Line { name: name.clone(), output })?;
    }
    writer.commit()?;
    let (own, time) = known.one(dir, OUTPUTS_FILE)?;
    record.times.push(time);
    record.times.append(&mut times);
    record.listed = Some(Listed { files, bytes, list: own });
    Ok(record)
}

/// What is known of files before they are looked at.
struct Known<'a> {
    hashes: &'a BTreeMap<String, Output>,
    flushed: bool,
}

impl Known<'_> {
    /// Flushes and hashes one file, as far as that was not done.
    fn one(&self, dir: &Path, name: &str) -> Result<(Output, Option<u128>)> {
        let path = dir.join(name);
        if !self.flushed {
            atomic::sync_file(&path)?;
        }
        let meta = fs::metadata(&path).map_err(StoreError::io("read", &path))?;
        let time = times::time(&meta);
        if let Some(output) = self.hashes.get(name).filter(|output| output.bytes == meta.len()) {
            return Ok((output.clone(), time));
        }
        Ok((Output { bytes: meta.len(), sha256: sha256_file(&path)? }, time))
    }
}
