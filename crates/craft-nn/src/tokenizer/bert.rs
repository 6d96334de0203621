//! BERT's uncased WordPiece, as BLIP uses it (`transformers/models/bert/tokenization_bert.py`).

use std::collections::BTreeMap;

use serde::Deserialize;
use tokenizers::Tokenizer;
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

use super::clip::Encoded;
use super::error::TokenizerError;

const FILE: &str = "vocab.txt";

/// Tokenizer of `bert-base-uncased`: lower case without accents, words and punctuation apart, words
/// cut into the longest pieces of the vocabulary.
#[derive(Clone, Debug)]
pub struct BertTokenizer {
    inner: Tokenizer,
    cls: u32,
    sep: u32,
    pad: u32,
    length: usize,
}

impl BertTokenizer {
    /// A tokenizer from the text of `vocab.txt` (one token a line, the line's number is its id),
    /// for texts of `length` ids.
    ///
    /// # Errors
    /// When a token occurs twice or a special token is missing.
    pub fn from_vocab(vocab_txt: &str, length: usize) -> Result<Self, TokenizerError> {
        let mut ids: BTreeMap<&str, u32> = BTreeMap::new();
        let lines = vocab_txt.lines().map(|line| line.trim_end_matches('\r'));
        for (id, token) in lines.enumerate() {
            if ids.insert(token, id as u32).is_some() {
                return Err(TokenizerError::File {
                    file: FILE,
                    problem: format!("line {} repeats the token `{token}`", id + 1),
                    expected: "each token once, as in bert-base-uncased",
                });
            }
        }
        let ids = ids.into_iter().map(|(token, id)| (token.to_owned(), id)).collect();
        Self::from_ids(ids, length)
    }

    /// The same from `tokenizer.json`, which newer transformers write instead of `vocab.txt`.
    ///
    /// # Errors
    /// When it is malformed or not WordPiece, or a special token is missing.
    pub fn from_tokenizer_json(json: &str, length: usize) -> Result<Self, TokenizerError> {
        #[derive(Deserialize)]
        struct File {
            model: Model,
        }
        #[derive(Deserialize)]
        struct Model {
            #[serde(rename = "type")]
            kind: String,
            vocab: BTreeMap<String, u32>,
        }
        let error = |problem: String| TokenizerError::File {
            file: "tokenizer.json",
            problem,
            expected: "a `model` of type WordPiece with a `vocab`",
        };
        let file: File = serde_json::from_str(json).map_err(|e| error(e.to_string()))?;
        if file.model.kind != "WordPiece" {
            return Err(error(format!("its type is {}", file.model.kind)));
        }
        Self::from_ids(file.model.vocab, length)
    }

    fn from_ids(ids: BTreeMap<String, u32>, length: usize) -> Result<Self, TokenizerError> {
        if length < 3 {
            return Err(TokenizerError::Length(length));
        }
        let special = |role, token: &str| match ids.get(token) {
            Some(id) => Ok(*id),
            None => Err(TokenizerError::File {
                file: FILE,
                problem: format!("the {role} token {token} is missing"),
                expected: "the vocabulary of bert-base-uncased",
            }),
        };
        let (cls, sep) = (special("begin", "[CLS]")?, special("end", "[SEP]")?);
        let pad = special("padding", "[PAD]")?;
        special("unknown", "[UNK]")?;
        let vocab: Vocab = ids.into_iter().collect();
        let library = |error: tokenizers::Error| TokenizerError::Library(error.to_string());
        let model = WordPiece::builder()
            .vocab(vocab)
            .unk_token("[UNK]".to_owned())
            .build()
            .map_err(library)?;
        let mut inner = Tokenizer::new(model);
        inner
            .with_normalizer(Some(BertNormalizer::new(true, true, None, true)))
            .map_err(library)?;
        inner.with_pre_tokenizer(Some(BertPreTokenizer));
        Ok(Self { inner, cls, sep, pad, length })
    }

    /// How many ids a text has.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Id of the padding.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The largest id and one.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Begin, tokens, end and padding; and how many tokens were cut off.
    pub fn encode(&self, text: &str) -> Encoded {
        let tokens = match self.inner.encode_fast(text, false) {
            Ok(encoding) => encoding.get_ids().to_vec(),
            Err(error) => unreachable!("WordPiece has an unknown token: {error}"),
        };
        let kept = tokens.len().min(self.length - 2);
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.cls);
        ids.extend_from_slice(&tokens[..kept]);
        ids.push(self.sep);
        ids.resize(self.length, self.pad);
        Encoded { ids, tokens_cut: tokens.len() - kept }
    }
}
