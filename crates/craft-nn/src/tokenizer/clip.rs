//! Text to ids.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{
    Lowercase, NFC, NormalizerWrapper, Replace, Sequence as Normalizers,
};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::clean::clean;
use super::train::{BEGIN, END, WORD_END, byte_symbols};

/// How CLIP cuts text into words.
pub(super) const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// Merges of CLIP's vocabulary of 49,408 tokens; the list it was published with goes on.
const CLIP_MERGES: usize = 49408 - 512 - 2;
/// CLIP's longest text.
const DEFAULT_LENGTH: usize = 77;
/// transformers writes an absurd number where there is no limit.
const NO_LIMIT: f64 = 1e6;

/// Why a tokenizer cannot be built.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// A file that is not what it should be.
    #[error("{file}: {problem}; expected {expected}: take all tokenizer files from one model")]
    File {
        /// The file.
        file: &'static str,
        /// What is wrong.
        problem: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A special token without an id.
    #[error(
        "the {role} token `{token}` is not in vocab.json; expected it there: take all tokenizer files from one model"
    )]
    Special {
        /// What the token is for.
        role: &'static str,
        /// The token.
        token: String,
    },
    /// A token beyond CLIP's own.
    #[error(
        "the tokenizer adds the token `{0}`, as textual inversion does, which is not supported; expected CLIP's own tokens: use the model's original tokenizer"
    )]
    Added(String),
    /// Too short to hold anything.
    #[error("model_max_length is {0}; expected at least 3, to hold begin, a word and end")]
    Length(usize),
    /// The library refused the parts.
    #[error("the tokenizer cannot be built from vocab.json and merges.txt: {0}")]
    Library(String),
}

/// Ids of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Begin, tokens, end, padding; exactly as many as the tokenizer's length.
    pub ids: Vec<u32>,
    /// How many tokens did not fit and were cut off at the end.
    pub tokens_cut: usize,
}

/// CLIP's tokenizer.
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    inner: Tokenizer,
    bos: u32,
    eos: u32,
    pad: u32,
    length: usize,
    cleaning: bool,
}

impl ClipTokenizer {
    /// A tokenizer from the texts of the files of transformers' `CLIPTokenizer`: `vocab.json`,
    /// `merges.txt`, and where there are any `tokenizer_config.json` and `special_tokens_map.json`.
    ///
    /// As in transformers, the map of special tokens wins over the config unless the config lists
    /// `added_tokens_decoder`. Without either: padding with the end token, 77 tokens.
    ///
    /// # Errors
    /// When a file is malformed or a special token has no id.
    pub fn from_files(
        vocab_json: &str,
        merges_txt: &str,
        tokenizer_config: Option<&str>,
        special_tokens_map: Option<&str>,
    ) -> Result<Self, TokenizerError> {
        let vocab = parse_vocab(vocab_json)?;
        let merges = parse_merges(merges_txt)?;
        Self::new(vocab, merges, tokenizer_config, special_tokens_map)
    }

    /// A tokenizer from the text of `tokenizer.json`, which newer versions of transformers write in place
    /// of `vocab.json` and `merges.txt`; otherwise as [`ClipTokenizer::from_files`].
    ///
    /// # Errors
    /// When a file is malformed, is not that of a CLIP tokenizer, or a special token has no id.
    pub fn from_tokenizer_json(
        tokenizer_json: &str,
        tokenizer_config: Option<&str>,
        special_tokens_map: Option<&str>,
    ) -> Result<Self, TokenizerError> {
        let whole: Whole =
            serde_json::from_str(tokenizer_json).map_err(|error| whole_error(error.to_string()))?;
        if whole.model.kind != "BPE" || whole.model.end_of_word_suffix.as_deref() != Some("</w>") {
            return Err(whole_error(format!(
                "its model is {} with the end of words marked by {:?}",
                whole.model.kind, whole.model.end_of_word_suffix
            )));
        }
        let mut vocab = whole.model.vocab;
        let added = whole.added_tokens.iter().map(|token| &token.content);
        refuse_added(added, &vocab)?;
        vocab.extend(whole.added_tokens.into_iter().map(|token| (token.content, token.id)));
        let merges =
            whole.model.merges.into_iter().map(RawMerge::pair).collect::<Result<_, _>>()?;
        Self::new(vocab, merges, tokenizer_config, special_tokens_map)
    }

    /// A tokenizer from its merges alone, as open_clip has them (`bpe_simple_vocab_16e6.txt`; a
    /// `merges.txt` is the same): ids follow from their order. Of more than CLIP's 48,894 merges the
    /// rest is left out.
    ///
    /// # Errors
    /// When the text is malformed.
    pub fn from_merges(
        merges_txt: &str,
        tokenizer_config: Option<&str>,
        special_tokens_map: Option<&str>,
    ) -> Result<Self, TokenizerError> {
        let (vocab, merges) = from_merges(merges_txt)?;
        Self::new(vocab, merges, tokenizer_config, special_tokens_map)
    }

    /// The ids of all tokens that follow from such merges.
    ///
    /// # Errors
    /// When the text is malformed.
    pub fn vocabulary_of_merges(merges_txt: &str) -> Result<BTreeMap<String, u32>, TokenizerError> {
        from_merges(merges_txt).map(|(vocab, _)| vocab)
    }

    fn new(
        vocab: BTreeMap<String, u32>,
        merges: Merges,
        tokenizer_config: Option<&str>,
        special_tokens_map: Option<&str>,
    ) -> Result<Self, TokenizerError> {
        let config = parse_object("tokenizer_config.json", tokenizer_config)?;
        let map = parse_object("special_tokens_map.json", special_tokens_map)?;
        let added = config.get("added_tokens_decoder").and_then(Value::as_object);
        let added: Vec<String> = added
            .into_iter()
            .flat_map(|map| map.values())
            .filter_map(|v| token_text(Some(v)))
            .collect();
        refuse_added(added.iter(), &vocab)?;
        let special = |key: &str, default: &str| {
            let from_map = token_text(map.get(key));
            let from_config = token_text(config.get(key));
            let chosen = if config.contains_key("added_tokens_decoder") {
                from_config.or(from_map)
            } else {
                from_map.or(from_config)
            };
            chosen.unwrap_or_else(|| default.to_owned())
        };
        let bos = special("bos_token", BEGIN);
        let eos = special("eos_token", END);
        let unk = special("unk_token", END);
        let pad = special("pad_token", &eos);
        let id = |role: &'static str, token: &str| match vocab.get(token) {
            Some(id) => Ok(*id),
            None => Err(TokenizerError::Special { role, token: token.to_owned() }),
        };
        let (bos_id, eos_id) = (id("begin", &bos)?, id("end", &eos)?);
        let pad_id = id("padding", &pad)?;
        id("unknown", &unk)?;
        let length = match config.get("model_max_length").and_then(Value::as_f64) {
            Some(length) if length < NO_LIMIT => length as usize,
            _ => DEFAULT_LENGTH,
        };
        let inner = build(vocab, merges, &unk, [&bos, &eos])
            .map_err(|error| TokenizerError::Library(error.to_string()))?;
        let (bos, eos, pad) = (bos_id, eos_id, pad_id);
        Self { inner, bos, eos, pad, length: DEFAULT_LENGTH, cleaning: false }.with_length(length)
    }

    /// The same tokenizer with another length.
    ///
    /// # Errors
    /// When it is less than 3.
    pub fn with_length(mut self, length: usize) -> Result<Self, TokenizerError> {
        if length < 3 {
            return Err(TokenizerError::Length(length));
        }
        self.length = length;
        Ok(self)
    }

    /// The same tokenizer with another padding id (open_clip pads with 0).
    #[must_use]
    pub fn with_pad(mut self, pad: u32) -> Self {
        self.pad = pad;
        self
    }

    /// The same tokenizer as open_clip and OpenAI's CLIP have it: texts are cleaned by [`clean`],
    /// padding is 0, and the names of the special tokens are words like others.
    #[must_use]
    pub fn with_open_clip_rules(mut self) -> Self {
        self.inner.set_encode_special_tokens(true);
        self.cleaning = true;
        self.with_pad(0)
    }

    /// How many ids a text has.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Id of the end token.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// How many ids there are.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The ids of a text.
    pub fn encode(&self, text: &str) -> Encoded {
        let text = if self.cleaning { Cow::from(clean(text)) } else { Cow::from(text) };
        // Nothing here can fail: the pattern is valid, and every byte has an id or is unknown.
        let tokens = match self.inner.encode_fast(text, false) {
            Ok(encoding) => encoding.get_ids().to_vec(),
            Err(error) => unreachable!("byte-level BPE encodes every text: {error}"),
        };
        let kept = tokens.len().min(self.length - 2);
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.bos);
        ids.extend_from_slice(&tokens[..kept]);
        ids.push(self.eos);
        ids.resize(self.length, self.pad);
        Encoded { ids, tokens_cut: tokens.len() - kept }
    }
}

/// What matters of `tokenizer.json`; normalization and words are CLIP's own.
#[derive(Deserialize)]
struct Whole {
    model: WholeModel,
    #[serde(default)]
    added_tokens: Vec<WholeToken>,
}

#[derive(Deserialize)]
struct WholeModel {
    #[serde(rename = "type")]
    kind: String,
    end_of_word_suffix: Option<String>,
    vocab: BTreeMap<String, u32>,
    merges: Vec<RawMerge>,
}

#[derive(Deserialize)]
struct WholeToken {
    id: u32,
    content: String,
}

/// A pair of tokens, or in older files both in one string.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawMerge {
    Pair(String, String),
    Line(String),
}

impl RawMerge {
    fn pair(self) -> Result<(String, String), TokenizerError> {
        match self {
            Self::Pair(a, b) => Ok((a, b)),
            Self::Line(line) => match line.split_once(' ') {
                Some((a, b)) => Ok((a.to_owned(), b.to_owned())),
                None => Err(whole_error(format!("`{line}` is no merge of two tokens"))),
            },
        }
    }
}

fn whole_error(problem: String) -> TokenizerError {
    TokenizerError::File {
        file: "tokenizer.json",
        problem,
        expected: "the byte-pair encoding of a CLIP tokenizer, words ending in `</w>`",
    }
}

fn build(
    vocab: BTreeMap<String, u32>,
    merges: Merges,
    unk: &str,
    specials: [&str; 2],
) -> tokenizers::Result<Tokenizer> {
    let vocab: Vocab = vocab.into_iter().collect();
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .unk_token(unk.to_owned())
        .end_of_word_suffix("</w>".to_owned())
        .build()?;
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    let words =
        Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(Normalizers::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Replace(spaces),
        NormalizerWrapper::Lowercase(Lowercase),
    ])))?;
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![
        PreTokenizerWrapper::Split(words),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false)),
    ])));
    tokenizer.add_special_tokens(specials.map(|token| AddedToken::from(token, true)))?;
    Ok(tokenizer)
}

/// Refuses added tokens that are neither in the vocabulary nor marks of begin and end.
fn refuse_added<'a>(
    mut added: impl Iterator<Item = &'a String>,
    vocab: &BTreeMap<String, u32>,
) -> Result<(), TokenizerError> {
    let own = |t: &str| vocab.contains_key(t) || (t.starts_with("<|") && t.ends_with("|>"));
    match added.find(|token| !own(token)) {
        Some(token) => Err(TokenizerError::Added(token.clone())),
        None => Ok(()),
    }
}

fn parse_vocab(json: &str) -> Result<BTreeMap<String, u32>, TokenizerError> {
    serde_json::from_str(json).map_err(|error| TokenizerError::File {
        file: "vocab.json",
        problem: error.to_string(),
        expected: "an object of tokens and their ids",
    })
}

/// Vocabulary and merges by CLIP's rule: bytes, bytes at the end of a word, merges, begin and end.
fn from_merges(merges_txt: &str) -> Result<(BTreeMap<String, u32>, Merges), TokenizerError> {
    let mut merges = parse_merges(merges_txt)?;
    merges.truncate(CLIP_MERGES);
    let symbols = byte_symbols().into_iter().map(|(_, symbol)| symbol.to_string());
    let symbols: Vec<String> = symbols.collect();
    let ends = symbols.iter().map(|symbol| format!("{symbol}{WORD_END}"));
    let merged = merges.iter().map(|(a, b)| format!("{a}{b}"));
    let special = [BEGIN, END].map(str::to_owned);
    let mut vocab = BTreeMap::new();
    for (id, token) in symbols.iter().cloned().chain(ends).chain(merged).chain(special).enumerate()
    {
        vocab.entry(token).or_insert(id as u32);
    }
    Ok((vocab, merges))
}

fn parse_merges(text: &str) -> Result<Merges, TokenizerError> {
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
                    problem: format!("line {} is `{line}`", index + 1),
                    expected: "two tokens with a space between on every line",
                });
            }
        }
    }
    Ok(merges)
}

fn parse_object(
    file: &'static str,
    json: Option<&str>,
) -> Result<serde_json::Map<String, Value>, TokenizerError> {
    let Some(json) = json else {
        return Ok(serde_json::Map::new());
    };
    serde_json::from_str(json).map_err(|error| TokenizerError::File {
        file,
        problem: error.to_string(),
        expected: "a JSON object",
    })
}

/// A special token is a string or an object with its text as `content`.
fn token_text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Object(object) => object.get("content")?.as_str().map(str::to_owned),
        _ => None,
    }
}
