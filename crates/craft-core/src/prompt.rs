//! Prompts, wordings and candidates, and the ids that name them in every file of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest accepted prompt id, in bytes. Ids become parts of file names.
pub const MAX_PROMPT_ID_BYTES: usize = 80;

/// An id that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A prompt id with characters that could not stand in a file name.
    #[error(
        "`{0}` is not a prompt id: expected 1 to {MAX_PROMPT_ID_BYTES} ASCII letters, digits, `_`, `-` or `.`, not starting with `.`, such as `p00012`"
    )]
    Prompt(String),
    /// A candidate id that does not read `<prompt>-v<variant>-s<sample>`.
    #[error(
        "`{0}` is not a candidate id: expected `<prompt id>-v<variant, two digits or more>-s<sample>`, such as `p00012-v03-s0`"
    )]
    Candidate(String),
}

/// Name of a prompt, such as `p00012`. Safe as a part of a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PromptId(String);

impl PromptId {
    /// Checks and wraps an id.
    pub fn new(id: impl Into<String>) -> Result<Self, IdError> {
        let id = id.into();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if id.is_empty()
            || id.len() > MAX_PROMPT_ID_BYTES
            || id.starts_with('.')
            || !id.chars().all(legal)
        {
            return Err(IdError::Prompt(id));
        }
        Ok(Self(id))
    }

    /// The id of the prompt at a place of a list: `p00012` for 12.
    pub fn from_index(index: usize) -> Self {
        Self(format!("p{index:05}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PromptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for PromptId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for PromptId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::new(s)
    }
}

impl TryFrom<String> for PromptId {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        Self::new(s)
    }
}

impl From<PromptId> for String {
    fn from(id: PromptId) -> String {
        id.0
    }
}

/// Name of a candidate: a prompt, a wording of it, and a noise. Displays as `p00012-v03-s0`.
///
/// Orders by prompt id, then variant, then sample.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CandidateId {
    /// The prompt that the candidate was drawn for.
    pub prompt: PromptId,
    /// Which wording: 0 is the prompt itself.
    pub variant: u32,
    /// Which initial noise.
    pub sample: u32,
}

impl CandidateId {
    /// Names a candidate.
    pub fn new(prompt: PromptId, variant: u32, sample: u32) -> Self {
        Self { prompt, variant, sample }
    }

    /// The candidate of the original wording with the same noise.
    pub fn original(&self) -> Self {
        Self::new(self.prompt.clone(), 0, self.sample)
    }
}

impl fmt::Display for CandidateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-v{:02}-s{}", self.prompt, self.variant, self.sample)
    }
}

impl FromStr for CandidateId {
    type Err = IdError;

    /// Reads the form that `Display` writes, and only that form, so that an id has one spelling.
    fn from_str(s: &str) -> Result<Self, IdError> {
        let parts = || {
            let (rest, sample) = s.rsplit_once("-s")?;
            let (prompt, variant) = rest.rsplit_once("-v")?;
            let id =
                Self::new(PromptId::new(prompt).ok()?, variant.parse().ok()?, sample.parse().ok()?);
            (id.to_string() == s).then_some(id)
        };
        parts().ok_or_else(|| IdError::Candidate(s.to_owned()))
    }
}

impl TryFrom<String> for CandidateId {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}

impl From<CandidateId> for String {
    fn from(id: CandidateId) -> String {
        id.to_string()
    }
}

/// What a prompt is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Candidates are drawn for it.
    Train,
    /// Never trained on; images of base and tuned model are compared on it.
    Eval,
}

/// One line of `prompts/prompts.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// Name of the prompt.
    pub id: PromptId,
    /// What is asked for. Rewards are always given this text.
    pub text: String,
    /// What the prompt is used for.
    pub split: Split,
    /// A group for reports, such as `relation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// What a programmatic checker must find; opaque here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<serde_json::Value>,
}

impl Prompt {
    /// A prompt without category or facts.
    pub fn new(id: PromptId, text: impl Into<String>, split: Split) -> Self {
        Self { id, text: text.into(), split, category: None, facts: None }
    }
}

/// One line of `expanded/expanded.jsonl`: a wording of a prompt. Variant 0 is the prompt itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wording {
    /// The prompt.
    pub prompt_id: PromptId,
    /// 0 for the prompt itself.
    pub variant: u32,
    /// The text that the model draws.
    pub text: String,
}

/// One line of `candidates/candidates.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Name of the candidate.
    pub id: CandidateId,
    /// Its prompt, the same as in `id`.
    pub prompt_id: PromptId,
    /// Its wording, the same as in `id`.
    pub variant: u32,
    /// Its noise, the same as in `id`.
    pub sample: u32,
    /// The wording drawn.
    pub text: String,
    /// Path of the picture relative to `candidates/`, with `/` between its parts.
    pub image: String,
}

impl Candidate {
    /// A candidate whose picture is `images/<id>.png`.
    pub fn new(id: CandidateId, text: impl Into<String>) -> Self {
        Self {
            prompt_id: id.prompt.clone(),
            variant: id.variant,
            sample: id.sample,
            text: text.into(),
            image: format!("images/{id}.png"),
            id,
        }
    }
}

/// A list of prompts that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptsError {
    /// No prompt of a split.
    #[error("there is no {0} prompt: add at least one line")]
    NoPrompts(&'static str),
    /// A prompt of white space only.
    #[error("prompt {id} is empty: give it a text or remove its line")]
    EmptyText {
        /// The prompt.
        id: PromptId,
    },
    /// Two prompts of one name.
    #[error("prompt id {id} occurs more than once: give each prompt its own id")]
    DuplicateId {
        /// The name.
        id: PromptId,
    },
    /// Two prompts of one text.
    #[error(
        "prompts {first} and {second} have the same text `{text}`: remove one of them (a text in both splits would be trained on and evaluated)"
    )]
    DuplicateText {
        /// The first prompt with the text.
        first: PromptId,
        /// The second.
        second: PromptId,
        /// The text.
        text: String,
    },
}

/// Checks a list of prompts: both splits present where asked for, no empty text, no id and no
/// text twice (texts are compared without case and outer white space).
pub fn check_prompts(prompts: &[Prompt], needs_eval: bool) -> Result<(), PromptsError> {
    let mut ids = BTreeMap::new();
    let mut texts: BTreeMap<String, &PromptId> = BTreeMap::new();
    for prompt in prompts {
        let text = prompt.text.trim().to_lowercase();
        if text.is_empty() {
            return Err(PromptsError::EmptyText { id: prompt.id.clone() });
        }
        if ids.insert(&prompt.id, ()).is_some() {
            return Err(PromptsError::DuplicateId { id: prompt.id.clone() });
        }
        if let Some(first) = texts.insert(text, &prompt.id) {
            return Err(PromptsError::DuplicateText {
                first: first.clone(),
                second: prompt.id.clone(),
                text: prompt.text.clone(),
            });
        }
    }
    for (split, name, needed) in
        [(Split::Train, "training", true), (Split::Eval, "evaluation", needs_eval)]
    {
        if needed && !prompts.iter().any(|p| p.split == split) {
            return Err(PromptsError::NoPrompts(name));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn candidate_ids_round_trip_and_have_one_spelling() {
        for text in ["p00012-v03-s0", "p-v1-s2-v00-s10", "x.y_z-v123-s4294967295"] {
            let id: CandidateId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
        }
        for bad in [
            "",
            "p1",
            "p1-v3-s0",
            "p1-v03-s00",
            "p1-v03",
            "-v03-s0",
            "a/b-v03-s0",
            ".p-v03-s0",
            "p1-v+3-s0",
            "p1-v03-s0 ",
        ] {
            assert!(bad.parse::<CandidateId>().is_err(), "{bad}");
        }
        assert!(PromptId::new("a".repeat(MAX_PROMPT_ID_BYTES + 1)).is_err());
        let id: CandidateId = "p00012-v03-s1".parse().unwrap();
        assert_eq!(id.original().to_string(), "p00012-v00-s1");
    }

    #[test]
    fn lines_match_the_format_of_the_run_folder() {
        let line = r#"{"id":"p00012","text":"a red circle","split":"train","category":"single","facts":[{"kind":"colour"}]}"#;
        let prompt: Prompt = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&prompt).unwrap(), line);
        let candidate = Candidate::new("p00012-v03-s0".parse().unwrap(), "a crisp red circle");
        assert_eq!(
            serde_json::to_string(&candidate).unwrap(),
            r#"{"id":"p00012-v03-s0","prompt_id":"p00012","variant":3,"sample":0,"text":"a crisp red circle","image":"images/p00012-v03-s0.png"}"#
        );
        assert!(
            serde_json::from_str::<Prompt>(r#"{"id":"../x","text":"a","split":"eval"}"#).is_err()
        );
    }

    #[test]
    fn prompt_lists_are_checked() {
        let p = |i: usize, text: &str, split| Prompt::new(PromptId::from_index(i), text, split);
        let good = [p(0, "a", Split::Train), p(1, "b", Split::Eval)];
        assert_eq!(check_prompts(&good, true), Ok(()));
        assert_eq!(check_prompts(&good[..1], true), Err(PromptsError::NoPrompts("evaluation")));
        assert_eq!(check_prompts(&good[..1], false), Ok(()));
        let twice = [p(0, "a", Split::Train), p(1, " A", Split::Eval)];
        assert!(matches!(check_prompts(&twice, true), Err(PromptsError::DuplicateText { .. })));
        let same_id = [p(0, "a", Split::Train), p(0, "b", Split::Eval)];
        assert!(matches!(check_prompts(&same_id, true), Err(PromptsError::DuplicateId { .. })));
        assert!(matches!(
            check_prompts(&[p(0, " ", Split::Train)], false),
            Err(PromptsError::EmptyText { .. })
        ));
    }
}
