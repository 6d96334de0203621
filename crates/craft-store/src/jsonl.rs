//! JSON lines: one object a line, UTF-8.
//!
//! A file that is appended to while a stage runs may end in half a line when the process is
//! killed. [`read_resumable`] cuts that half off and says so; [`read`] takes files as they are
//! and refuses it.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::atomic;
use crate::error::{Result, StoreError};
use crate::faults::{self, Change};

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
    let bytes = fs::read(path).map_err(StoreError::io("read", path))?;
    parse(path, &bytes)
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<Vec<T>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut rows = Vec::new();
    for (i, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let row = serde_json::from_slice(line).map_err(|e| StoreError::BadLine {
            path: path.to_owned(),
            line: i + 1,
            // serde_json counts lines within the line: only the column helps.
            message: e.to_string().replace(" at line 1 column", " at column"),
        })?;
        rows.push(row);
    }
    Ok(rows)
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

/// Reads the rows of a file that is being appended to; a missing file has none.
///
/// A last line without a line end is kept if it is a whole row, and gets its line end; otherwise
/// it is cut off the file. Earlier lines that are not rows are errors.
pub fn read_resumable<T: DeserializeOwned>(path: &Path) -> Result<Resumed<T>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        result => result.map_err(StoreError::io("read", path))?,
    };
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut rows = parse(path, &bytes[..whole])?;
    let tail = &bytes[whole..];
    if tail.is_empty() {
        return Ok(Resumed { rows, torn: None });
    }
    let fail = StoreError::io("mend", path);
    if let Ok(row) = serde_json::from_slice(tail) {
        rows.push(row);
        let file = OpenOptions::new().append(true).open(path);
        file.and_then(|file| faults::write(&file, b"\n", path)).map_err(fail)?;
        return Ok(Resumed { rows, torn: None });
    }
    faults::before(Change::Write, path)
        .and_then(|()| OpenOptions::new().write(true).open(path)?.set_len(whole as u64))
        .map_err(fail)?;
    let torn = TornLine {
        line: bytes[..whole].iter().filter(|byte| **byte == b'\n').count() + 1,
        bytes: tail.len(),
    };
    tracing::warn!(
        "{}, line {}: cut off {} bytes of a line that was not finished",
        path.display(),
        torn.line,
        torn.bytes
    );
    Ok(Resumed { rows, torn: Some(torn) })
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
    let mut file = atomic::AtomicFile::create(path)?;
    for row in rows {
        file.put(&line_of(path, &row)?)?;
    }
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
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Row {
        id: String,
        x: f64,
    }

    fn rows(n: usize) -> Vec<Row> {
        (0..n).map(|i| Row { id: format!("ä{i}"), x: i as f64 / 3.0 }).collect()
    }

    #[test]
    fn rows_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        write(&path, rows(5)).unwrap();
        assert_eq!(read::<Row>(&path).unwrap(), rows(5));
        let mut appender = Appender::open(&path).unwrap();
        appender.append(&Row { id: "last".into(), x: 1e-300 }).unwrap();
        appender.sync().unwrap();
        assert_eq!(read::<Row>(&path).unwrap().len(), 6);
    }

    /// A file cut at any byte keeps its whole rows and can be appended to.
    #[test]
    fn a_torn_last_line_is_cut_off_wherever_it_tears() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        write(&path, rows(3)).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let resumed = read_resumable::<Row>(&path).unwrap();
            let kept = resumed.rows.len();
            assert_eq!(resumed.rows, rows(3)[..kept]);
            let complete = whole[..cut].iter().filter(|b| **b == b'\n').count();
            assert!(kept == complete || kept == complete + 1);
            if let Some(torn) = &resumed.torn {
                assert_eq!((torn.line, kept), (complete + 1, complete));
            }
            let mut appender = Appender::open(&path).unwrap();
            for row in &rows(3)[kept..] {
                appender.append(row).unwrap();
            }
            assert_eq!(fs::read(&path).unwrap(), whole, "cut at {cut}");
        }
        assert_eq!(read_resumable::<Row>(&dir.path().join("no")).unwrap().rows, []);
    }

    #[test]
    fn bad_lines_have_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        fs::write(
            &path,
            "\u{feff}{\"id\":\"a\",\"x\":1}\r\n\n{\"id\":\"a\"}\n{\"id\":\"b\",\"x\":2}\n",
        )
        .unwrap();
        let error = read::<Row>(&path).unwrap_err();
        assert!(error.is_bad_input());
        let message = error.to_string();
        assert!(message.contains("a.jsonl, line 3: missing field `x`"), "{message}");
        assert!(read_resumable::<Row>(&path).is_err());
        let message = read::<Row>(&dir.path().join("no.jsonl")).unwrap_err().to_string();
        assert!(message.contains("no.jsonl"), "{message}");
    }
}
