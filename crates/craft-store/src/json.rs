//! Small JSON files, read and written as a whole.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::atomic;
use crate::error::{Result, StoreError};
use crate::input;

/// Longest JSON file that is read.
pub(crate) const MAX_JSON: u64 = 1 << 30;

/// Writes a value as indented JSON, atomically.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|e| StoreError::bad(path, format!("it cannot be written as JSON: {e}")))?;
    bytes.push(b'\n');
    atomic::write(path, &bytes)
}

/// Reads a value from a JSON file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = input::read(path, MAX_JSON)?;
    serde_json::from_slice(&bytes).map_err(|e| StoreError::bad(path, e.to_string()))
}
