//! Reading JSON and JSON lines, with errors that name file and line.

use std::path::Path;

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

/// One value per non-blank line, or `None` when there is no such file.
pub(crate) fn json_lines<T: DeserializeOwned>(path: &Path) -> Result<Option<Vec<T>>, ReportError> {
    let Some(text) = text(path)? else {
        return Ok(None);
    };
    let mut out = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        out.push(parse_line(path, index, line)?);
    }
    Ok(Some(out))
}

/// As [`json_lines`], but a last line that was cut while it was written is left out; the flag says so.
pub(crate) fn growing_lines<T: DeserializeOwned>(
    path: &Path,
) -> Result<Option<(Vec<T>, bool)>, ReportError> {
    let Some(text) = text(path)? else {
        return Ok(None);
    };
    let lines: Vec<(usize, &str)> =
        text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()).collect();
    let mut out = Vec::with_capacity(lines.len());
    for (place, (index, line)) in lines.iter().enumerate() {
        match parse_line(path, *index, line) {
            Ok(value) => out.push(value),
            Err(_) if place + 1 == lines.len() && !text.ends_with('\n') => {
                return Ok(Some((out, true)));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(Some((out, false)))
}

fn parse_line<T: DeserializeOwned>(
    path: &Path,
    index: usize,
    line: &str,
) -> Result<T, ReportError> {
    serde_json::from_str(line).map_err(|e| ReportError::BadLine {
        path: path.to_path_buf(),
        line: index + 1,
        message: format!("{} (column {})", strip_position(&e.to_string()), e.column()),
    })
}

/// The parser's own "at line 1 column n" counts lines inside the one line it saw.
fn strip_position(message: &str) -> &str {
    message.split(" at line ").next().unwrap_or(message)
}
