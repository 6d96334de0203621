//! Rows one after the other, in and out.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::line_of;
use crate::atomic::AtomicFile;
use crate::error::{Result, StoreError, mebibytes};
use crate::input;

/// Longest line that is read.
const MAX_LINE: u64 = 256 << 20;

/// Reads a file row by row. Empty lines are passed over; a line that is not a row is an error that
/// names file and line, after which there are no more rows.
///
/// # Errors
/// When the file cannot be opened.
pub fn rows<T: DeserializeOwned>(path: &Path) -> Result<Rows<T>> {
    Ok(Rows {
        path: path.to_owned(),
        reader: Some(BufReader::with_capacity(1 << 16, input::open(path)?)),
        line: Vec::new(),
        number: 0,
        row: PhantomData,
    })
}

/// The rows of a file; one is in memory at a time. See [`rows`].
#[derive(Debug)]
pub struct Rows<T> {
    path: PathBuf,
    /// None after the end or an error.
    reader: Option<BufReader<File>>,
    line: Vec<u8>,
    number: usize,
    row: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Rows<T> {
    /// The number of the line that the last row stands in, from 1.
    pub fn line(&self) -> usize {
        self.number
    }

    /// An error about that line.
    pub fn bad(&self, message: impl Into<String>) -> StoreError {
        StoreError::BadLine { path: self.path.clone(), line: self.number, message: message.into() }
    }

    /// The next row; none at the end.
    fn step(&mut self) -> Result<Option<T>> {
        loop {
            let Some(reader) = &mut self.reader else { return Ok(None) };
            self.line.clear();
            let read = reader.take(MAX_LINE + 1).read_until(b'\n', &mut self.line);
            let read = read.map_err(StoreError::io("read", &self.path))?;
            if read == 0 {
                self.reader = None;
                return Ok(None);
            }
            self.number += 1;
            if read as u64 > MAX_LINE {
                return Err(self.bad(format!(
                    "it is longer than {}: expected one JSON object a line",
                    mebibytes(MAX_LINE)
                )));
            }
            let mut line = self.line.trim_ascii_end();
            if self.number == 1 {
                line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
            }
            if !line.is_empty() {
                // serde_json counts lines within the line: only the column helps.
                let wrong = |e: serde_json::Error| {
                    self.bad(e.to_string().replace(" at line 1 column", " at column"))
                };
                return serde_json::from_slice(line).map(Some).map_err(wrong);
            }
        }
    }
}

impl<T: DeserializeOwned> Iterator for Rows<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.step();
        if row.is_err() {
            self.reader = None;
        }
        row.transpose()
    }
}

/// Writes rows as they come; the file appears whole at [`Writer::commit`], or not at all.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: AtomicFile,
}

impl Writer {
    /// Begins a file; its folder must exist.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), file: AtomicFile::create(path)? })
    }

    /// Adds a row.
    pub fn put<T: Serialize>(&mut self, row: &T) -> Result<()> {
        self.file.put(&line_of(&self.path, row)?)
    }

    /// Flushes the rows and gives the file its name.
    pub fn commit(self) -> Result<()> {
        self.file.commit()
    }
}
