//! Wordings from a file of JSON lines.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::prompt::{Prompt, PromptId};
use crate::prompt_file::MAX_CHARS;

/// A file of wordings that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpansionError {
    /// A line that cannot be read.
    #[error(
        "line {line}: {message}; expected {{\"prompt_id\" or \"prompt\": …, \"text\": \"…\" or \"variants\": [\"…\"]}}"
    )]
    Line {
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Lines of prompts that are not in the run.
    #[error(
        "line {line}: no training prompt {prompt}: remove the line, or add the prompt (ids and texts must be the same as in the run)"
    )]
    UnknownPrompt {
        /// Which line, from 1.
        line: usize,
        /// Id or text of the prompt.
        prompt: String,
    },
    /// A prompt with too few wordings.
    #[error(
        "prompt {id} (`{text}`) has {found} different wordings beside itself, and {wanted} are wanted: add lines or lower expand.variants"
    )]
    TooFew {
        /// The prompt.
        id: PromptId,
        /// Its text.
        text: String,
        /// How many are wanted.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    prompt_id: Option<String>,
    prompt: Option<String>,
    variant: Option<u32>,
    text: Option<String>,
    variants: Option<Vec<String>>,
}

/// Which prompt a line is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Id(String),
    Text(String),
}

/// A parsed file of wordings: one object a line with `prompt_id` or `prompt` (its text), and
/// `text` (one wording) or `variants` (a list). Empty lines are skipped. A line with
/// `"variant": 0` repeats the prompt and is skipped too, so that the `expanded.jsonl` of a run
/// can be read back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExpansionFile {
    lines: Vec<(usize, Subject, Vec<String>)>,
}

impl ExpansionFile {
    /// Parses the text of a file.
    pub fn parse(text: &str) -> Result<Self, ExpansionError> {
        let mut lines = Vec::new();
        for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let fail = |message: String| Err(ExpansionError::Line { line: i + 1, message });
            let raw: RawLine = match serde_json::from_str(line) {
                Ok(raw) => raw,
                Err(e) => return fail(e.to_string()),
            };
            if raw.variant == Some(0) {
                continue;
            }
            let subject = match (raw.prompt_id, raw.prompt) {
                (Some(id), _) => Subject::Id(id),
                (None, Some(text)) => Subject::Text(text),
                (None, None) => return fail("neither `prompt_id` nor `prompt`".to_owned()),
            };
            let wordings = match (raw.text, raw.variants) {
                (Some(text), None) => vec![text],
                (None, Some(variants)) => variants,
                _ => return fail("exactly one of `text` and `variants` is needed".to_owned()),
            };
            if wordings.iter().any(|w| w.trim().is_empty()) {
                return fail("a wording is empty".to_owned());
            }
            if wordings.iter().any(|w| w.len() > MAX_CHARS && w.chars().count() > MAX_CHARS) {
                return fail(format!("a wording has more than {MAX_CHARS} characters"));
            }
            lines.push((i + 1, subject, wordings));
        }
        Ok(Self { lines })
    }

    /// The first `g` different wordings of each prompt, none equal to the prompt, in the order of
    /// `prompts` and of the file.
    pub fn expand(
        &self,
        prompts: &[&Prompt],
        g: usize,
    ) -> Result<Vec<Vec<String>>, ExpansionError> {
        let by_id: BTreeMap<&str, usize> =
            prompts.iter().enumerate().map(|(i, p)| (p.id.as_str(), i)).collect();
        let by_text: BTreeMap<&str, usize> =
            prompts.iter().enumerate().map(|(i, p)| (p.text.trim(), i)).collect();
        let mut seen: Vec<BTreeSet<&str>> =
            prompts.iter().map(|p| BTreeSet::from([p.text.trim()])).collect();
        let mut wordings: Vec<Vec<String>> = vec![Vec::new(); prompts.len()];
        for (line, subject, texts) in &self.lines {
            let (place, name) = match subject {
                Subject::Id(id) => (by_id.get(id.as_str()), format!("with the id {id}")),
                Subject::Text(text) => {
                    (by_text.get(text.trim()), format!("with the text `{text}`"))
                }
            };
            let Some(&place) = place else {
                return Err(ExpansionError::UnknownPrompt { line: *line, prompt: name });
            };
            for text in texts {
                if seen[place].insert(text.trim()) {
                    wordings[place].push(text.trim().to_owned());
                }
            }
        }
        for (prompt, found) in prompts.iter().zip(&mut wordings) {
            if found.len() < g {
                return Err(ExpansionError::TooFew {
                    id: prompt.id.clone(),
                    text: prompt.text.clone(),
                    wanted: g,
                    found: found.len(),
                });
            }
            found.truncate(g);
        }
        Ok(wordings)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::prompt::Split;

    fn prompts() -> Vec<Prompt> {
        vec![
            Prompt::new(PromptId::from_index(0), "a cat", Split::Train),
            Prompt::new(PromptId::from_index(1), "a dog", Split::Train),
        ]
    }

    #[test]
    fn both_forms_are_read() {
        let text = "\u{feff}{\"prompt_id\":\"p00000\",\"variant\":0,\"text\":\"a cat\"}\n{\"prompt_id\":\"p00000\",\"text\":\"a fine cat\"}\r\n\n{\"prompt\":\"a dog\",\"variants\":[\"a dog\",\"a good dog\",\"a good dog \",\"a big dog\"]}\n{\"prompt_id\":\"p00000\",\"text\":\"a red cat\"}\n";
        let file = ExpansionFile::parse(text).unwrap();
        let prompts = prompts();
        let refs: Vec<&Prompt> = prompts.iter().collect();
        assert_eq!(
            file.expand(&refs, 2).unwrap(),
            [["a fine cat", "a red cat"], ["a good dog", "a big dog"]]
        );
        assert!(matches!(
            file.expand(&refs, 3),
            Err(ExpansionError::TooFew { found: 2, wanted: 3, .. })
        ));
        assert!(matches!(
            file.expand(&refs[..1], 1),
            Err(ExpansionError::UnknownPrompt { line: 4, .. })
        ));
    }

    #[test]
    fn bad_lines_are_named() {
        for (text, line) in [
            ("\n{", 2),
            ("{\"prompt\":\"a\",\"text\":\"b\"}\n{\"text\":\"b\"}", 2),
            ("{\"prompt\":\"a\"}", 1),
            ("{\"prompt\":\"a\",\"text\":\"b\",\"variants\":[]}", 1),
            ("{\"prompt\":\"a\",\"text\":\" \"}", 1),
            ("{\"prompt\":\"a\",\"txt\":\"b\"}", 1),
            ("[1]", 1),
        ] {
            match ExpansionFile::parse(text) {
                Err(ExpansionError::Line { line: found, .. }) => assert_eq!(found, line, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
