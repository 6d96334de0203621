//! Tensors as bytes: copied from file to file without a change of number format, one at a time.

use std::collections::BTreeMap;
use std::path::Path;

pub use safetensors::Dtype as Format;

use crate::atomic::AtomicFile;
use crate::error::{Result, StoreError};
use crate::tensors::{Tensor, TensorReader, check_finite, head, to_f32};
use crate::torch::TorchReader;
use crate::weights;

/// Values that are looked at a time.
const PART: usize = 1 << 18;

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

    /// Refuses values that are not finite, as reading them for a network does.
    ///
    /// # Errors
    /// When there is one, or the number format is not read; the error names the tensor `name` of `path`.
    pub fn require_finite(&self, path: &Path, name: &str) -> Result<()> {
        let size = (self.format.bitsize() / 8).max(1);
        // In parts, so that the values are never all in memory beside the bytes.
        for (index, part) in self.bytes.chunks(PART * size).enumerate() {
            let data = to_f32(self.format, part)
                .map_err(|m| StoreError::bad(path, format!("tensor `{name}`: {m}")))?;
            check_finite(path, name, index * PART, &data)?;
        }
        Ok(())
    }
}

/// Whether weights can be in a number format: floating point that needs no scale or table beside it.
pub fn holds_weights(format: Format) -> bool {
    use Format as F;
    matches!(format, F::F64 | F::F32 | F::F16 | F::BF16 | F::F8_E4M3 | F::F8_E5M2)
}

#[derive(Debug)]
enum Open {
    Safetensors(TensorReader),
    Torch(TorchReader),
}

/// Where a tensor is.
#[derive(Debug)]
struct Place {
    file: usize,
    name: String,
    /// Its sizes here, where they are not those of the file.
    shape: Option<Vec<usize>>,
}

/// Open weights: a safetensors file, a file of `torch.save`, or the shards of an index.
#[derive(Debug)]
pub struct RawReader {
    files: Vec<Open>,
    /// Where a tensor is, by its name here.
    place: BTreeMap<String, Place>,
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
                let place = Place { file: reader.files.len(), name: name.clone(), shape: None };
                if reader.place.insert(name.clone(), place).is_some() {
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
        let shape = |(name, place): (&String, &Place)| {
            let found = match &self.files[place.file] {
                Open::Safetensors(file) => file.shape(&place.name),
                Open::Torch(file) => file.shape(&place.name),
            };
            let shape = place.shape.as_deref().or(found).unwrap_or_default().to_vec();
            (name.clone(), shape)
        };
        self.place.iter().map(shape).collect()
    }

    /// The file, or the first of the shards.
    pub fn path(&self) -> &Path {
        self.files.first().map_or(Path::new(""), Open::path)
    }

    /// Number format of a tensor, if there is one of that name.
    pub fn format(&self, name: &str) -> Option<Format> {
        let place = self.place.get(name)?;
        match &self.files[place.file] {
            Open::Safetensors(file) => file.format(&place.name),
            Open::Torch(file) => file.format(&place.name),
        }
    }

    /// The free texts of the headers.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Gives tensors other names and shapes. `new` gets name and shape, and gives those wanted; a shape
    /// of another number of values is not taken. Returns how many tensors changed.
    ///
    /// # Errors
    /// When two tensors would have one name.
    pub fn rename(
        &mut self,
        new: impl Fn(&str, &[usize]) -> Option<(String, Vec<usize>)>,
    ) -> Result<usize> {
        let count = |shape: &[usize]| shape.iter().try_fold(1usize, |n, s| n.checked_mul(*s));
        let mut changed = 0;
        for (name, shape) in self.shapes() {
            let Some((to, wanted)) = new(&name, &shape) else { continue };
            let wanted = if count(&wanted) == count(&shape) { wanted } else { shape };
            if to != name && self.place.contains_key(&to) {
                let file = self.place.get(&name).map_or(0, |place| place.file);
                let message = format!("tensors `{name}` and `{to}` are the same one by two names");
                return Err(StoreError::bad(self.files[file].path(), message));
            }
            if let Some(mut place) = self.place.remove(&name) {
                place.shape = Some(wanted);
                self.place.insert(to, place);
                changed += 1;
            }
        }
        Ok(changed)
    }

    /// Refuses tensors of number formats that hold no weights as they are: whole numbers and parts of
    /// quantised networks.
    ///
    /// # Errors
    /// When there is one among `names`; the error names it.
    pub fn require_weights<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Result<()> {
        for name in names {
            let Some(format) = self.format(name).filter(|format| !holds_weights(*format)) else {
                continue;
            };
            let path = self.place.get(name).map_or(Path::new(""), |p| self.files[p.file].path());
            return Err(StoreError::bad(
                path,
                format!(
                    "tensor `{name}` is {format}; expected weights as F32, F16, BF16, F8_E4M3 or F8_E5M2: a quantised model is not read, take the one it was made from"
                ),
            ));
        }
        Ok(())
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// When there is none of that name or it cannot be read.
    pub fn read(&mut self, name: &str) -> Result<Raw> {
        let (file, source, shape) = self.find(name);
        let (found, format, bytes) = match &mut self.files[file] {
            Open::Safetensors(file) => file.bytes(&source)?,
            Open::Torch(file) => file.bytes(&source)?,
        };
        Ok(Raw { shape: shape.unwrap_or(found), format, bytes })
    }

    /// Reads one tensor as f32 and refuses values that are not finite.
    ///
    /// # Errors
    /// When it cannot be read or holds such a value.
    pub fn read_finite(&mut self, name: &str) -> Result<Tensor> {
        let (file, source, shape) = self.find(name);
        let (mut tensor, path) = match &mut self.files[file] {
            Open::Safetensors(file) => (file.read(&source)?, file.path()),
            Open::Torch(file) => (file.read(&source)?, file.path()),
        };
        check_finite(path, &source, 0, &tensor.data)?;
        if let Some(shape) = shape {
            tensor.shape = shape;
        }
        Ok(tensor)
    }

    /// File, name in it and shape of a tensor; of none, the first file and the name, which it does not have.
    fn find(&self, name: &str) -> (usize, String, Option<Vec<usize>>) {
        match self.place.get(name) {
            Some(place) => (place.file, place.name.clone(), place.shape.clone()),
            None => (0, name.to_owned(), None),
        }
    }
}

impl Open {
    fn path(&self) -> &Path {
        match self {
            Self::Safetensors(file) => file.path(),
            Self::Torch(file) => file.path(),
        }
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
