//! Bytes to text: UTF-8 with or without a mark, UTF-16 with one; line ends of every system.

use std::borrow::Cow;

use super::PromptFileError;

const CURE: &str = "save the file as UTF-8";

fn not_text(what: impl Into<String>) -> PromptFileError {
    PromptFileError::Refused { what: what.into(), cure: CURE.to_owned() }
}

/// The text of a file.
///
/// # Errors
/// When it is neither UTF-8 nor UTF-16 with a byte order mark; the message names the line.
pub fn decode(bytes: Vec<u8>) -> Result<String, PromptFileError> {
    match bytes.as_slice() {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => {
            return Err(not_text("the file is UTF-32"));
        }
        [0xff, 0xfe, rest @ ..] => return utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => return utf16(rest, u16::from_be_bytes),
        _ => {}
    }
    if let Some(place) = bytes.iter().position(|b| *b == 0) {
        let line = line_of(&bytes[..place]);
        let half = bytes.len() / 2;
        let zeros = bytes.iter().filter(|b| **b == 0).count();
        return Err(if zeros > half / 2 && zeros <= half + 1 {
            not_text("the file looks like UTF-16 without a byte order mark")
        } else {
            not_text(format!("line {line} holds a NUL byte, so this is not a text file"))
        });
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        not_text(format!("line {} is not UTF-8", line_of(&error.as_bytes()[..good])))
    })
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, PromptFileError> {
    let pairs = bytes.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(not_text("the file is UTF-16 with half a character at its end"));
    }
    let mut text = String::with_capacity(bytes.len() / 2);
    for found in char::decode_utf16(pairs.map(|pair| unit([pair[0], pair[1]]))) {
        match found {
            Ok('\0') => {
                let line = line_of(text.as_bytes());
                return Err(not_text(format!("line {line} holds a NUL character")));
            }
            Ok(c) => text.push(c),
            Err(_) => {
                let line = line_of(text.as_bytes());
                return Err(not_text(format!("line {line} is not UTF-16")));
            }
        }
    }
    Ok(text)
}

/// The line at the end of `before`, from 1, whatever ends lines.
fn line_of(before: &[u8]) -> usize {
    let mut line = 1;
    for (i, byte) in before.iter().enumerate() {
        let second = *byte == b'\n' && i > 0 && before[i - 1] == b'\r';
        line += usize::from(matches!(byte, b'\n' | b'\r') && !second);
    }
    line
}

/// Without a byte order mark, and with `\n` as the only end of a line.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    let text = text.trim_start_matches('\u{feff}');
    match text.contains('\r') {
        true => Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")),
        false => Cow::Borrowed(text),
    }
}
