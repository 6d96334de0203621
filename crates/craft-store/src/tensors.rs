//! Tensors in safetensors files.
//!
//! Format: 8 bytes little-endian length of a JSON header, the header, then the data. The header is
//! checked by the `safetensors` crate; data are read tensor by tensor, so that a file is never in
//! memory twice, and become f32.

mod header;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::Metadata;
use serde_json::{Map, Value, json};

use crate::atomic::AtomicFile;
use crate::error::{Result, StoreError};
use crate::torch::TorchReader;

/// Largest header accepted, as in the safetensors library.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes that are read at a time; a multiple of every format's size.
const PART: usize = 1 << 20;

/// A tensor in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its sizes; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its values, the last dimension fastest.
    pub data: Vec<f32>,
}

impl Tensor {
    /// A tensor from its values; `None` if their number does not fit the shape.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Option<Self> {
        let shape = shape.into();
        let count = shape.iter().try_fold(1usize, |n, s| n.checked_mul(*s))?;
        (count == data.len()).then_some(Self { shape, data })
    }
}

/// Number formats that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits; larger values than 65504 are refused.
    F16,
}

/// An open safetensors file, its header checked.
#[derive(Debug)]
pub struct TensorReader {
    path: PathBuf,
    file: File,
    data_start: u64,
    metadata: Metadata,
}

impl TensorReader {
    /// Opens a file and checks its header against its length.
    pub fn open(path: &Path) -> Result<Self> {
        let io = || StoreError::io("read", path);
        let cut = |message: String| {
            StoreError::bad(
                path,
                format!("not a whole safetensors file: {message}; make or download it again"),
            )
        };
        let mut file = File::open(path).map_err(io())?;
        let length = file.metadata().map_err(io())?.len();
        if length < 8 {
            return Err(cut(format!("it has {length} bytes, a header alone needs 8")));
        }
        let mut size = [0u8; 8];
        file.read_exact(&mut size).map_err(io())?;
        let header_bytes = u64::from_le_bytes(size);
        if size.starts_with(b"GGUF") {
            let message = "it is a GGUF file of quantised weights, which is not read: take the model's safetensors";
            return Err(StoreError::bad(path, message));
        }
        if header_bytes > MAX_HEADER_BYTES {
            return Err(cut(format!(
                "its header claims {header_bytes} bytes, at most {MAX_HEADER_BYTES} are possible (is it another format, such as a pickle?)"
            )));
        }
        if header_bytes > length - 8 {
            return Err(cut(format!(
                "its header needs {header_bytes} bytes, {} are there",
                length - 8
            )));
        }
        let mut header = vec![0u8; header_bytes as usize];
        file.read_exact(&mut header).map_err(io())?;
        let metadata =
            header::parse(&header).map_err(|e| cut(format!("its header is wrong ({e})")))?;
        let (have, need) = (length - 8 - header_bytes, metadata.data_len() as u64);
        if have != need {
            return Err(cut(format!("its tensors need {need} bytes, {have} are there")));
        }
        Ok(Self { path: path.to_owned(), file, data_start: 8 + header_bytes, metadata })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.metadata.tensors().into_keys().collect();
        names.sort();
        names
    }

    /// Shape of a tensor, if the file has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.metadata.info(name)?.shape)
    }

    /// Number format of a tensor, such as `F16`, if the file has it.
    pub fn dtype(&self, name: &str) -> Option<String> {
        Some(format!("{:?}", self.format(name)?))
    }

    pub(crate) fn format(&self, name: &str) -> Option<safetensors::Dtype> {
        Some(self.metadata.info(name)?.dtype)
    }

    /// The free texts of the header, sorted by key.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        self.metadata.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// Reads one tensor as f32. Formats: F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64, I32, I16, I8, U8,
    /// BOOL; whole numbers that f32 cannot hold exactly are an error.
    pub fn read(&mut self, name: &str) -> Result<Tensor> {
        let Some(info) = self.metadata.info(name) else {
            return Err(self.about(name, "the file does not have it"));
        };
        let (shape, dtype, (start, end)) = (info.shape.clone(), info.dtype, info.data_offsets);
        let io = StoreError::io("read", &self.path);
        if let Err(error) = self.file.seek(SeekFrom::Start(self.data_start + start as u64)) {
            return Err(io(error));
        }
        // In parts, so that the bytes are never all in memory beside the values.
        let mut data = Vec::with_capacity(shape.iter().product());
        let mut buffer = vec![0u8; PART.min(end - start)];
        let mut left = end - start;
        while left > 0 {
            let part = &mut buffer[..PART.min(left)];
            self.file.read_exact(part).map_err(StoreError::io("read", &self.path))?;
            let values = to_f32(dtype, part).map_err(|message| self.about(name, message))?;
            data.extend_from_slice(&values);
            left -= part.len();
        }
        Ok(Tensor { shape, data })
    }

    /// Reads one tensor of whole numbers (I64, I32, U8). Returns shape and values.
    pub fn read_i64(&mut self, name: &str) -> Result<(Vec<usize>, Vec<i64>)> {
        use safetensors::Dtype as D;
        let (shape, dtype, bytes) = self.bytes(name)?;
        let values = match dtype {
            D::I64 => chunks(&bytes).map(i64::from_le_bytes).collect(),
            D::I32 => chunks(&bytes).map(|b| i64::from(i32::from_le_bytes(b))).collect(),
            D::U8 => bytes.iter().map(|b| i64::from(*b)).collect(),
            other => {
                return Err(self.about(name, format!("it is {other:?}: expected I64, I32 or U8")));
            }
        };
        Ok((shape, values))
    }

    fn about(&self, name: &str, message: impl std::fmt::Display) -> StoreError {
        StoreError::bad(&self.path, format!("tensor `{name}`: {message}"))
    }

    /// Shape, number format and bytes of a tensor.
    pub(crate) fn bytes(
        &mut self,
        name: &str,
    ) -> Result<(Vec<usize>, safetensors::Dtype, Vec<u8>)> {
        let Some(info) = self.metadata.info(name) else {
            return Err(self.about(name, "the file does not have it"));
        };
        let (shape, dtype, (start, end)) = (info.shape.clone(), info.dtype, info.data_offsets);
        let mut bytes = vec![0u8; end - start];
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(StoreError::io("read", &self.path))?;
        Ok((shape, dtype, bytes))
    }
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// A number of 8 bits as PyTorch's `float8_e4m3fn` has it: exponents from −7 on, no infinities, NaN
/// where exponent and fraction are all ones (Micikevicius et al. 2022, arXiv 2209.05433).
fn e4m3(byte: u8) -> f32 {
    let (exponent, fraction) = (byte >> 3 & 15, byte & 7);
    let size = match (exponent, fraction) {
        (15, 7) => f32::NAN,
        (0, _) => f32::from(fraction) / 512.0,
        _ => f32::from(8 + fraction) * f32::from(1u16 << exponent) / 1024.0,
    };
    if byte < 128 { size } else { -size }
}

pub(crate) fn to_f32(
    dtype: safetensors::Dtype,
    bytes: &[u8],
) -> std::result::Result<Vec<f32>, String> {
    use safetensors::Dtype as D;
    let exact = |x: i64| {
        let y = x as f32;
        if y as i64 == x { Ok(y) } else { Err(format!("{x} cannot be held exactly by f32")) }
    };
    Ok(match dtype {
        D::F32 => chunks(bytes).map(f32::from_le_bytes).collect(),
        D::F16 => chunks(bytes).map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        D::BF16 => chunks(bytes).map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        D::F64 => chunks(bytes).map(|b| f64::from_le_bytes(b) as f32).collect(),
        D::F8_E4M3 => bytes.iter().map(|b| e4m3(*b)).collect(),
        // The upper byte of a number of 16 bits.
        D::F8_E5M2 => bytes.iter().map(|b| f16::from_bits(u16::from(*b) << 8).to_f32()).collect(),
        D::I64 => chunks(bytes)
            .map(|b| exact(i64::from_le_bytes(b)))
            .collect::<std::result::Result<_, _>>()?,
        D::I32 => chunks(bytes)
            .map(|b| exact(i64::from(i32::from_le_bytes(b))))
            .collect::<std::result::Result<_, _>>()?,
        D::I16 => chunks(bytes).map(|b| f32::from(i16::from_le_bytes(b))).collect(),
        D::I8 => bytes.iter().map(|b| f32::from(b.cast_signed())).collect(),
        D::U8 | D::BOOL => bytes.iter().map(|b| f32::from(*b)).collect(),
        other => {
            return Err(format!(
                "number format {other:?} is not supported; expected F32, F16, BF16, F8_E4M3 or F8_E5M2: convert it to one of these"
            ));
        }
    })
}

/// Reads all tensors of a file as f32: safetensors, or a file of `torch.save` by the rules of
/// [`crate::torch`]. The content decides, not the name.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    if TorchReader::is_torch(path)? {
        let mut reader = TorchReader::open(path)?;
        let names = reader.names().into_iter();
        return names.map(|name| reader.read(&name).map(|tensor| (name, tensor))).collect();
    }
    let mut reader = TensorReader::open(path)?;
    reader.names().into_iter().map(|name| reader.read(&name).map(|tensor| (name, tensor))).collect()
}

/// Reads all tensors and refuses values that are not finite.
pub fn read_finite(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let tensors = read(path)?;
    for (name, tensor) in &tensors {
        check_finite(path, name, 0, &tensor.data)?;
    }
    Ok(tensors)
}

/// Refuses values that are not finite; the first one has index `start` in its tensor.
pub(crate) fn check_finite(path: &Path, name: &str, start: usize, values: &[f32]) -> Result<()> {
    match values.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(place) => Err(StoreError::bad(
            path,
            format!(
                "tensor `{name}`: value {} is {}: expected finite numbers; the file is damaged or was written by a diverged run",
                start + place,
                values[place]
            ),
        )),
    }
}

/// A tensor to be written: its name, shape and values.
pub type TensorRef<'a> = (&'a str, &'a [usize], &'a [f32]);

/// Length and header of a file whose tensors follow each other in this order.
pub(crate) fn head<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, &'a [usize], safetensors::Dtype)>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let mut header = Map::new();
    let mut texts: BTreeMap<&str, &str> = BTreeMap::from([("format", "pt")]);
    texts.extend(metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    header.insert("__metadata__".to_owned(), json!(texts));
    let mut offset = 0usize;
    for (name, shape, format) in tensors {
        let end = offset + shape.iter().product::<usize>() * format.bitsize() / 8;
        let entry = json!({"dtype": format, "shape": shape, "data_offsets": [offset, end]});
        if name == "__metadata__" || header.insert(name.to_owned(), entry).is_some() {
            let message = format!("tensor `{name}`: the name is reserved or occurs twice");
            return Err(StoreError::bad(path, message));
        }
        offset = end;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut head = (text.len() as u64).to_le_bytes().to_vec();
    head.append(&mut text);
    Ok(head)
}

/// Writes tensors atomically, sorted by name, with `metadata` and `format = "pt"` in the header.
/// The bytes depend on the arguments only, not on their order.
pub fn write(
    path: &Path,
    tensors: &[TensorRef],
    dtype: Dtype,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut sorted: Vec<&TensorRef> = tensors.iter().collect();
    sorted.sort_by_key(|tensor| tensor.0);
    let format = match dtype {
        Dtype::F32 => safetensors::Dtype::F32,
        Dtype::F16 => safetensors::Dtype::F16,
    };
    for (name, shape, data) in &sorted {
        let about = |message: String| StoreError::bad(path, format!("tensor `{name}`: {message}"));
        let count = shape.iter().try_fold(1usize, |n, s| n.checked_mul(*s));
        if count != Some(data.len()) {
            return Err(about(format!("shape {shape:?} does not fit {} values", data.len())));
        }
        if dtype == Dtype::F16
            && let Some(x) = data.iter().find(|x| x.is_finite() && f16::from_f32(**x).is_infinite())
        {
            return Err(about(format!("{x} is too large for 16 bits: write 32 bits")));
        }
    }
    let head = head(path, sorted.iter().map(|(name, shape, _)| (*name, *shape, format)), metadata)?;
    let mut file = AtomicFile::create(path)?;
    file.put(&head)?;
    for (_, _, data) in sorted {
        for part in data.chunks(1 << 16) {
            let bytes: Vec<u8> = match dtype {
                Dtype::F32 => part.iter().flat_map(|x| x.to_le_bytes()).collect(),
                Dtype::F16 => part.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            };
            file.put(&bytes)?;
        }
    }
    file.commit()
}

/// [`write()`] of tensors in memory.
pub fn write_map(path: &Path, tensors: &BTreeMap<String, Tensor>, dtype: Dtype) -> Result<()> {
    let refs: Vec<TensorRef> = tensors
        .iter()
        .map(|(name, t)| (name.as_str(), t.shape.as_slice(), t.data.as_slice()))
        .collect();
    write(path, &refs, dtype, &BTreeMap::new())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
