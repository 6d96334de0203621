//! Prompt sets as they are published. The extension of the file's name decides how it is read:
//!
//! | name | contents |
//! |---|---|
//! | `.jsonl`, `.ndjson` | a JSON object or text a line (GenEval) |
//! | `.json` | a list, or one of the shapes of `shape` (HPDv2, COCO captions, pandas) |
//! | `.yaml`, `.yml` | the same shapes |
//! | `.tsv`, `.csv` | a table whose first line names its columns (PartiPrompts, DrawBench) |
//! | formats that are not read | refused by name |
//! | anything else | a prompt a line; lines that begin with `# ` are comments |
//!
//! Names of columns and keys are compared without case. docs/prompts.md says the same for users.

mod collect;
mod decode;
mod json;
mod refuse;
mod shape;
mod table;
#[cfg(test)]
mod tests;
mod yaml;

pub use collect::{Collector, Place};
pub use decode::decode;
pub use refuse::{is_parquet, refused};

/// Keys of a prompt's text, in the order in which they are looked for.
pub const TEXT: [&str; 8] =
    ["text", "prompt", "caption", "texts", "prompts", "captions", "prompt_text", "description"];
/// Keys of a prompt's category, in the order in which they are looked for.
pub const CATEGORY: [&str; 5] = ["category", "tag", "categories", "classification", "style"];
/// Longest prompt that is taken, in characters. The longest text encoders read some 500 tokens.
pub const MAX_CHARS: usize = 10_000;
/// Largest text file that is read, in bytes.
pub const MAX_BYTES: u64 = 256 << 20;

/// A prompt of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What is asked for.
    pub text: String,
    /// Its group, where the file names one.
    pub category: Option<String>,
}

/// Distinct prompts in their order, and what was left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PromptSet {
    /// The prompts.
    pub entries: Vec<Entry>,
    /// Entries without text.
    pub blank: usize,
    /// Entries whose text had come before, capitals apart (as [`crate::prompt::check_prompts`] compares).
    pub repeated: usize,
    /// Lines of comments.
    pub comments: usize,
}

/// A prompt file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptFileError {
    /// Not the JSON that the name promises.
    #[error("line {line} is not valid JSON ({message}); expected {expected}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
        /// What the file should hold.
        expected: &'static str,
    },
    /// Not YAML, or more of YAML than is read.
    #[error(
        "line {line}: {message}; expected a YAML list of texts, or of mappings with a text, prompt or caption"
    )]
    Yaml {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// An entry without text.
    #[error(
        "{place} has none of the keys text, prompt and caption with a text ({found}): give it one{hint}"
    )]
    NoText {
        /// Where it stands.
        place: Place,
        /// What is there instead.
        found: String,
        /// What else may help.
        hint: &'static str,
    },
    /// A JSON or YAML file that holds no list of prompts.
    #[error(
        "expected a {format} list of texts, or of objects with a text, prompt or caption; the file holds {found}"
    )]
    NotAList {
        /// JSON or YAML.
        format: &'static str,
        /// What is there instead.
        found: String,
    },
    /// A table without a column of prompts.
    #[error(
        "no column is named Prompt, Text or Caption; the first line names: {found}. Name the column of prompts, or call a file with a prompt a line .txt"
    )]
    NoColumn {
        /// The names found.
        found: String,
    },
    /// A record with too many or too few fields.
    #[error(
        "line {line} has {found} fields, the first line has {expected}; expected fields separated by commas, with quotes around those that hold commas, quotes or line ends"
    )]
    Csv {
        /// Line at which the record begins, from 1.
        line: u64,
        /// Its fields.
        found: usize,
        /// The fields of the first line.
        expected: usize,
    },
    /// A prompt that no model could read.
    #[error(
        "{place} has {chars} characters, and a prompt may have {MAX_CHARS}: shorten it, or end its line where the next prompt begins"
    )]
    TooLong {
        /// Where it stands.
        place: Place,
        /// Its characters.
        chars: usize,
    },
    /// A format that is not read, or no text at all.
    #[error("{what}; {cure}")]
    Refused {
        /// What the file is.
        what: String,
        /// What to do.
        cure: String,
    },
}

/// Reads a prompt set from the bytes of a file called `name`.
///
/// # Errors
/// When the format is not read or the contents are not what the name promises; the message names the line
/// or entry.
pub fn read(name: &str, bytes: Vec<u8>, into: &mut Collector) -> Result<(), PromptFileError> {
    if let Some(refusal) = refused(name, &bytes[..bytes.len().min(512)]) {
        return Err(refusal);
    }
    parse_into(name, &decode(bytes)?, into)
}

/// Reads a prompt set from text. `name` is the file's name.
///
/// # Errors
/// As [`read`].
pub fn parse(name: &str, text: &str) -> Result<PromptSet, PromptFileError> {
    let mut collector = Collector::default();
    parse_into(name, text, &mut collector)?;
    Ok(collector.set)
}

fn parse_into(name: &str, text: &str, into: &mut Collector) -> Result<(), PromptFileError> {
    let text = decode::plain(text);
    match extension(name).as_str() {
        "jsonl" | "ndjson" | "jl" => json::lines(&text, into),
        "json" => json::whole(&text, into),
        "yaml" | "yml" => yaml::parse(&text, into),
        "tsv" | "tab" => table::tsv(&text, into),
        "csv" => table::csv(&text, into),
        _ => lines(&text, into),
    }
}

fn extension(name: &str) -> String {
    name.rsplit_once('.').map_or("", |(_, e)| e).to_ascii_lowercase()
}

/// A prompt a line.
fn lines(text: &str, into: &mut Collector) -> Result<(), PromptFileError> {
    if let Some(other) = refuse::other_format(text) {
        return Err(other);
    }
    for (i, line) in text.lines().enumerate() {
        match line.trim() == "#" || line.trim_start().starts_with("# ") {
            true => into.set.comments += 1,
            false => into.add(Place::line(i + 1), line, None)?,
        }
    }
    Ok(())
}

/// The first of `wanted` among the names, without case.
pub fn column<S: AsRef<str>>(wanted: &[&str], names: &[S]) -> Option<usize> {
    let is = |w: &&str| names.iter().position(|n| n.as_ref().trim().eq_ignore_ascii_case(w));
    wanted.iter().find_map(is)
}

/// Names for a message, which is not to grow with the file.
pub fn listed<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 12;
    let short = |name: &S| match name.as_ref().char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &name.as_ref()[..end]),
        None => name.as_ref().to_owned(),
    };
    let mut out = names.iter().take(SHOWN).map(short).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        out += &format!(" and {} more", names.len() - SHOWN);
    }
    out
}
