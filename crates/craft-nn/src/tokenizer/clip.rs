//! Text to ids.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{
    Lowercase, NFC, NormalizerWrapper, Replace, Sequence as Normalizers,
};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use super::added::{self, Listed};
use super::clean::clean;
use super::error::TokenizerError;
use super::files::{Parsed, TokenizerTexts, parse_merges};
use super::train::{BEGIN, END, WORD_END, byte_symbols};
use crate::config::shorten;

/// How CLIP cuts text into words.
pub(super) const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// Merges of CLIP's vocabulary of 49,408 tokens; the list it was published with goes on.
const CLIP_MERGES: usize = 49408 - 512 - 2;
/// CLIP's longest text.
const DEFAULT_LENGTH: usize = 77;
/// transformers writes an absurd number if there is no limit.
const NO_LIMIT: f64 = 1e6;

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
    /// Whether the files say the length.
    told: bool,
    cleaning: bool,
    /// Tokens of concepts that stand for several, and the texts that stand for them.
    concepts: Vec<(u32, String, String)>,
}

impl ClipTokenizer {
    /// A tokenizer from the texts of the files of its folder, in any layout of transformers'
    /// `CLIPTokenizer`: `vocab.json` and `merges.txt`, or `tokenizer.json`.
    ///
    /// As in transformers, the map of special tokens wins over the config unless the config lists
    /// `added_tokens_decoder`. Without either: padding with the end token, 77 tokens.
    ///
    /// # Errors
    /// When a file is missing or malformed, is not that of a CLIP tokenizer, or a token has no id.
    pub fn from_texts(texts: &TokenizerTexts<'_>) -> Result<Self, TokenizerError> {
        Self::new(texts.parse()?)
    }

    /// [`ClipTokenizer::from_texts`] of `vocab.json`, `merges.txt` and, if given,
    /// `tokenizer_config.json` and `special_tokens_map.json`.
    ///
    /// # Errors
    /// The same.
    pub fn from_files(
        vocab_json: &str,
        merges_txt: &str,
        tokenizer_config: Option<&str>,
        special_tokens_map: Option<&str>,
    ) -> Result<Self, TokenizerError> {
        Self::from_texts(&TokenizerTexts {
            vocab: Some(vocab_json),
            merges: Some(merges_txt),
            config: tokenizer_config,
            special: special_tokens_map,
            ..Default::default()
        })
    }

    /// [`ClipTokenizer::from_texts`] of `tokenizer.json` and, if given,
    /// `tokenizer_config.json` and `special_tokens_map.json`.
    ///
    /// # Errors
    /// The same.
    pub fn from_tokenizer_json(
        tokenizer_json: &str,
        tokenizer_config: Option<&str>,
        special_tokens_map: Option<&str>,
    ) -> Result<Self, TokenizerError> {
        Self::from_texts(&TokenizerTexts {
            whole: Some(tokenizer_json),
            config: tokenizer_config,
            special: special_tokens_map,
            ..Default::default()
        })
    }

    /// A tokenizer from its merges alone, as open_clip has them (`bpe_simple_vocab_16e6.txt`; a
    /// `merges.txt` is the same): ids follow from their order. Of more than CLIP's 48,894 merges
    /// the rest is left out.
    ///
    /// # Errors
    /// When the text is malformed.
    pub fn from_merges(
        merges_txt: &str,
        tokenizer_config: Option<&str>,
        special_tokens_map: Option<&str>,
    ) -> Result<Self, TokenizerError> {
        let (vocab, merges) = from_merges(merges_txt)?;
        let texts = TokenizerTexts {
            vocab: Some("{}"),
            merges: Some(""),
            config: tokenizer_config,
            special: special_tokens_map,
            ..Default::default()
        };
        Self::new(Parsed { vocab, merges, ..texts.parse()? })
    }

    /// The ids of all tokens that follow from such merges.
    ///
    /// # Errors
    /// When the text is malformed.
    pub fn vocabulary_of_merges(merges_txt: &str) -> Result<BTreeMap<String, u32>, TokenizerError> {
        from_merges(merges_txt).map(|(vocab, _)| vocab)
    }

    fn new(parsed: Parsed) -> Result<Self, TokenizerError> {
        let Parsed { mut vocab, merges, config, special: map, added } = parsed;
        let named = added::named(&config, &map);
        let role = |key: &str, default: &str| {
            named.get(key).and_then(|v| added::text(v)).unwrap_or(default).to_owned()
        };
        let (bos, eos) = (role("bos_token", BEGIN), role("eos_token", END));
        let (unk, pad) = (role("unk_token", END), role("pad_token", &eos));
        let id = |role: &'static str, token: &str, vocab: &mut BTreeMap<String, u32>| {
            // Files of one `tokenizer.json` have some of these outside the vocabulary.
            let listed = added.iter().find(|l| l.token.content == token).and_then(|l| l.id);
            match (vocab.get(token).copied(), listed) {
                (Some(id), _) => Ok(id),
                (None, Some(id)) => {
                    vocab.insert(token.to_owned(), id);
                    Ok(id)
                }
                (None, None) => Err(TokenizerError::Special { role, token: shorten(token) }),
            }
        };
        let bos_id = id("begin", &bos, &mut vocab)?;
        let eos_id = id("end", &eos, &mut vocab)?;
        let pad_id = id("padding", &pad, &mut vocab)?;
        id("unknown", &unk, &mut vocab)?;
        let told = length(&config)?;
        let mut inner = build(vocab, merges, &unk).map_err(library)?;
        let mut special = added::special(&named, &config, &map, &added);
        // CLIP's own names of begin and end are roles only if they are tokens.
        let own = |token: &str| token == BEGIN || token == END;
        special.retain(|l| !own(&l.token.content) || inner.token_to_id(&l.token.content).is_some());
        let all: Vec<Listed> = added.into_iter().chain(special).collect();
        add(&mut inner, &all)?;
        let concepts = concepts(&inner, &all);
        let (bos, eos, pad) = (bos_id, eos_id, pad_id);
        let length = DEFAULT_LENGTH;
        let tokenizer =
            Self { inner, bos, eos, pad, length, told: false, cleaning: false, concepts };
        match told {
            Some(length) => Ok(Self { told: true, ..tokenizer.with_length(length)? }),
            None => Ok(tokenizer),
        }
    }

    /// The same tokenizer for a text encoder that reads `positions` tokens and knows `rows` of
    /// them. Where the files say no length, it becomes that of the text encoder.
    ///
    /// # Errors
    /// When the files say a larger length, or a token's id is at or above `rows`.
    pub fn for_encoder(self, positions: usize, rows: usize) -> Result<Self, TokenizerError> {
        let ids = self.inner.get_vocab(true).into_iter();
        let beyond = ids.filter(|(_, id)| *id as usize >= rows).min_by_key(|(_, id)| *id);
        if let Some((token, id)) = beyond {
            return Err(TokenizerError::NoRow { token: shorten(&token), id, rows });
        }
        match self.told {
            true if self.length > positions => {
                Err(TokenizerError::TooLong { found: self.length, expected: positions })
            }
            true => Ok(self),
            false => self.with_length(positions),
        }
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
        self.concepts.clear();
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
        let mut tokens = self.ids(&text);
        if self.concepts.iter().any(|(id, ..)| tokens.contains(id)) {
            tokens = self.ids(&self.in_full(&text, &tokens));
        }
        let kept = tokens.len().min(self.length - 2);
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.bos);
        ids.extend_from_slice(&tokens[..kept]);
        ids.push(self.eos);
        ids.resize(self.length, self.pad);
        Encoded { ids, tokens_cut: tokens.len() - kept }
    }

    /// The ids of a text's tokens alone.
    fn ids(&self, text: &str) -> Vec<u32> {
        // Nothing here can fail: the pattern is valid, and every byte has an id or is unknown.
        match self.inner.encode_fast(text, false) {
            Ok(encoding) => encoding.get_ids().to_vec(),
            Err(error) => unreachable!("byte-level BPE encodes every text: {error}"),
        }
    }

    /// A text with every concept of several vectors written out: `<a>` becomes `<a> <a>_1 <a>_2`.
    /// Source: `diffusers/loaders/textual_inversion.py`, `maybe_convert_prompt`.
    fn in_full(&self, text: &str, tokens: &[u32]) -> String {
        let mut text = text.to_owned();
        for (id, token, all) in &self.concepts {
            if tokens.contains(id) {
                text = text.replace(token, all);
            }
        }
        text
    }
}

/// `model_max_length`; transformers writes an absurd number if there is no limit.
fn length(config: &Map<String, Value>) -> Result<Option<usize>, TokenizerError> {
    let Some(value) = config.get("model_max_length").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    match value.as_f64() {
        Some(length) if length >= NO_LIMIT => Ok(None),
        Some(length) if length >= 0.0 && length.fract() == 0.0 => Ok(Some(length as usize)),
        _ => Err(TokenizerError::File {
            file: "tokenizer_config.json",
            problem: format!("model_max_length is {}", shorten(&value.to_string())),
            expected: "a whole number of tokens",
        }),
    }
}

fn library(error: impl std::fmt::Display) -> TokenizerError {
    TokenizerError::Library(shorten(&error.to_string()))
}

/// Adds tokens. One that is in the vocabulary keeps its id there, others get the next free ids.
fn add(inner: &mut Tokenizer, tokens: &[Listed]) -> Result<(), TokenizerError> {
    let known: Vec<bool> =
        tokens.iter().map(|l| inner.token_to_id(&l.token.content).is_some()).collect();
    inner.add_tokens(tokens.iter().map(|l| l.token.clone())).map_err(library)?;
    for (Listed { token, id }, _) in tokens.iter().zip(known).filter(|(_, known)| !known) {
        match (*id, inner.token_to_id(&token.content)) {
            (Some(found), Some(expected)) if found != expected => {
                let token = shorten(&token.content);
                return Err(TokenizerError::Added { token, found, expected });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Added tokens with numbered companions, and the texts that stand for all of them.
fn concepts(inner: &Tokenizer, added: &[Listed]) -> Vec<(u32, String, String)> {
    let names: BTreeSet<&str> = added.iter().map(|l| l.token.content.as_str()).collect();
    let companions = |token: &str| -> String {
        let all = (1..).map(|n| format!("{token}_{n}"));
        let all = all.take_while(|name| names.contains(name.as_str()));
        all.map(|name| format!(" {name}")).collect()
    };
    let concept = |token: &&str| {
        let more = companions(token);
        let id = inner.token_to_id(token).filter(|_| !more.is_empty())?;
        Some((id, (*token).to_owned(), format!("{token}{more}")))
    };
    names.iter().filter_map(concept).collect()
}

fn build(vocab: BTreeMap<String, u32>, merges: Merges, unk: &str) -> tokenizers::Result<Tokenizer> {
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
    Ok(tokenizer)
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
