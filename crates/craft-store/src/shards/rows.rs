//! Latents in either layout behind one interface.

use std::path::{Path, PathBuf};

use super::{Layout, names};
use crate::atomic;
use crate::error::{Result, StoreError};
use crate::rows::{RowReader, RowWriter};

/// Where the shards of a file lie: `latents/` for `latents.safetensors`.
fn root(file: &Path) -> PathBuf {
    file.with_extension("")
}

/// The rows of a tensor that lies in one file or in shards. One row is in memory at a time.
#[derive(Debug)]
pub struct RowStore {
    files: Vec<PathBuf>,
    name: String,
    /// Rows of each shard but the last.
    size: usize,
    /// The file that was read last.
    open: Option<(usize, RowReader)>,
}

impl RowStore {
    /// Opens `file`, or, where there is none, the shards in the folder of its name without the
    /// extension.
    ///
    /// # Errors
    /// When there is neither, or one is damaged.
    pub fn open(file: &Path, name: &str) -> Result<Self> {
        let mut files = vec![file.to_owned()];
        if !file.exists() {
            let shards = names::list(&root(file), "safetensors")?;
            if !shards.is_empty() {
                files = shards;
            }
        }
        let first = RowReader::open(&files[0], name)?;
        let size = first.rows().max(1);
        Ok(Self { files, name: name.to_owned(), size, open: Some((0, first)) })
    }

    /// Reads a row, and compares it with its digest where the writer left one.
    ///
    /// # Errors
    /// When there is no such row, or it is not as it was written; names file and row.
    pub fn read(&mut self, row: usize) -> Result<Vec<f32>> {
        let shard = if self.files.len() == 1 { 0 } else { row / self.size };
        let Some(path) = self.files.get(shard) else {
            let message = format!(
                "row {row} would be in the shard after this one, which is not there: put the shards back from a copy, or remove the stage's folder and run the same command as before"
            );
            return Err(StoreError::bad(&self.files[self.files.len() - 1], message));
        };
        let reader = match &mut self.open {
            Some((number, reader)) if *number == shard => reader,
            open => &mut open.insert((shard, RowReader::open(path, &self.name)?)).1,
        };
        reader.read(row - shard * self.size)
    }
}

/// Writes the rows of a tensor in one file or in shards. A row that was flushed outlives a kill.
#[derive(Debug)]
pub struct RowsWriter {
    target: PathBuf,
    name: String,
    shape: Vec<usize>,
    size: usize,
    sharded: bool,
    /// Shards at work, with the number of each.
    open: Vec<(usize, Shard)>,
}

/// A shard that was asked about.
#[derive(Debug)]
enum Shard {
    Finished(RowReader),
    Writing(RowWriter),
}

impl Shard {
    fn has(&mut self, row: usize) -> Result<bool> {
        match self {
            Self::Finished(reader) => reader.has(row),
            Self::Writing(writer) => writer.has(row),
        }
    }

    fn sync(&mut self) -> Result<()> {
        match self {
            Self::Finished(_) => Ok(()),
            Self::Writing(writer) => writer.sync(),
        }
    }

    /// Gives it its name if every row of it is known to be there; otherwise only flushes it.
    fn close(self) -> Result<()> {
        match self {
            Self::Writing(writer) if writer.complete() => writer.finish(),
            mut other => other.sync(),
        }
    }
}

/// Shards that are open at a time: a batch may lie across two.
const OPEN: usize = 2;

impl RowsWriter {
    /// Begins or goes on with the tensor `name` of 32-bit numbers that is to be `target`, or shards in the
    /// folder of its name without the extension. `shape` is that of the whole tensor.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(target: &Path, name: &str, shape: &[usize], layout: Layout) -> Result<Self> {
        let count = shape.first().copied().unwrap_or(0);
        let (size, sharded) = match layout {
            Layout::Files => (count.max(1), false),
            Layout::Shards(size) => (size.max(1), true),
        };
        let mut writer = Self {
            target: target.to_owned(),
            name: name.to_owned(),
            shape: shape.to_vec(),
            size,
            sharded,
            open: Vec::new(),
        };
        if !sharded {
            writer.shard(0)?;
        }
        Ok(writer)
    }

    fn count(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    fn path(&self, shard: usize) -> PathBuf {
        match self.sharded {
            true => names::path(&root(&self.target), shard, "safetensors"),
            false => self.target.clone(),
        }
    }

    /// Number of rows of a shard.
    fn rows(&self, number: usize) -> usize {
        self.count().saturating_sub(number * self.size).min(self.size)
    }

    fn writer(&self, number: usize) -> Result<RowWriter> {
        let path = self.path(number);
        atomic::create_dir(atomic::parent_of(&path))?;
        let mut shape = self.shape.clone();
        if let Some(rows) = shape.first_mut() {
            *rows = self.rows(number);
        }
        RowWriter::open(&path, &self.name, &shape)
    }

    /// Place of a shard among the open ones; those that were used before are closed, and finished if
    /// they are complete.
    fn shard(&mut self, number: usize) -> Result<usize> {
        if let Some(at) = self.open.iter().position(|(open, _)| *open == number) {
            return Ok(at);
        }
        while self.open.len() >= OPEN {
            self.open.remove(0).1.close()?;
        }
        // One file is taken up again as a whole; a shard only where something of it is missing.
        let path = self.path(number);
        let finished = self.sharded && path.exists();
        let shard = match finished.then(|| RowReader::open(&path, &self.name)) {
            Some(Ok(reader)) if reader.rows() == self.rows(number) => Shard::Finished(reader),
            _ => Shard::Writing(self.writer(number)?),
        };
        self.open.push((number, shard));
        Ok(self.open.len() - 1)
    }

    /// Shard of a row, and its row there.
    fn place(&self, row: usize) -> Result<(usize, usize)> {
        if row >= self.count() {
            let message = format!("row {row} does not fit a tensor of {} rows", self.count());
            return Err(StoreError::bad(&self.target, message));
        }
        Ok((row / self.size, row % self.size))
    }

    /// Writes a row.
    ///
    /// # Errors
    /// When it does not fit or the disk refuses.
    pub fn put(&mut self, row: usize, values: &[f32]) -> Result<()> {
        let (number, row) = self.place(row)?;
        let at = self.shard(number)?;
        if let Shard::Finished(_) = self.open[at].1 {
            self.open[at].1 = Shard::Writing(self.writer(number)?);
        }
        match &mut self.open[at].1 {
            Shard::Writing(writer) => writer.put(row, values),
            Shard::Finished(_) => Ok(()),
        }
    }

    /// Whether a row was written; see [`RowWriter::has`].
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn has(&mut self, row: usize) -> Result<bool> {
        let (number, row) = self.place(row)?;
        let at = self.shard(number)?;
        self.open[at].1.has(row)
    }

    /// Flushes to the device what was written.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&mut self) -> Result<()> {
        self.open.iter_mut().try_for_each(|(_, shard)| shard.sync())
    }

    /// Flushes all shards and gives those their names that have none yet.
    ///
    /// # Errors
    /// When a row of a shard was never written, or the disk refuses.
    pub fn finish(mut self) -> Result<()> {
        for (_, shard) in std::mem::take(&mut self.open) {
            shard.close()?;
        }
        for number in 0..self.count().div_ceil(self.size) {
            if self.path(number).exists() {
                continue;
            }
            let mut shard = self.writer(number)?;
            for row in 0..shard.rows() {
                if !shard.has(row)? {
                    let row = number * self.size + row;
                    let message =
                        format!("row {row} was never written: run the same command again");
                    return Err(StoreError::bad(&self.path(number), message));
                }
            }
            shard.finish()?;
        }
        Ok(())
    }
}
