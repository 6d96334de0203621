//! The zip container of `torch.save`. Only entries that are stored as they are can be read; TorchScript
//! programs hold compressed ones too.
//!
//! Source: PKWARE APPNOTE 6.3, sections 4.3.7, 4.3.12, 4.3.14, 4.3.16 and 4.5.3 (zip64).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// Largest directory accepted: a checkpoint has some thousand entries of less than 200 bytes.
const MAX_DIRECTORY_BYTES: u64 = 1 << 24;

/// Why an archive cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The system refused.
    Io(std::io::Error),
    /// The content is wrong.
    Content(String),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Fault::Io(error)
    }
}

fn wrong<T>(message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Content(message.into()))
}

/// One stored entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    header: u64,
    /// Bytes that it takes.
    pub(super) size: u64,
    crc: u32,
    /// Whether it is there as it is, neither compressed nor encrypted.
    stored: bool,
}

/// Little-endian number of `N` bytes at `at`, 0 where the bytes end (lengths are checked before).
fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let part = bytes.get(at..at + N).unwrap_or(&[]);
    part.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn block(file: &mut File, at: u64, size: usize) -> Result<Vec<u8>, Fault> {
    let mut bytes = vec![0u8; size];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Entries by name.
pub(super) fn directory(file: &mut File, length: u64) -> Result<BTreeMap<String, Entry>, Fault> {
    const CUT: &str =
        "its zip directory is missing: the file is truncated or damaged; download it again";
    let tail_size = length.min(22 + 0xffff);
    let tail = block(file, length - tail_size, tail_size as usize)?;
    let Some(end) = tail.windows(4).rposition(|w| w == b"PK\x05\x06") else { return wrong(CUT) };
    if tail.len() - end < 22 {
        return wrong(CUT);
    }
    let end_at = length - tail_size + end as u64;
    let mut count = number::<2>(&tail, end + 10);
    let mut size = number::<4>(&tail, end + 12);
    let mut start = number::<4>(&tail, end + 16);
    // A locator in front of the end record points to the 64-bit end record.
    if let Some(at) = end_at.checked_sub(20) {
        let locator = block(file, at, 20)?;
        if locator.starts_with(b"PK\x06\x07") {
            let at = number::<8>(&locator, 8);
            if at.checked_add(56).is_none_or(|e| e > length) {
                return wrong(CUT);
            }
            let record = block(file, at, 56)?;
            if !record.starts_with(b"PK\x06\x06") {
                return wrong(CUT);
            }
            (count, size, start) =
                (number::<8>(&record, 32), number::<8>(&record, 40), number::<8>(&record, 48));
        }
    }
    if start.checked_add(size).is_none_or(|e| e > end_at) || size > MAX_DIRECTORY_BYTES {
        return wrong("its zip directory lies outside the file: it is damaged; download it again");
    }
    let bytes = block(file, start, size as usize)?;
    let mut entries = BTreeMap::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let [name, extra, comment] = [28, 30, 32].map(|at| number::<2>(rest, at) as usize);
        let whole = 46 + name + extra + comment;
        if !rest.starts_with(b"PK\x01\x02") || rest.len() < whole {
            return wrong("its zip directory is damaged; download it again");
        }
        let title = String::from_utf8_lossy(&rest[46..46 + name]).into_owned();
        let entry = entry(rest, &rest[46 + name..46 + name + extra], &title)?;
        if entry.header.checked_add(entry.size).is_none_or(|e| e > start) {
            return wrong(format!("entry `{title}` lies outside the file: it is damaged"));
        }
        if entries.insert(title.clone(), entry).is_some() {
            return wrong(format!("entry `{title}` occurs twice"));
        }
        rest = &rest[whole..];
    }
    if entries.len() as u64 != count {
        return wrong(format!("its zip directory has {} entries, {count} expected", entries.len()));
    }
    Ok(entries)
}

/// An entry from its record in the directory.
fn entry(record: &[u8], mut extra: &[u8], title: &str) -> Result<Entry, Fault> {
    let [flags, method] = [8, 10].map(|at| number::<2>(record, at));
    let crc = number::<4>(record, 16) as u32;
    let mut packed = number::<4>(record, 20);
    let mut size = number::<4>(record, 24);
    let mut header = number::<4>(record, 42);
    while extra.len() >= 4 {
        let (tag, bytes) = (number::<2>(extra, 0), number::<2>(extra, 2) as usize);
        let Some(body) = extra.get(4..4 + bytes) else { break };
        if tag == 1 {
            let mut at = 0;
            for field in [&mut size, &mut packed, &mut header] {
                if *field == 0xffff_ffff && at + 8 <= body.len() {
                    *field = number::<8>(body, at);
                    at += 8;
                }
            }
        }
        extra = &extra[4 + bytes..];
    }
    let stored = method == 0 && flags & 1 == 0;
    if stored && packed != size {
        return wrong(format!("entry `{title}` has two sizes, {packed} and {size}: it is damaged"));
    }
    Ok(Entry { header, size: packed, crc, stored })
}

/// Where the content of an entry starts.
pub(super) fn start(
    file: &mut File,
    length: u64,
    entry: &Entry,
    title: &str,
) -> Result<u64, Fault> {
    if !entry.stored {
        return wrong(format!(
            "entry `{title}` is compressed or encrypted: torch.save stores entries as they are; load and save the file with PyTorch"
        ));
    }
    let damaged = || format!("entry `{title}` is damaged: its header does not fit the directory");
    if entry.header.checked_add(30).is_none_or(|e| e > length) {
        return wrong(damaged());
    }
    let local = block(file, entry.header, 30)?;
    let start = entry.header + 30 + number::<2>(&local, 26) + number::<2>(&local, 28);
    if !local.starts_with(b"PK\x03\x04") || start.checked_add(entry.size).is_none_or(|e| e > length)
    {
        return wrong(damaged());
    }
    Ok(start)
}

/// Reads the bytes `from..to` of an entry's content. With `check` the whole content is read once and
/// compared with its checksum; only the bytes asked for are kept.
pub(super) fn read(
    file: &mut File,
    start: u64,
    entry: &Entry,
    title: &str,
    (from, to): (u64, u64),
    check: bool,
) -> Result<Vec<u8>, Fault> {
    let bytes = block(file, start + from, (to - from) as usize)?;
    if check {
        let mut sum = crc32fast::Hasher::new();
        let mut part = vec![0u8; 1 << 16];
        let content = file;
        content.seek(SeekFrom::Start(start))?;
        let mut left = entry.size;
        while left > 0 {
            let now = left.min(part.len() as u64) as usize;
            content.read_exact(&mut part[..now])?;
            sum.update(&part[..now]);
            left -= now as u64;
        }
        if sum.finalize() != entry.crc {
            return wrong(format!(
                "entry `{title}` does not have its checksum: the file is damaged; download it again"
            ));
        }
    }
    Ok(bytes)
}
