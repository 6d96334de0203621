//! JSON lines: one object a line, UTF-8.
//!
//! [`rows`] and [`Writer`] hold one row at a time, so that a file may be larger than the memory.
//!
//! A file that is appended to while a stage runs may end in half a line when the process is
//! killed. [`read_resumable`] cuts that half off and says so; [`read`] takes files as they are
//! and refuses it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Result, StoreError};
use crate::faults::{self, Change};
use crate::input;

mod stream;

pub use stream::{Rows, Writer, rows};

/// Half a line that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornLine {
    /// Which line it was, from 1.
    pub line: usize,
    /// How many bytes it had.
    pub bytes: usize,
}

/// Rows of a file whose writing was interrupted.
#[derive(Debug, Clone, PartialEq)]
pub struct Resumed<T> {
    /// The whole rows.
    pub rows: Vec<T>,
    /// What was cut off, if anything.
    pub torn: Option<TornLine>,
}

/// Reads all rows. Empty lines are skipped; a line that is not a row is an error with its number.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    rows(path)?.collect()
}

/// Calls with the number and the bytes of each line, its end included, one in memory at a time. Empty
/// lines are passed over; a missing file has none.
pub fn each_line<E: From<StoreError>>(
    path: &Path,
    mut take: impl FnMut(usize, &[u8]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let failed = || StoreError::io("read", path);
    let mut reader = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        result => BufReader::new(result.map_err(failed())?),
    };
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(failed())? == 0 {
            break;
        }
        if !line.trim_ascii().is_empty() {
            take(number, &line)?;
        }
    }
    Ok(())
}

/// Reads the rows of a file that is being appended to; a missing file has none. See [`mend`].
pub fn read_resumable<T: DeserializeOwned>(path: &Path) -> Result<Resumed<T>> {
    let torn = mend::<T>(path)?;
    let rows = if path.exists() { read(path)? } else { Vec::new() };
    Ok(Resumed { rows, torn })
}

/// Mends the end of a file that was being appended to, without holding the file; nothing is done to
/// a missing one. Says what was cut off.
///
/// A last line without a line end is kept if it is a whole row, and gets its line end; otherwise
/// it is cut off the file. Earlier lines that are not rows are left for their reader.
pub fn mend<T: DeserializeOwned>(path: &Path) -> Result<Option<TornLine>> {
    let (mut line, mut whole, mut tail) = (0, 0, Vec::new());
    if path.exists() {
        let mut reader = BufReader::new(input::open(path)?);
        loop {
            whole += tail.len() as u64;
            line += 1;
            tail.clear();
            reader.read_until(b'\n', &mut tail).map_err(StoreError::io("read", path))?;
            if tail.last() != Some(&b'\n') {
                break;
            }
        }
    }
    if tail.is_empty() {
        return Ok(None);
    }
    let fail = StoreError::io("mend", path);
    if serde_json::from_slice::<T>(&tail).is_ok() {
        let file = OpenOptions::new().append(true).open(path);
        file.and_then(|file| faults::write(&file, b"\n", path)).map_err(fail)?;
        return Ok(None);
    }
    faults::before(Change::Write, path)
        .and_then(|()| OpenOptions::new().write(true).open(path)?.set_len(whole))
        .map_err(fail)?;
    let torn = TornLine { line, bytes: tail.len() };
    tracing::warn!(
        "{}, line {}: cut off {} bytes of a line that was not finished",
        path.display(),
        torn.line,
        torn.bytes
    );
    Ok(Some(torn))
}

/// One row as a line with its line end.
fn line_of<T: Serialize>(path: &Path, row: &T) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(row)
        .map_err(|e| StoreError::bad(path, format!("a row cannot be written as JSON: {e}")))?;
    line.push(b'\n');
    Ok(line)
}

/// Writes all rows atomically.
pub fn write<T: Serialize>(path: &Path, rows: impl IntoIterator<Item = T>) -> Result<()> {
    let mut file = Writer::create(path)?;
    rows.into_iter().try_for_each(|row| file.put(&row))?;
    file.commit()
}

/// Appends rows to a file, each with one write, so that a kill tears at most the last line.
#[derive(Debug)]
pub struct Appender {
    path: PathBuf,
    file: File,
}

impl Appender {
    /// Opens a file for appending, making it if it is missing. Call [`read_resumable`] first if it
    /// may end in half a line.
    pub fn open(path: &Path) -> Result<Self> {
        let file = faults::before(Change::Create, path)
            .and_then(|()| OpenOptions::new().create(true).append(true).open(path))
            .map_err(StoreError::io("write", path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends a row.
    pub fn append<T: Serialize>(&mut self, row: &T) -> Result<()> {
        let line = line_of(&self.path, row)?;
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match faults::write(&self.file, rest, &self.path) {
                Ok(0) => {
                    return Err(StoreError::io("write", &self.path)(ErrorKind::WriteZero.into()));
                }
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io("write", &self.path)(error)),
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
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
