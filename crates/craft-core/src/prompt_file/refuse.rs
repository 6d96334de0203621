//! Formats that are not read, by their names and by their first bytes, and what to do with them.

use super::{PromptFileError, TEXT, column, extension};

const UNPACK: &str = "unpack it and name the file inside";
const TEXTS: &str = "save its prompts as .txt (a prompt a line), .csv, .json or .parquet";

/// Extensions, what they stand for, and the cure.
const BY_NAME: [(&[&str], &str, &str); 12] = [
    (&["gz", "bz2", "xz", "zst", "lz4", "zip", "tar", "tgz", "7z", "rar"], "a packed file", UNPACK),
    (&["arrow", "feather", "ipc"], "an Arrow file", "save it as .parquet"),
    (&["orc", "avro"], "an ORC or Avro file", "save it as .parquet"),
    (&["xlsx", "xls", "ods", "numbers"], "a spreadsheet", "save its sheet as .csv"),
    (&["pkl", "pickle", "joblib"], "a pickle, which is not opened", TEXTS),
    (&["npy", "npz", "h5", "hdf5", "mat"], "a file of arrays", TEXTS),
    (&["pt", "pth", "bin", "ckpt", "safetensors", "gguf"], "a file of weights", TEXTS),
    (&["db", "sqlite", "sqlite3", "duckdb", "lmdb"], "a data base", TEXTS),
    (&["html", "htm", "xml", "pdf", "doc", "docx", "odt", "rtf"], "a document", TEXTS),
    (&["toml", "ini", "cfg", "json5", "hjson", "py", "ipynb"], "no list of prompts", TEXTS),
    (&["png", "jpg", "jpeg", "webp", "gif", "bmp", "mp4"], "a picture", TEXTS),
    (&["tfrecord", "msgpack", "mds"], "a file of records", "save it as .parquet"),
];

/// First bytes, what they stand for, and the cure.
const BY_CONTENTS: [(&[u8], &str, &str); 17] = [
    (b"\x1f\x8b", "a gzip file", UNPACK),
    (b"PK\x03\x04", "a zip file (a spreadsheet or document may be one)", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file", UNPACK),
    (b"BZh", "a bzip2 file", UNPACK),
    (b"\xfd7zXZ", "an xz file", UNPACK),
    (b"7z\xbc\xaf", "a 7z file", UNPACK),
    (b"ARROW1", "an Arrow file", "save it as .parquet"),
    (b"\x80\x02", "a pickle, which is not opened", TEXTS),
    (b"\x80\x03", "a pickle, which is not opened", TEXTS),
    (b"\x80\x04", "a pickle, which is not opened", TEXTS),
    (b"\x80\x05", "a pickle, which is not opened", TEXTS),
    (b"\x93NUMPY", "a file of arrays", TEXTS),
    (b"SQLite format 3", "a data base", TEXTS),
    (b"%PDF", "a document", TEXTS),
    (b"{\\rtf", "a document", TEXTS),
    (b"\x89PNG", "a picture", TEXTS),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, not the file that it stands for",
        "fetch it with `git lfs pull`",
    ),
];

fn refusal(what: String, cure: &str) -> PromptFileError {
    PromptFileError::Refused { what, cure: cure.to_owned() }
}

/// Whether a file is parquet, by its name or its first bytes.
pub fn is_parquet(name: &str, start: &[u8]) -> bool {
    start.starts_with(b"PAR1")
        || matches!(extension(name).as_str(), "parquet" | "pq") && !start.starts_with(b"version ")
}

/// Why a file of this name and these first bytes is not read; `None` if it may be.
pub fn refused(name: &str, start: &[u8]) -> Option<PromptFileError> {
    let found = BY_CONTENTS.iter().find(|(magic, ..)| start.starts_with(magic));
    if let Some((_, what, cure)) = found {
        return Some(refusal(format!("this is {what}"), cure));
    }
    let extension = extension(name);
    if let Some((_, what, cure)) = BY_NAME.iter().find(|(names, ..)| names.contains(&&*extension)) {
        return Some(refusal(format!("a file called .{extension} is taken for {what}"), cure));
    }
    let text = String::from_utf8_lossy(start);
    let text = text.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    let page = text.starts_with("<!doctype html") || text.starts_with("<html");
    page.then(|| refusal("this is a web page".to_owned(), "download the file itself, not its page"))
}

/// Why a file with a prompt a line is another format under a wrong name; `None` if it is not.
pub(super) fn other_format(text: &str) -> Option<PromptFileError> {
    let first = text.lines().find(|line| !line.trim().is_empty())?.trim();
    let named = |what: &str, cure: &str| Some(refusal(format!("the file looks like {what}"), cure));
    let json = |text: &str| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    // A line in brackets alone may be a prompt: its weights and wildcards are written so.
    if first.starts_with('{') && first.len() < 1 << 20 && json(first) {
        return named("JSON lines", "call it .jsonl");
    }
    if matches!(first.as_bytes().first(), Some(b'[' | b'{')) && json(text) {
        return named("JSON", "call it .json");
    }
    for (separator, what, cure) in [
        ('\t', "a tab-separated table", "call it .tsv"),
        (',', "a table with commas", "call it .csv"),
    ] {
        let names: Vec<&str> = first.split(separator).map(str::trim).collect();
        let words = names.iter().all(|n| !n.is_empty() && !n.contains(' ') && n.len() <= 40);
        if names.len() > 1 && words && column(&TEXT, &names).is_some() {
            return named(what, cure);
        }
    }
    None
}
