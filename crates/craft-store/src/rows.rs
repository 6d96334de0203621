//! A tensor whose rows come one after the other: a safetensors file that is written in place.
//!
//! The file has its header and its full length from the beginning, so a row is one write at a known
//! place, and nothing is put together at the end. A row that was flushed ([`RowWriter::sync`]) outlives
//! a kill and a power cut; what was never written reads as zeros. The unfinished file of
//! `latents.safetensors` is `.latents.partial` beside it, and [`RowWriter::finish`] gives it its name.
//!
//! Beside it lies `latents.sha256`, a line for each row: SHA-256 of its bytes. So a row that is read
//! ([`RowReader`]) is known to be the one that was written, without the rest of the file.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::atomic::{self, AtomicFile, parent_of, sync_dir};
use crate::error::{Result, StoreError};
use crate::hash::hex;
use crate::input;
use crate::tensors::{TensorReader, head};

/// An unfinished file of one tensor.
#[derive(Debug)]
pub struct RowWriter {
    target: PathBuf,
    path: PathBuf,
    file: File,
    /// Where the first row begins.
    start: u64,
    rows: usize,
    /// Values of a row.
    values: usize,
    resumed: bool,
    /// Digests of the rows that were written or looked at.
    sums: Vec<Option<[u8; 32]>>,
}

/// Bytes of a line of the file of digests.
const LINE: u64 = 65;

/// Where the digests of a file's rows lie.
fn sums_path(target: &Path) -> PathBuf {
    target.with_extension("sha256")
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Whether values are finite and not all zero, which only rows that were never written are.
fn written(values: impl Iterator<Item = f32>) -> bool {
    let mut written = false;
    for value in values {
        if !value.is_finite() {
            return false;
        }
        written |= value != 0.0;
    }
    written
}

impl RowWriter {
    /// Opens the unfinished file of a tensor of 32-bit numbers, or begins it. A file of another tensor
    /// or shape is begun anew; a finished one is taken up again.
    pub fn open(target: &Path, name: &str, shape: &[usize]) -> Result<Self> {
        let stem = target.file_stem().unwrap_or_default().to_string_lossy();
        let path = &target.with_file_name(format!(".{stem}.partial"));
        if target.exists() && !path.exists() {
            atomic::rename(target, path, "continue")?;
        }
        let write = || StoreError::io("write", path);
        let entry = (name, shape, safetensors::Dtype::F32);
        let head = head(path, std::iter::once(entry), &BTreeMap::new())?;
        let rows = shape.first().copied().unwrap_or(0);
        let values = shape.iter().skip(1).product::<usize>();
        let length = (head.len() + 4 * rows * values) as u64;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(write())?;
        let mut found = vec![0; head.len()];
        let resumed = file.metadata().is_ok_and(|meta| meta.len() == length)
            && file.read_exact(&mut found).is_ok()
            && found == head;
        if !resumed {
            file.set_len(0).map_err(write())?;
            file.set_len(length).map_err(write())?;
            file.seek(SeekFrom::Start(0)).map_err(write())?;
            file.write_all(&head).map_err(write())?;
            file.sync_all().map_err(StoreError::io("flush", path))?;
            sync_dir(parent_of(path))?;
        }
        let start = head.len() as u64;
        Ok(Self {
            target: target.to_owned(),
            path: path.clone(),
            file,
            start,
            rows,
            values,
            resumed,
            sums: vec![None; rows],
        })
    }

    /// Whether the file was there, with rows that may have been written before.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    fn seek(&mut self, action: &'static str, row: usize, values: usize) -> Result<()> {
        if row >= self.rows || values != self.values {
            let message = format!(
                "row {row} of {values} values does not fit a tensor of {} rows of {}",
                self.rows, self.values
            );
            return Err(StoreError::bad(&self.path, message));
        }
        let place = self.start + 4 * (row as u64) * (self.values as u64);
        self.file
            .seek(SeekFrom::Start(place))
            .map(|_| ())
            .map_err(StoreError::io(action, &self.path))
    }

    /// Writes a row.
    pub fn put(&mut self, row: usize, values: &[f32]) -> Result<()> {
        self.seek("write", row, values.len())?;
        let bytes = bytes_of(values);
        self.sums[row] = None;
        self.file.write_all(&bytes).map_err(StoreError::io("write", &self.path))?;
        self.sums[row] = Some(Sha256::digest(&bytes).into());
        Ok(())
    }

    /// Whether a row holds finite numbers that are not all zero, which only rows that were never written
    /// are.
    pub fn has(&mut self, row: usize) -> Result<bool> {
        let bytes = self.bytes(row)?;
        let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        let has = written(values);
        self.sums[row] = has.then(|| Sha256::digest(&bytes).into());
        Ok(has)
    }

    fn bytes(&mut self, row: usize) -> Result<Vec<u8>> {
        self.seek("read", row, self.values)?;
        let mut bytes = vec![0; 4 * self.values];
        self.file.read_exact(&mut bytes).map_err(StoreError::io("read", &self.path))?;
        Ok(bytes)
    }

    /// Number of rows of the tensor.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether every row was written, or found by [`RowWriter::has`], since the file was opened.
    pub fn complete(&self) -> bool {
        self.sums.iter().all(Option::is_some)
    }

    /// Flushes to the device what was written.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(StoreError::io("flush", &self.path))
    }

    /// Flushes the file, writes the digests of its rows, and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        self.file.sync_all().map_err(StoreError::io("flush", &self.path))?;
        let mut sums = AtomicFile::create(&sums_path(&self.target))?;
        for row in 0..self.rows {
            let sum = match self.sums[row] {
                Some(sum) => sum,
                None => Sha256::digest(self.bytes(row)?).into(),
            };
            sums.put(format!("{}\n", hex(&sum)).as_bytes())?;
        }
        sums.commit()?;
        let Self { target, path, file, .. } = self;
        drop(file);
        atomic::rename(&path, &target, "write")?;
        sync_dir(parent_of(&target))
    }
}

/// Reads single rows of a finished file, and compares them with their digests.
#[derive(Debug)]
pub struct RowReader {
    reader: TensorReader,
    path: PathBuf,
    name: String,
    rows: usize,
    /// The file of digests, where there is one.
    sums: Option<File>,
}

impl RowReader {
    /// Opens the tensor `name` of a file.
    ///
    /// # Errors
    /// When the file or its digests are damaged, or it has no such tensor.
    pub fn open(path: &Path, name: &str) -> Result<Self> {
        let reader = TensorReader::open(path)?;
        let Some(shape) = reader.shape(name) else {
            return Err(StoreError::bad(
                path,
                format!("tensor `{name}`: the file does not have it"),
            ));
        };
        let rows = shape.first().copied().unwrap_or(0);
        let sums = sums_path(path);
        let sums = match sums.exists() {
            false => None,
            true => {
                let file = input::open(&sums)?;
                let length = file.metadata().map_err(StoreError::io("read", &sums))?.len();
                if length != LINE * rows as u64 {
                    let message = format!(
                        "it has {length} bytes, expected a line of {LINE} for each of the {rows} rows of {}: put it back from a copy, or remove the stage's folder and run the same command as before",
                        path.display()
                    );
                    return Err(StoreError::bad(&sums, message));
                }
                Some(file)
            }
        };
        Ok(Self { reader, path: path.to_owned(), name: name.to_owned(), rows, sums })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether a row is one that was written: finite, not all zero, and as its digest says.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn has(&mut self, row: usize) -> Result<bool> {
        match self.read(row) {
            Ok(values) => Ok(written(values.into_iter())),
            Err(StoreError::BadFile { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads a row.
    ///
    /// # Errors
    /// When there is none of that number, or it is not as it was written; names file and row.
    pub fn read(&mut self, row: usize) -> Result<Vec<f32>> {
        let values = self.reader.read_row(&self.name, row)?;
        let Some(sums) = &mut self.sums else { return Ok(values) };
        let mut line = [0; LINE as usize];
        sums.seek(SeekFrom::Start(LINE * row as u64))
            .and_then(|_| sums.read_exact(&mut line))
            .map_err(StoreError::io("read", &sums_path(&self.path)))?;
        if line[..LINE as usize - 1] != *hex(&Sha256::digest(bytes_of(&values))).as_bytes() {
            return Err(StoreError::bad(
                &self.path,
                format!(
                    "tensor `{}`, row {row}: it was changed or damaged after it had been written (its SHA-256 is another one than in {}); put the file back from a copy, or remove it and run the same command as before, which draws it again",
                    self.name,
                    sums_path(&self.path).display()
                ),
            ));
        }
        Ok(values)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tensors::{self, Dtype};

    const SHAPE: [usize; 3] = [4, 2, 3];

    fn row(i: usize) -> Vec<f32> {
        (0..6).map(|j| (10 * i + j) as f32 / 7.0 - 1.0).collect()
    }

    /// Rows in any order, over several openings, give the bytes of a file that is written at once.
    #[test]
    fn rows_make_the_file_that_is_written_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("x.safetensors");
        let mut rows = RowWriter::open(&whole, "latents", &SHAPE).unwrap();
        assert!(!rows.resumed());
        rows.put(2, &row(2)).unwrap();
        rows.put(0, &row(0)).unwrap();
        drop(rows);
        assert!(!whole.exists() && dir.path().join(".x.partial").exists());
        let mut rows = RowWriter::open(&whole, "latents", &SHAPE).unwrap();
        assert!(rows.resumed());
        let has: Vec<bool> = (0..4).map(|i| rows.has(i).unwrap()).collect();
        assert_eq!(has, [true, false, true, false]);
        assert!(rows.put(4, &row(4)).is_err() && rows.put(1, &[0.0]).is_err());
        rows.put(1, &row(1)).unwrap();
        rows.put(3, &row(3)).unwrap();
        rows.sync().unwrap();
        rows.finish().unwrap();
        // What is finished is taken up again as it is.
        let mut rows = RowWriter::open(&whole, "latents", &SHAPE).unwrap();
        assert!(rows.resumed() && rows.has(3).unwrap() && !whole.exists());
        rows.finish().unwrap();
        let names: Vec<_> = atomic::list(dir.path())
            .unwrap()
            .iter()
            .map(|p| p.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["x.safetensors", "x.sha256"]);
        let all: Vec<f32> = (0..4).flat_map(row).collect();
        let other = dir.path().join("other");
        let tensor = ("latents", SHAPE.as_slice(), all.as_slice());
        tensors::write(&other, &[tensor], Dtype::F32, &BTreeMap::new()).unwrap();
        assert_eq!(fs::read(&whole).unwrap(), fs::read(&other).unwrap());
        let mut reader = TensorReader::open(&whole).unwrap();
        assert_eq!(reader.read_row("latents", 3).unwrap(), row(3));
        assert!(reader.read_row("latents", 4).is_err() && reader.read_row("no", 0).is_err());
    }

    #[test]
    fn another_shape_or_a_damaged_header_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (target, path) = (dir.path().join("x"), dir.path().join(".x.partial"));
        let mut rows = RowWriter::open(&target, "latents", &SHAPE).unwrap();
        rows.put(1, &row(1)).unwrap();
        drop(rows);
        let other = RowWriter::open(&target, "latents", &[5, 2, 3]).unwrap();
        assert!(!other.resumed());
        drop(other);
        let mut bytes = fs::read(&path).unwrap();
        bytes[12] ^= 1;
        fs::write(&path, bytes).unwrap();
        let mut rows = RowWriter::open(&target, "latents", &[5, 2, 3]).unwrap();
        assert!(!rows.resumed() && !rows.has(1).unwrap());
        rows.put(0, &[f32::NAN; 6]).unwrap();
        assert!(!rows.has(0).unwrap());
    }

    #[test]
    fn a_damaged_row_is_named_when_it_is_read_and_others_are_read_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let mut rows = RowWriter::open(&path, "latents", &SHAPE).unwrap();
        (0..4).for_each(|i| rows.put(i, &row(i)).unwrap());
        assert!(rows.complete());
        rows.finish().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        let mut reader = RowReader::open(&path, "latents").unwrap();
        assert_eq!((reader.rows(), reader.read(2).unwrap()), (4, row(2)));
        assert_eq!((reader.has(2).unwrap(), reader.has(3).unwrap()), (true, false));
        let message = reader.read(3).unwrap_err().to_string();
        for word in ["x.safetensors: tensor `latents`, row 3", "x.sha256", "put the file back"] {
            assert!(message.contains(word), "{message}");
        }
        assert!(reader.read(4).is_err() && RowReader::open(&path, "no").is_err());
        // Digests that were not looked at are those of the rows all the same.
        let before = fs::read(sums_path(&path)).unwrap();
        fs::remove_file(sums_path(&path)).unwrap();
        RowWriter::open(&path, "latents", &SHAPE).unwrap().finish().unwrap();
        assert_eq!(fs::read(sums_path(&path)).unwrap()[..195], before[..195]);
        fs::write(sums_path(&path), "x").unwrap();
        assert!(RowReader::open(&path, "latents").unwrap_err().to_string().contains("x.sha256"));
    }
}
