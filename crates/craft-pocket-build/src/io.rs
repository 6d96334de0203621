//! Tensors of networks to and from files.

use std::collections::BTreeMap;
use std::path::Path;

use craft_nn::weights::{HostTensor, TensorMap};
use craft_store::tensors::{self, Dtype, TensorRef};

use crate::BuildError;

/// Reads a safetensors file.
pub(crate) fn read_tensors(path: &Path) -> Result<TensorMap, BuildError> {
    let tensors = tensors::read_finite(path)?;
    Ok(tensors
        .into_iter()
        .map(|(name, t)| (name, HostTensor { shape: t.shape, data: t.data }))
        .collect())
}

/// Writes a safetensors file, in 16 bits if `half`.
pub(crate) fn write_tensors(path: &Path, map: TensorMap, half: bool) -> Result<(), BuildError> {
    let refs: Vec<TensorRef<'_>> = map
        .iter()
        .map(|(name, t)| (name.as_str(), t.shape.as_slice(), t.data.as_slice()))
        .collect();
    let dtype = if half { Dtype::F16 } else { Dtype::F32 };
    Ok(tensors::write(path, &refs, dtype, &BTreeMap::new())?)
}

/// Reads a text file that an earlier part wrote.
pub(crate) fn read_text(path: &Path) -> Result<String, BuildError> {
    use craft_store::{StoreError, input};
    input::read_text(path, input::MAX_TEXT).map_err(|error| match error {
        StoreError::Io { path, source, .. } => BuildError::Missing(path, source),
        other => BuildError::Store(other),
    })
}

/// Writes a text file, making its folder.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), BuildError> {
    if let Some(parent) = path.parent() {
        craft_store::atomic::create_dir(parent)?;
    }
    Ok(craft_store::atomic::write(path, text.as_bytes())?)
}
