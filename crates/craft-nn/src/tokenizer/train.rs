//! Learns a small vocabulary from a corpus, in the format of CLIP's.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokenizers::normalizer::NormalizedString;
use tokenizers::normalizers::{Lowercase, NFC, NormalizerWrapper, Sequence as Normalizers};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    SplitDelimiterBehavior,
};

use super::clip::WORDS;
use super::error::TokenizerError;

pub(super) const BEGIN: &str = "<|startoftext|>";
pub(super) const END: &str = "<|endoftext|>";
pub(super) const WORD_END: &str = "</w>";

/// Texts of the files of a tokenizer that transformers' `CLIPTokenizer` loads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// `vocab.json`
    pub vocab_json: String,
    /// `merges.txt`
    pub merges_txt: String,
}

impl TokenizerFiles {
    /// `tokenizer_config.json` and `special_tokens_map.json`. `pad` is the padding token:
    /// `<|endoftext|>` as in SD 1.x, `!` (id 0) as in SD 2.x and open_clip.
    pub fn configs(max_length: usize, pad: &str) -> (String, String) {
        let special = json!({
            "bos_token": BEGIN, "eos_token": END, "pad_token": pad, "unk_token": END,
        });
        let mut config = special.clone();
        config["add_prefix_space"] = Value::Bool(false);
        config["do_lower_case"] = Value::Bool(true);
        config["errors"] = "replace".into();
        config["model_max_length"] = max_length.into();
        config["tokenizer_class"] = "CLIPTokenizer".into();
        (format!("{config:#}\n"), format!("{special:#}\n"))
    }
}

/// Byte-pair encoding learned from a corpus: the most frequent pair of neighbours becomes one
/// token, until every word of the corpus is one token or the vocabulary is full. Ties go to the
/// pair that comes first in the order of strings, so the same corpus gives the same bytes.
///
/// The vocabulary holds 256 bytes, 256 bytes that end a word, one token a merge, and the two
/// special tokens last; `vocab_size_limit` counts them all.
///
/// # Errors
/// When the limit has no room for the bytes and the special tokens.
pub fn train<'a>(
    corpus: impl Iterator<Item = &'a str>,
    vocab_size_limit: usize,
) -> Result<TokenizerFiles, TokenizerError> {
    let bytes = byte_symbols();
    let mut tokens: Vec<String> = bytes.iter().map(|(_, symbol)| symbol.to_string()).collect();
    tokens.extend(bytes.iter().map(|(_, symbol)| format!("{symbol}{WORD_END}")));
    if vocab_size_limit < tokens.len() + 2 {
        return Err(TokenizerError::Library(format!(
            "a vocabulary of {vocab_size_limit} tokens was asked for; expected at least {}, for all bytes and the special tokens",
            tokens.len() + 2
        )));
    }
    let table: BTreeMap<u8, char> = bytes.into_iter().collect();
    let mut known: BTreeSet<String> = tokens.iter().cloned().collect();
    let mut words = count_words(corpus, &table)?;
    let mut merges: Vec<(String, String)> = Vec::new();
    while let Some((a, b)) = best_pair(&words) {
        let merged = format!("{a}{b}");
        if known.insert(merged.clone()) {
            if tokens.len() + 2 == vocab_size_limit {
                break;
            }
            tokens.push(merged.clone());
        }
        for (parts, _) in &mut words {
            apply(parts, &a, &b, &merged);
        }
        merges.push((a, b));
    }
    tokens.extend([BEGIN.to_owned(), END.to_owned()]);
    let vocab: serde_json::Map<String, Value> =
        tokens.into_iter().enumerate().map(|(id, token)| (token, Value::from(id))).collect();
    let mut merges_txt = String::from("#version: 0.2\n");
    for (a, b) in merges {
        merges_txt.push_str(&format!("{a} {b}\n"));
    }
    Ok(TokenizerFiles { vocab_json: Value::Object(vocab).to_string(), merges_txt })
}

/// GPT-2's printable stand-ins of the bytes, in the order in which vocabularies list them:
/// printable bytes stand for themselves, the others for characters from 256 on.
pub(super) fn byte_symbols() -> Vec<(u8, char)> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut symbols: Vec<(u8, char)> =
        (0..=255).filter(|b| printable(*b)).map(|b| (b, char::from(b))).collect();
    let others = (0..=255u8).filter(|b| !printable(*b));
    symbols.extend(others.zip('\u{100}'..));
    symbols
}

/// Every word of the corpus as a list of tokens, with its count.
fn count_words<'a>(
    corpus: impl Iterator<Item = &'a str>,
    table: &BTreeMap<u8, char>,
) -> Result<Vec<(Vec<String>, u64)>, TokenizerError> {
    let library = |error: tokenizers::Error| TokenizerError::Library(error.to_string());
    let normalizer = Normalizers::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Lowercase(Lowercase),
    ]);
    let pattern = SplitPattern::Regex(WORDS.to_owned());
    let words = Split::new(pattern, SplitDelimiterBehavior::Removed, true).map_err(library)?;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for text in corpus {
        let mut text = NormalizedString::from(text);
        normalizer.normalize(&mut text).map_err(library)?;
        let mut split = PreTokenizedString::from(text);
        words.pre_tokenize(&mut split).map_err(library)?;
        for (word, _, _) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
    }
    Ok(counts
        .into_iter()
        .map(|(word, count)| {
            let mut parts: Vec<String> = word.bytes().map(|b| table[&b].to_string()).collect();
            if let Some(last) = parts.last_mut() {
                last.push_str(WORD_END);
            }
            (parts, count)
        })
        .collect())
}

fn best_pair(words: &[(Vec<String>, u64)]) -> Option<(String, String)> {
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (parts, count) in words {
        for pair in parts.windows(2) {
            *counts.entry((&pair[0], &pair[1])).or_default() += count;
        }
    }
    let mut best: Option<((&str, &str), u64)> = None;
    for (pair, count) in counts {
        if best.is_none_or(|(_, most)| count > most) {
            best = Some((pair, count));
        }
    }
    best.map(|((a, b), _)| (a.to_owned(), b.to_owned()))
}

fn apply(parts: &mut Vec<String>, a: &str, b: &str, merged: &str) {
    let mut i = 0;
    while i + 1 < parts.len() {
        if parts[i] == a && parts[i + 1] == b {
            parts[i] = merged.to_owned();
            parts.remove(i + 1);
        }
        i += 1;
    }
}
