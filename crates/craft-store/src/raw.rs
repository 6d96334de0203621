//! Tensors as bytes: copied from file to file without a change of number format, one at a time.

use std::collections::BTreeMap;
use std::path::Path;

pub use safetensors::Dtype as Format;

use crate::atomic::AtomicFile;
use crate::error::{Result, StoreError};
use crate::tensors::{Tensor, TensorReader, check_finite, head, to_f32};
use crate::torch::TorchReader;
use crate::weights;

/// A tensor's bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its number format.
    pub format: Format,
    /// Its values, the last dimension fastest, little-endian.
    pub bytes: Vec<u8>,
}

impl Raw {
    /// The values as f32, by the rules of [`TensorReader::read`].
    ///
    /// # Errors
    /// The reason, for a number format that is not read.
    pub fn to_f32(&self) -> std::result::Result<Vec<f32>, String> {
        to_f32(self.format, &self.bytes)
    }
}

#[derive(Debug)]
enum Open {
    Safetensors(TensorReader),
    Torch(TorchReader),
}

/// Open weights: a safetensors file, a file of `torch.save`, or the shards of an index.
#[derive(Debug)]
pub struct RawReader {
    files: Vec<Open>,
    /// Which file has a tensor.
    place: BTreeMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

impl RawReader {
    /// Opens a file, or the shards of an index, and checks their headers.
    ///
    /// # Errors
    /// When a file is missing or damaged, or two shards have a tensor of one name.
    pub fn open(path: &Path) -> Result<Self> {
        let mut reader = Self { files: vec![], place: BTreeMap::new(), metadata: BTreeMap::new() };
        for file in weights::files(path)? {
            let open = if TorchReader::is_torch(&file)? {
                Open::Torch(TorchReader::open(&file)?)
            } else {
                let open = TensorReader::open(&file)?;
                reader.metadata.extend(open.metadata());
                Open::Safetensors(open)
            };
            let names = match &open {
                Open::Safetensors(open) => open.names(),
                Open::Torch(open) => open.names(),
            };
            for name in names {
                if reader.place.insert(name.clone(), reader.files.len()).is_some() {
                    let message = format!("tensor `{name}` is in two shards");
                    return Err(StoreError::bad(&file, message));
                }
            }
            reader.files.push(open);
        }
        Ok(reader)
    }

    /// Shapes by name.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let shape = |name: &String, place: &usize| {
            let shape = match &self.files[*place] {
                Open::Safetensors(file) => file.shape(name),
                Open::Torch(file) => file.shape(name),
            };
            (name.clone(), shape.unwrap_or_default().to_vec())
        };
        self.place.iter().map(|(name, place)| shape(name, place)).collect()
    }

    /// Number format of a tensor, if there is one of that name.
    pub fn format(&self, name: &str) -> Option<Format> {
        match &self.files[*self.place.get(name)?] {
            Open::Safetensors(file) => file.format(name),
            Open::Torch(file) => file.format(name),
        }
    }

    /// The free texts of the headers.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// When there is none of that name or it cannot be read.
    pub fn read(&mut self, name: &str) -> Result<Raw> {
        let place = self.place.get(name).copied().unwrap_or(0);
        let (shape, format, bytes) = match &mut self.files[place] {
            Open::Safetensors(file) => file.bytes(name)?,
            Open::Torch(file) => file.bytes(name)?,
        };
        Ok(Raw { shape, format, bytes })
    }
}

impl RawReader {
    /// Reads one tensor as f32 and refuses values that are not finite.
    ///
    /// # Errors
    /// When it cannot be read or holds such a value.
    pub fn read_finite(&mut self, name: &str) -> Result<Tensor> {
        let place = self.place.get(name).copied().unwrap_or(0);
        let (tensor, path) = match &mut self.files[place] {
            Open::Safetensors(file) => (file.read(name)?, file.path()),
            Open::Torch(file) => (file.read(name)?, file.path()),
        };
        check_finite(path, name, &tensor)?;
        Ok(tensor)
    }
}

/// A tensor that is going to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its number format.
    pub format: Format,
}

impl Entry {
    /// Bytes that it takes.
    pub fn len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.format.bitsize() / 8
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Writes a safetensors file atomically, in the order of `entries`, with `format = "pt"` and `metadata`
/// in the header. `fill` gives the bytes of each tensor when its turn comes, so that one at a time is
/// in memory.
///
/// # Errors
/// When `fill` fails or gives another number of bytes, a name occurs twice, or the disk refuses.
pub fn write<E: From<StoreError>>(
    path: &Path,
    entries: &[Entry],
    metadata: &BTreeMap<String, String>,
    mut fill: impl FnMut(&Entry) -> std::result::Result<Vec<u8>, E>,
) -> std::result::Result<(), E> {
    let tensors = entries.iter().map(|e| (e.name.as_str(), e.shape.as_slice(), e.format));
    let head = head(path, tensors, metadata)?;
    let mut file = AtomicFile::create(path)?;
    file.put(&head)?;
    for entry in entries {
        let bytes = fill(entry)?;
        if bytes.len() != entry.len() {
            let message = format!(
                "tensor `{}` has {} bytes, its shape {:?} needs {}",
                entry.name,
                bytes.len(),
                entry.shape,
                entry.len()
            );
            return Err(StoreError::bad(path, message).into());
        }
        file.put(&bytes)?;
    }
    Ok(file.commit()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tensors;

    #[test]
    fn bytes_are_copied_from_every_layout() {
        let dir = tempfile::tempdir().unwrap();
        let torch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/torch/kinds.pt");
        let mut reader = RawReader::open(&torch).unwrap();
        let shapes = reader.shapes();
        let entries: Vec<Entry> = shapes
            .iter()
            .map(|(name, shape)| Entry {
                name: name.clone(),
                shape: shape.clone(),
                format: reader.format(name).unwrap(),
            })
            .collect();
        let copy = dir.path().join("copy.safetensors");
        let texts = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        write(&copy, &entries, &texts, |e| reader.read(&e.name).map(|raw| raw.bytes)).unwrap();
        assert_eq!(tensors::read(&copy).unwrap(), tensors::read(&torch).unwrap());
        let mut again = RawReader::open(&copy).unwrap();
        assert_eq!(again.metadata()["a"], "b");
        for (name, shape) in shapes {
            assert_eq!(again.read(&name).unwrap(), reader.read(&name).unwrap());
            assert_eq!(again.read(&name).unwrap().shape, shape);
        }
        let error = again.read("nothing").unwrap_err().to_string();
        assert!(error.contains("`nothing`"), "{error}");
        let other = dir.path().join("other.safetensors");
        let error = write(&other, &entries[..1], &texts, |_| Ok::<_, StoreError>(vec![0; 999]));
        assert!(error.unwrap_err().to_string().contains("999 bytes"));
        assert!(!other.exists());
    }
}
