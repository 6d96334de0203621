//! A tensor whose rows come one after the other: a safetensors file that is written in place.
//!
//! The file has its header and its full length from the beginning, so a row is one write at a known
//! place, and nothing is put together at the end. A row that was flushed ([`RowWriter::sync`]) outlives
//! a kill and a power cut; what was never written reads as zeros. The unfinished file of
//! `latents.safetensors` is `.latents.partial` beside it, and [`RowWriter::finish`] gives it its name.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::atomic::{parent_of, sync_dir};
use crate::error::{Result, StoreError};
use crate::tensors::head;

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
}

impl RowWriter {
    /// Opens the unfinished file of a tensor of 32-bit numbers, or begins it. A file of another tensor
    /// or shape is begun anew; a finished one is taken up again.
    pub fn open(target: &Path, name: &str, shape: &[usize]) -> Result<Self> {
        let stem = target.file_stem().unwrap_or_default().to_string_lossy();
        let path = &target.with_file_name(format!(".{stem}.partial"));
        if target.exists() && !path.exists() {
            fs::rename(target, path).map_err(StoreError::io("continue", target))?;
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
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.file.write_all(&bytes).map_err(StoreError::io("write", &self.path))
    }

    /// Whether a row holds finite numbers that are not all zero, which only rows that were never written
    /// are.
    pub fn has(&mut self, row: usize) -> Result<bool> {
        self.seek("read", row, self.values)?;
        let mut bytes = vec![0; 4 * self.values];
        self.file.read_exact(&mut bytes).map_err(StoreError::io("read", &self.path))?;
        let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        let mut written = false;
        for value in values {
            if !value.is_finite() {
                return Ok(false);
            }
            written |= value != 0.0;
        }
        Ok(written)
    }

    /// Flushes to the device what was written.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(StoreError::io("flush", &self.path))
    }

    /// Flushes the file and gives it its name.
    pub fn finish(self) -> Result<()> {
        let Self { target, path, file, .. } = self;
        file.sync_all().map_err(StoreError::io("flush", &path))?;
        drop(file);
        fs::rename(&path, &target).map_err(StoreError::io("write", &target))?;
        sync_dir(parent_of(&target))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tensors::{self, Dtype, TensorReader};

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
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
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
}
