//! Runs of other versions of the format are left as they are.

use std::path::Path;

use serde::Deserialize;

use super::VERSION;
use crate::error::{Result, StoreError};
use crate::input;
use crate::json::MAX_JSON;

/// What every version of a manifest has.
#[derive(Deserialize)]
struct Probe {
    version: u32,
    #[serde(default)]
    code_version: Option<String>,
}

/// Refuses a manifest, or the note of an unfinished stage, of another version. What cannot be read as
/// one passes: it is of no version.
///
/// # Errors
/// Names the file and says how to go on.
pub(crate) fn require(path: &Path) -> Result<()> {
    match input::read(path, MAX_JSON) {
        Ok(bytes) => require_bytes(path, &bytes),
        Err(_) => Ok(()),
    }
}

/// The same of a file that was read.
pub(super) fn require_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    match serde_json::from_slice::<Probe>(bytes) {
        Ok(found) if found.version != VERSION => Err(StoreError::OtherVersion {
            path: path.to_owned(),
            found: found.version,
            expected: VERSION,
            by: found.code_version.map(|by| format!(" (craft {by})")).unwrap_or_default(),
        }),
        _ => Ok(()),
    }
}
