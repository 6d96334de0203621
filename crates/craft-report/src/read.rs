//! Reading JSON and JSON lines, with errors that name file and line.

use std::path::Path;

use craft_store::{StoreError, jsonl};
use serde::de::DeserializeOwned;

use crate::ReportError;

/// The file's text, or `None` when there is no such file. Bytes that are not UTF-8 are an error.
pub(crate) fn text(path: &Path) -> Result<Option<String>, ReportError> {
    // What a run wrote is read whatever its length.
    Ok(craft_store::input::read_text_if_there(path, u64::MAX - 1)?)
}

/// One JSON value, or `None` when there is no such file.
pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ReportError> {
    let Some(text) = text(path)? else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|e| ReportError::BadFile { path: path.to_path_buf(), message: e.to_string() })
}

/// Calls with every row of a file, one in memory at a time. `None` when there is no such file.
pub(crate) fn each<T: DeserializeOwned>(
    path: &Path,
    mut take: impl FnMut(T),
) -> Result<Option<()>, ReportError> {
    if !path.exists() {
        return Ok(None);
    }
    for row in jsonl::rows::<T>(path)? {
        take(row.map_err(bad)?);
    }
    Ok(Some(()))
}

/// All rows of a file that is short. `None` when there is no such file.
pub(crate) fn all<T: DeserializeOwned>(path: &Path) -> Result<Option<Vec<T>>, ReportError> {
    let mut rows = Vec::new();
    Ok(each(path, |row| rows.push(row))?.map(|()| rows))
}

/// As [`each`], but a last line that was cut while it was written is left out; the flag says so.
pub(crate) fn growing<T: DeserializeOwned>(
    path: &Path,
    mut take: impl FnMut(T),
) -> Result<bool, ReportError> {
    if !path.exists() {
        return Ok(false);
    }
    craft_store::input::open(path)?;
    let mut cut = false;
    jsonl::each_line(path, |number, line| {
        match serde_json::from_slice(line) {
            Ok(row) => take(row),
            Err(_) if !line.ends_with(b"\n") => cut = true,
            Err(error) => {
                let message = error.to_string().replace(" at line 1 column", " at column");
                return Err(ReportError::BadLine { path: path.to_owned(), line: number, message });
            }
        }
        Ok(())
    })?;
    Ok(cut)
}

fn bad(error: StoreError) -> ReportError {
    match error {
        StoreError::BadLine { path, line, message } => ReportError::BadLine { path, line, message },
        other => other.into(),
    }
}
