//! The files of a CLIP tokenizer's folder, as texts.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::models::bpe::Merges;

use super::TokenizerError;
use super::added::{self, Listed};
use crate::config::shorten;

/// Texts of the files of a tokenizer's folder, those that there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerTexts<'a> {
    /// `vocab.json`: ids by token.
    pub vocab: Option<&'a str>,
    /// `merges.txt`: pairs of tokens, most frequent first.
    pub merges: Option<&'a str>,
    /// `tokenizer.json`: everything in one; its vocabulary is read where one of the former is
    /// missing.
    pub whole: Option<&'a str>,
    /// `tokenizer_config.json`.
    pub config: Option<&'a str>,
    /// `special_tokens_map.json`.
    pub special: Option<&'a str>,
    /// `added_tokens.json`: ids of tokens outside the vocabulary, as textual inversion adds them.
    pub added: Option<&'a str>,
}

/// What the files say.
pub(super) struct Parsed {
    pub(super) vocab: BTreeMap<String, u32>,
    pub(super) merges: Merges,
    pub(super) config: Map<String, Value>,
    pub(super) special: Map<String, Value>,
    pub(super) added: Vec<Listed>,
}

impl TokenizerTexts<'_> {
    pub(super) fn parse(&self) -> Result<Parsed, TokenizerError> {
        let config = object("tokenizer_config.json", self.config)?;
        let special = object("special_tokens_map.json", self.special)?;
        let whole = self.whole.map(whole).transpose()?;
        let names = added::named(&config, &special);
        let added = if let Some(listed) = config.get("added_tokens_decoder") {
            added::decoder(listed)?
        } else {
            let file = object("added_tokens.json", self.added)?;
            let beside = whole.as_ref().map_or(&[][..], |whole| &whole.added_tokens);
            added::older(&config, &special, &file, beside, &names)?
        };
        let (vocab, merges) = match (self.vocab, self.merges, whole) {
            (Some(vocab), Some(merges), _) => (parse_vocab(vocab)?, parse_merges(merges)?),
            (_, _, Some(whole)) => (whole.model.vocab, pairs(whole.model.merges)?),
            (None, _, None) => return Err(missing("vocab.json")),
            (Some(_), None, None) => return Err(missing("merges.txt")),
        };
        Ok(Parsed { vocab, merges, config, special, added })
    }
}

fn missing(file: &'static str) -> TokenizerError {
    TokenizerError::File {
        file,
        problem: "it is missing".to_owned(),
        expected: "vocab.json with merges.txt, or tokenizer.json",
    }
}

/// What matters of `tokenizer.json`; normalization and words are CLIP's own.
#[derive(Deserialize)]
struct Whole {
    model: WholeModel,
    #[serde(default)]
    added_tokens: Vec<Value>,
}

#[derive(Deserialize)]
struct WholeModel {
    /// Absent in files of the first versions.
    #[serde(rename = "type", default = "bpe")]
    kind: String,
    end_of_word_suffix: Option<String>,
    vocab: BTreeMap<String, u32>,
    merges: Vec<RawMerge>,
}

fn bpe() -> String {
    "BPE".to_owned()
}

/// A pair of tokens, or in older files both in one string.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawMerge {
    Pair(String, String),
    Line(String),
}

fn pairs(merges: Vec<RawMerge>) -> Result<Merges, TokenizerError> {
    let pair = |merge| match merge {
        RawMerge::Pair(a, b) => Ok((a, b)),
        RawMerge::Line(line) => match line.split_once(' ') {
            Some((a, b)) => Ok((a.to_owned(), b.to_owned())),
            None => Err(whole_error(format!("`{}` is no merge of two tokens", shorten(&line)))),
        },
    };
    merges.into_iter().map(pair).collect()
}

fn whole(json: &str) -> Result<Whole, TokenizerError> {
    let whole: Whole =
        serde_json::from_str(json).map_err(|error| whole_error(shorten(&error.to_string())))?;
    if whole.model.kind != "BPE" || whole.model.end_of_word_suffix.as_deref() != Some("</w>") {
        return Err(whole_error(format!(
            "its model is {} with the end of words marked by {}",
            shorten(&whole.model.kind),
            shorten(&format!("{:?}", whole.model.end_of_word_suffix))
        )));
    }
    Ok(whole)
}

fn whole_error(problem: String) -> TokenizerError {
    TokenizerError::File {
        file: "tokenizer.json",
        problem,
        expected: "the byte-pair encoding of a CLIP tokenizer, words ending in `</w>`",
    }
}

fn parse_vocab(json: &str) -> Result<BTreeMap<String, u32>, TokenizerError> {
    serde_json::from_str(json).map_err(|error| TokenizerError::File {
        file: "vocab.json",
        problem: shorten(&error.to_string()),
        expected: "an object of tokens and their ids",
    })
}

/// Merges of a file, one in a line.
pub(super) fn parse_merges(text: &str) -> Result<Merges, TokenizerError> {
    let mut merges = Merges::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || (index == 0 && line.contains("#version")) {
            continue;
        }
        match line.split_once(' ') {
            Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains(' ') => {
                merges.push((a.to_owned(), b.to_owned()));
            }
            _ => {
                return Err(TokenizerError::File {
                    file: "merges.txt",
                    problem: format!("line {} is `{}`", index + 1, shorten(line)),
                    expected: "two tokens with a space between on every line",
                });
            }
        }
    }
    Ok(merges)
}

fn object(file: &'static str, json: Option<&str>) -> Result<Map<String, Value>, TokenizerError> {
    let Some(json) = json else { return Ok(Map::new()) };
    serde_json::from_str(json).map_err(|error| TokenizerError::File {
        file,
        problem: shorten(&error.to_string()),
        expected: "a JSON object",
    })
}
