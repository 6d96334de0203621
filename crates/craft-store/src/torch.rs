//! Tensors in files of `torch.save` (`.bin`, `.pt`, `.pth`, `.ckpt`), without running anything.
//!
//! Such a file is a zip archive of a pickle and one raw entry per storage. The pickle is read by an
//! interpreter that only rebuilds tensors and keeps everything else as data; names that only harm could
//! want are refused. Data are checked against the archive's checksums and read tensor by tensor.
//!
//! Names: a top-level dict without tensors of its own that has an entry `state_dict`,
//! `model_state_dict`, `model` or `module` with tensors stands for that entry (the first of these
//! found); so states of optimizers are left out. Whatever is nested otherwise is joined by dots, the
//! members of lists by their index from 0. A pickled module has the names of its state dict. Values that
//! are not tensors are ignored.

mod archive;
mod global;
mod input;
mod names;
mod pickle;
mod rebuild;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::error::{Result, StoreError};
use crate::tensors::{Tensor, to_f32};
use archive::{Entry, Fault};
use names::names;
use pickle::Pickle;
use view::View;

/// Largest pickle accepted; that of a large checkpoint has less than 1 MiB.
const MAX_PICKLE_BYTES: u64 = 1 << 24;

/// An open file of `torch.save`, its pickle read and every view checked against its storage.
#[derive(Debug)]
pub struct TorchReader {
    path: PathBuf,
    file: File,
    length: u64,
    prefix: String,
    entries: BTreeMap<String, Entry>,
    tensors: BTreeMap<String, Rc<View>>,
    /// Storages whose checksum was compared.
    checked: BTreeSet<Rc<str>>,
}

impl TorchReader {
    /// Whether a file begins like a zip archive or like a pickle, and not like a safetensors file
    /// (whose ninth byte opens its header).
    pub fn is_torch(path: &Path) -> Result<bool> {
        let mut start = Vec::new();
        let file = crate::input::open(path)?;
        file.take(9).read_to_end(&mut start).map_err(StoreError::io("read", path))?;
        let pickle = start.len() > 1 && start[0] == 0x80 && start[1] < 6;
        Ok((start.starts_with(b"PK\x03\x04") || pickle) && start.get(8) != Some(&b'{'))
    }

    /// Opens a file.
    ///
    /// # Errors
    /// When it is not a zip file of `torch.save`, is truncated or damaged, or its pickle asks for
    /// something harmful.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = crate::input::open(path)?;
        let length = file.metadata().map_err(StoreError::io("read", path))?.len();
        let bad = |message: String| StoreError::bad(path, message);
        let mut start = [0u8; 4];
        if length < 22 || file.read_exact(&mut start).is_err() || start[..2] != *b"PK" {
            let legacy = start[0] == 0x80;
            return Err(bad(if legacy {
                "it is a pickle outside a zip archive, the format of PyTorch before 1.6, which is not read: load it with PyTorch and save it again, best as safetensors".to_owned()
            } else {
                "it is not a zip file of torch.save: it is truncated, damaged or of another format"
                    .to_owned()
            }));
        }
        let fault = |f| about(path, f);
        let entries = archive::directory(&mut file, length).map_err(fault)?;
        let found: Vec<&String> =
            entries.keys().filter(|n| *n == "data.pkl" || n.ends_with("/data.pkl")).collect();
        let [name] = found[..] else {
            return Err(bad(format!(
                "it is a zip file with {} entries data.pkl, but torch.save writes one",
                found.len()
            )));
        };
        let prefix = name.trim_end_matches("data.pkl").to_owned();
        if entries.contains_key(&format!("{prefix}constants.pkl")) {
            return Err(bad(
                "it is a TorchScript program (torch.jit.save), which is not read: load it with torch.jit.load and save its state_dict(), best as safetensors, or take the same model's safetensors".to_owned(),
            ));
        }
        let mut whole = |name: &str, most: u64| -> Result<Option<Vec<u8>>> {
            let Some(entry) = entries.get(name) else { return Ok(None) };
            if entry.size > most {
                return Err(bad(format!(
                    "entry `{name}` has {} bytes, at most {most} are possible",
                    entry.size
                )));
            }
            let start = archive::start(&mut file, length, entry, name).map_err(fault)?;
            archive::read(&mut file, start, entry, name, (0, entry.size), true)
                .map(Some)
                .map_err(fault)
        };
        if let Some(order) = whole(&format!("{prefix}byteorder"), 16)?
            && order != b"little"
        {
            return Err(bad(
                "its byte order is big-endian: save it on a little-endian machine".into()
            ));
        }
        let bytes = whole(name, MAX_PICKLE_BYTES)?.unwrap_or_default();
        let (pickle, top) = Pickle::run(&bytes).map_err(bad)?;
        let tensors = names(&pickle, top).map_err(bad)?;
        let mut claimed = 0u64;
        for (name, view) in &tensors {
            let key = format!("{prefix}data/{}", view.storage);
            let size = (view.dtype.bitsize() / 8) as u64;
            let need = view.stored.checked_mul(size);
            let have = entries.get(&key).map(|entry| entry.size);
            if have != need {
                let have = have.map_or("none".to_owned(), |n| n.to_string());
                return Err(bad(format!(
                    "tensor `{name}`: its storage `{key}` should have {} elements of {size} bytes, {have} bytes are there",
                    view.stored
                )));
            }
            claimed = claimed.saturating_add(view.count().unwrap_or(u64::MAX).saturating_mul(size));
        }
        if claimed > length.saturating_mul(4) {
            return Err(bad(format!(
                "its tensors together claim {claimed} bytes, the file has {length}: too many views of the same data"
            )));
        }
        let path = path.to_owned();
        Ok(Self { path, file, length, prefix, entries, tensors, checked: BTreeSet::new() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// Shape of a tensor, if the file has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    /// Number format of a tensor, such as `F16`, if the file has it.
    pub fn dtype(&self, name: &str) -> Option<String> {
        Some(format!("{:?}", self.format(name)?))
    }

    pub(crate) fn format(&self, name: &str) -> Option<safetensors::Dtype> {
        Some(self.tensors.get(name)?.dtype)
    }

    /// Reads one tensor as f32, by the rules of [`crate::TensorReader::read`]. The first read of a
    /// storage compares its checksum.
    pub fn read(&mut self, name: &str) -> Result<Tensor> {
        let (shape, dtype, bytes) = self.bytes(name)?;
        let data = to_f32(dtype, &bytes)
            .map_err(|m| StoreError::bad(&self.path, format!("tensor `{name}`: {m}")))?;
        Ok(Tensor { shape, data })
    }

    /// Shape, number format and bytes of a tensor, in row-major order.
    pub(crate) fn bytes(
        &mut self,
        name: &str,
    ) -> Result<(Vec<usize>, safetensors::Dtype, Vec<u8>)> {
        let wrong = |m: String| StoreError::bad(&self.path, format!("tensor `{name}`: {m}"));
        let Some(view) = self.tensors.get(name).cloned() else {
            return Err(wrong("the file does not have it".to_owned()));
        };
        let key = format!("{}data/{}", self.prefix, view.storage);
        let Some(entry) = self.entries.get(&key).copied() else {
            return Err(wrong(format!("its storage `{key}` is missing")));
        };
        let size = view.dtype.bitsize() / 8;
        let (from, to) = view.span().map_err(wrong)?;
        let span = (from * size as u64, to * size as u64);
        let check = !self.checked.contains(&view.storage);
        let bytes = archive::start(&mut self.file, self.length, &entry, &key)
            .and_then(|start| archive::read(&mut self.file, start, &entry, &key, span, check))
            .map_err(|f| about(&self.path, f))?;
        self.checked.insert(view.storage.clone());
        Ok((view.shape.clone(), view.dtype, view.gather(bytes, size)))
    }
}

fn about(path: &Path, fault: Fault) -> StoreError {
    match fault {
        Fault::Io(error) => StoreError::io("read", path)(error),
        Fault::Content(message) => StoreError::bad(path, message),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
