//! Prompt sets on the disk: one file, a folder of files of one format, or a pattern such as
//! `data/train-*.parquet`.

use std::io::Read;
use std::path::{Path, PathBuf};

use craft_core::prompt_file::{self, Collector, PromptSet};
use craft_store::input;

use crate::error::{PipelineError, Result};
use crate::prompt_table;

/// Endings of files that are taken from a folder.
const ENDINGS: [&str; 9] =
    ["parquet", "jsonl", "ndjson", "json", "csv", "tsv", "txt", "yaml", "yml"];
/// How the files of the parts of a published set begin.
const PARTS: [&str; 6] = ["train", "test", "validation", "val", "dev", "eval"];

fn wrong(path: &Path, message: impl Into<String>) -> PipelineError {
    PipelineError::Input { path: path.to_owned(), message: message.into() }
}

/// Reads the prompts that `path` names; `key` is the recipe's, for messages.
///
/// # Errors
/// When nothing is there, or a file is not what its name promises.
pub(crate) fn read(path: &Path, key: &str) -> Result<PromptSet> {
    let mut found = Collector::default();
    for file in files(path, key)? {
        one(&file, &mut found).map_err(|message| wrong(&file, format!("{key}: {message}")))?;
    }
    if found.set.entries.is_empty() {
        return Err(wrong(path, format!("{key}: there is no prompt; expected one a line")));
    }
    Ok(found.set)
}

fn one(path: &Path, into: &mut Collector) -> std::result::Result<(), String> {
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut start = Vec::new();
    let head = input::open(path).map_err(|e| e.without_path())?.take(512).read_to_end(&mut start);
    head.map_err(|error| format!("the file cannot be read ({error})"))?;
    if prompt_file::is_parquet(&name, &start) {
        return prompt_table::read(path, into);
    }
    // Before it is read whole: what is refused may be large.
    if let Some(refusal) = prompt_file::refused(&name, &start) {
        return Err(refusal.to_string());
    }
    let bytes = input::read(path, prompt_file::MAX_BYTES).map_err(|e| e.without_path())?;
    prompt_file::read(&name, bytes, into).map_err(|error| error.to_string())
}

/// The files behind a path, in the order of their names.
fn files(path: &Path, key: &str) -> Result<Vec<PathBuf>> {
    let pattern = path.file_name().and_then(|n| n.to_str()).filter(|n| n.contains('*'));
    if let Some(pattern) = pattern.filter(|_| !path.exists()) {
        let folder = path.parent().unwrap_or(Path::new("."));
        let found = listed(folder, key, |name| fits(name, pattern))?;
        return match found.is_empty() {
            true => Err(wrong(path, format!("{key}: no file of the folder fits this pattern"))),
            false => Ok(found),
        };
    }
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let ending = |name: &str| name.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase());
    let taken = |name: &str| ending(name).is_some_and(|e| ENDINGS.contains(&&*e));
    let found = listed(path, key, taken)?;
    let names: Vec<String> = found
        .iter()
        .filter_map(|f| Some(f.file_name()?.to_string_lossy().to_ascii_lowercase()))
        .collect();
    let mut endings: Vec<String> = names.iter().filter_map(|n| ending(n)).collect();
    let part = |name: &String| {
        PARTS.into_iter().find(|p| {
            name.strip_prefix(p).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
        })
    };
    let mut parts: Vec<&str> = names.iter().filter_map(part).collect();
    parts.sort_unstable();
    parts.dedup();
    endings.sort_unstable();
    endings.dedup();
    let several = if found.is_empty() {
        format!("the folder holds no file that ends in {}", ENDINGS.join(", "))
    } else if endings.len() > 1 {
        format!("the folder holds files of several formats ({})", endings.join(", "))
    } else if parts.len() > 1 {
        format!("the folder holds several parts of a set ({})", parts.join(", "))
    } else {
        return Ok(found);
    };
    Err(wrong(path, format!("{key}: {several}; name a file, or a pattern such as train-*.parquet")))
}

fn listed(folder: &Path, key: &str, takes: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let unreadable = |error: craft_store::StoreError| {
        wrong(folder, format!("{key}: the folder cannot be read ({})", error.reason()))
    };
    let found = craft_store::atomic::list(folder).map_err(unreadable)?;
    let found = found.into_iter().filter(|path| path.is_file()).filter(|path| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        !name.starts_with('.') && takes(name)
    });
    Ok(found.collect())
}

/// Whether a name fits a pattern in which `*` stands for any text.
fn fits(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn patterns() {
        for (name, pattern, yes) in [
            ("train-0-of-2.parquet", "train-*.parquet", true),
            ("train-0-of-2.parquet", "*-of-2*", true),
            ("test-0.parquet", "train-*.parquet", false),
            ("a.json", "*.json", true),
            ("a.jsonl", "*.json", false),
            ("ab", "*b*b", false),
        ] {
            assert_eq!(fits(name, pattern), yes, "{name} {pattern}");
        }
    }
}
