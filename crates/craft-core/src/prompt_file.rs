//! Prompt sets as they are published: a prompt a line, JSON lines (GenEval), JSON lists (HPDv2),
//! tab-separated tables (PartiPrompts), and CSV. The extension of the file's name decides.

use std::collections::BTreeSet;

use serde_json::Value;

/// Keys of a prompt's text and of its category, in the order in which they are looked for.
const TEXT: [&str; 3] = ["text", "prompt", "caption"];
const CATEGORY: [&str; 2] = ["category", "tag"];

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
    /// An entry without text.
    #[error("entry {entry} has none of the keys text, prompt and caption with a text: give it one")]
    NoText {
        /// Entry (line of JSON lines), from 1.
        entry: usize,
    },
    /// A JSON file that is not a list.
    #[error("expected a JSON list of texts, or of objects with a text, prompt or caption")]
    NotAList,
    /// A table without a column of prompts.
    #[error("no column is named Prompt, Text or Caption; the first line names: {found}")]
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
}

/// Reads a prompt set. `name` is the file's name: `.jsonl` and `.ndjson` are JSON lines, `.json` a JSON
/// list, `.tsv` a tab-separated table and `.csv` one with commas and quotes, whose first lines name their
/// columns; anything else has a prompt a line.
///
/// # Errors
/// When the contents are not what the name promises; the message names the line or entry.
pub fn parse(name: &str, text: &str) -> Result<PromptSet, PromptFileError> {
    let text = text.trim_start_matches('\u{feff}');
    let extension = name.rsplit_once('.').map_or("", |(_, e)| e).to_ascii_lowercase();
    let mut set = PromptSet::default();
    let mut seen = BTreeSet::new();
    let mut add = |text: &str, category: Option<String>| {
        let text = text.trim();
        if text.is_empty() {
            set.blank += 1;
        } else if seen.insert(text.to_lowercase()) {
            set.entries.push(Entry { text: text.to_owned(), category });
        } else {
            set.repeated += 1;
        }
    };
    match extension.as_str() {
        "jsonl" | "ndjson" => {
            for (i, line) in text.lines().enumerate() {
                if line.trim().is_empty() {
                    add("", None);
                    continue;
                }
                let expected = "one JSON object a line, with a text, prompt or caption";
                let value: Value = serde_json::from_str(line).map_err(|e| {
                    PromptFileError::Json { line: i + 1, message: e.to_string(), expected }
                })?;
                let (text, category) = entry(&value, i + 1)?;
                add(text, category);
            }
        }
        "json" => {
            let expected = "a JSON list of texts or objects";
            let value: Value = serde_json::from_str(text).map_err(|e| PromptFileError::Json {
                line: e.line(),
                message: e.to_string(),
                expected,
            })?;
            let list = value.as_array().ok_or(PromptFileError::NotAList)?;
            for (i, value) in list.iter().enumerate() {
                let (text, category) = entry(value, i + 1)?;
                add(text, category);
            }
        }
        "tsv" => {
            let mut lines = text.lines();
            let names: Vec<&str> = lines.next().unwrap_or("").split('\t').map(str::trim).collect();
            let column = |wanted: &[&str]| {
                wanted.iter().find_map(|w| names.iter().position(|n| n.eq_ignore_ascii_case(w)))
            };
            let texts = column(&TEXT)
                .ok_or_else(|| PromptFileError::NoColumn { found: names.join(", ") })?;
            let categories = column(&CATEGORY);
            for line in lines {
                let cells: Vec<&str> = line.split('\t').collect();
                let category = categories.and_then(|c| cells.get(c)).map(|c| c.trim().to_owned());
                add(cells.get(texts).unwrap_or(&""), category.filter(|c| !c.is_empty()));
            }
        }
        "csv" => {
            let mut records = csv_records(text).into_iter();
            let names = records.next().map(|(_, names)| names).unwrap_or_default();
            let column = |wanted: &[&str]| {
                let is = |w: &str| names.iter().position(|n| n.trim().eq_ignore_ascii_case(w));
                wanted.iter().find_map(|w| is(w))
            };
            let texts = column(&TEXT)
                .ok_or_else(|| PromptFileError::NoColumn { found: names.join(", ") })?;
            let categories = column(&CATEGORY);
            for (line, record) in records {
                if record.len() != names.len() {
                    let (found, expected) = (record.len(), names.len());
                    return Err(PromptFileError::Csv { line, found, expected });
                }
                let category = categories.map(|c| record[c].trim().to_owned());
                // A prompt is one line, in the run's files and for the models.
                let text = record[texts].split_whitespace().collect::<Vec<_>>().join(" ");
                add(&text, category.filter(|c| !c.is_empty()));
            }
        }
        _ => text.lines().for_each(|line| add(line, None)),
    }
    Ok(set)
}

/// The records of a CSV file, each with the line at which it begins. Empty lines are none.
fn csv_records(text: &str) -> Vec<(u64, Vec<String>)> {
    let mut reader = csv_core::Reader::new();
    let mut input = text.as_bytes();
    // No record is longer than the file, so it always fits.
    let (mut bytes, mut ends) = (vec![0; text.len() + 1], vec![0; text.len() + 2]);
    let (mut written, mut fields, mut line) = (0, 0, 1);
    let mut records = Vec::new();
    loop {
        let (result, read, wrote, ended) =
            reader.read_record(input, &mut bytes[written..], &mut ends[fields..]);
        input = &input[read..];
        (written, fields) = (written + wrote, fields + ended);
        match result {
            csv_core::ReadRecordResult::Record => {
                let starts = std::iter::once(0).chain(ends[..fields].iter().copied());
                let spans = starts.zip(&ends[..fields]);
                let field = |(from, to): (usize, &usize)| {
                    String::from_utf8_lossy(&bytes[from..*to]).into_owned()
                };
                records.push((line, spans.map(field).collect()));
                (written, fields, line) = (0, 0, reader.line());
            }
            csv_core::ReadRecordResult::InputEmpty => {}
            _ => return records,
        }
    }
}

/// Text and category of a JSON value: a text itself, or an object that holds one.
fn entry(value: &Value, number: usize) -> Result<(&str, Option<String>), PromptFileError> {
    if let Some(text) = value.as_str() {
        return Ok((text, None));
    }
    let text = TEXT
        .iter()
        .find_map(|key| value.get(key)?.as_str())
        .ok_or(PromptFileError::NoText { entry: number })?;
    Ok((text, CATEGORY.iter().find_map(|key| Some(value.get(key)?.as_str()?.to_owned()))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Vec<(String, Option<String>)> {
        let set = parse(name, text).unwrap();
        set.entries.into_iter().map(|e| (e.text, e.category)).collect()
    }

    fn entry(text: &str, category: &str) -> (String, Option<String>) {
        (text.to_owned(), (!category.is_empty()).then(|| category.to_owned()))
    }

    #[test]
    fn every_format_gives_texts_and_categories() {
        let plain = parse("a.txt", "\u{feff}a cat\r\n\n a dog \na cat\nA cat\n").unwrap();
        assert_eq!((plain.entries.len(), plain.blank, plain.repeated), (2, 1, 2));
        assert_eq!(plain.entries[1].text, "a dog");
        // GenEval, HPDv2 as texts and as objects, PartiPrompts.
        let geneval = "{\"tag\": \"counting\", \"include\": [], \"prompt\": \"two cats\"}\n";
        assert_eq!(read("g.jsonl", geneval), [entry("two cats", "counting")]);
        assert_eq!(read("h.json", "[\"a\", \"b\"]"), [entry("a", ""), entry("b", "")]);
        assert_eq!(read("h.json", "[{\"caption\": \"c\"}]"), [entry("c", "")]);
        let parti = "Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\t\nx \"y\"\t\t\t\n";
        assert_eq!(read("P.TSV", parti), [entry("bond", "Abstract"), entry("x \"y\"", "")]);
        let csv = "id,Prompt,Category\r\n1,\"a cat, \"\"big\"\"\",animals\r\n2,\"two\n lines\",\r\n3,,x\r\n4,a dog,\"\"\r\n";
        let expected =
            [entry("a cat, \"big\"", "animals"), entry("two lines", ""), entry("a dog", "")];
        assert_eq!(read("a.csv", csv), expected);
        assert_eq!(parse("a.csv", csv).unwrap().blank, 1);
        assert_eq!(read("a.csv", "caption\nx\n"), [entry("x", "")]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let error = |name: &str, text: &str| parse(name, text).unwrap_err().to_string();
        assert!(
            error("a.jsonl", "{\"text\": \"x\"}\na cat\n").starts_with("line 2 is not valid JSON")
        );
        assert!(
            error("a.jsonl", "{\"text\": \"x\"}\n{\"txt\": \"y\"}").starts_with("entry 2 has none")
        );
        assert!(error("a.json", "{}").contains("JSON list"));
        assert!(error("a.json", "[\n\"x\",\n").starts_with("line "));
        assert!(error("a.tsv", "id\tcaptions\n").contains("id, captions"));
        assert!(error("a.csv", "id,captions\n").contains("id, captions"));
        assert!(error("a.csv", "").contains("no column is named"));
        let short = error("a.csv", "id,text\n1,a\n2\n");
        assert!(short.starts_with("line 3 has 1 fields, the first line has 2"), "{short}");
    }
}
