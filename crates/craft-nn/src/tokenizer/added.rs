//! Tokens that are found in a text before it is cut into words: the special ones, and those that
//! textual inversion adds.
//!
//! Which tokens a folder adds is decided as in transformers: `added_tokens_decoder` of
//! `tokenizer_config.json` if there is one; else `special_tokens_map.json`, `added_tokens.json` and
//! the `added_tokens` of `tokenizer.json`. So where padding is `!` (Stable Diffusion 2, SDXL's
//! second tokenizer), an exclamation mark in a text is the padding token and splits the word that
//! it stands in. Source: `transformers/tokenization_utils_base.py`, `_from_pretrained`;
//! `tokenization_utils_tokenizers.py`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::TokenizerError;
use super::train::{BEGIN, END};
use crate::config::shorten;

/// Keys of the special tokens that have a role.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Those that a CLIP tokenizer has where no file says otherwise.
const OWN: [(&str, &str); 4] =
    [("bos_token", BEGIN), ("eos_token", END), ("unk_token", END), ("pad_token", END)];
/// Keys of lists of further special tokens.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];
/// Most tokens that are added; textual inversion adds a few for each concept.
const MOST: usize = 100_000;

/// An added token with the id that the files give it.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) token: AddedToken,
    pub(super) id: Option<u32>,
}

/// The special tokens by role: text, or object with text and flags. As in transformers the map wins
/// over the config, unless the config lists `added_tokens_decoder`.
pub(super) fn named<'a>(
    config: &'a Map<String, Value>,
    map: &'a Map<String, Value>,
) -> BTreeMap<&'static str, &'a Value> {
    let lists = config.contains_key("added_tokens_decoder");
    let (first, second) = if lists { (config, map) } else { (map, config) };
    let told = |from: &'a Map<String, Value>, key| from.get(key).filter(|v| text(v).is_some());
    let role = |key| Some((key, told(first, key).or_else(|| told(second, key))?));
    ROLES.into_iter().filter_map(role).collect()
}

/// A special token is a string or an object with its text as `content`.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Object(object) => object.get("content")?.as_str(),
        _ => None,
    }
}

/// A token with its flags; those of a string are a special token's.
fn token(value: &Value, special: Option<bool>) -> Option<AddedToken> {
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    let special = special.or_else(|| flag("special")).unwrap_or(value.is_string());
    let token = AddedToken::from(text(value)?, special)
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .single_word(flag("single_word").unwrap_or(false));
    let normalized = flag("normalized").unwrap_or(token.normalized);
    Some(token.normalized(normalized))
}

fn bad(file: &'static str, what: &str, value: &Value) -> TokenizerError {
    TokenizerError::File {
        file,
        problem: format!("{what} is {}", shorten(&value.to_string())),
        expected: "tokens with ids, each a text or an object with `content`",
    }
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// By id; a later one takes the place of an earlier one.
#[derive(Default)]
struct ById(BTreeMap<u32, AddedToken>);

impl ById {
    fn list(self) -> Vec<Listed> {
        self.0.into_iter().map(|(id, token)| Listed { token, id: Some(id) }).collect()
    }

    fn put(
        &mut self,
        file: &'static str,
        id: u32,
        token: AddedToken,
    ) -> Result<(), TokenizerError> {
        self.0.insert(id, token);
        if self.0.len() <= MOST {
            return Ok(());
        }
        let problem = format!("it adds more than {MOST} tokens");
        Err(TokenizerError::File { file, problem, expected: "a few tokens beside the vocabulary" })
    }
}

/// The tokens of `added_tokens_decoder`.
pub(super) fn decoder(value: &Value) -> Result<Vec<Listed>, TokenizerError> {
    const FILE: &str = "tokenizer_config.json";
    let wrong = |value| bad(FILE, "added_tokens_decoder", value);
    let Value::Object(listed) = value else { return Err(wrong(value)) };
    let mut all = ById::default();
    for (id, value) in listed {
        match (id.parse(), token(value, None)) {
            (Ok(id), Some(token)) => all.put(FILE, id, token)?,
            _ => return Err(bad(FILE, &format!("token {}", shorten(id)), value)),
        }
    }
    Ok(all.list())
}

/// The tokens that older folders add: of the map of special tokens those with flags, of
/// `added_tokens.json`, and of `tokenizer.json`.
pub(super) fn older(
    config: &Map<String, Value>,
    map: &Map<String, Value>,
    file: &Map<String, Value>,
    whole: &[Value],
    named: &BTreeMap<&'static str, &Value>,
) -> Result<Vec<Listed>, TokenizerError> {
    let mut all = ById::default();
    // The map's older name for this list is not asked here, in transformers either.
    let extra = map.get(LISTS[1]).and_then(Value::as_array).into_iter().flatten();
    let special: BTreeSet<&str> =
        named.values().copied().chain(lists(config)).chain(extra).filter_map(text).collect();
    for (content, value) in file {
        let id = id(value).ok_or_else(|| {
            bad("added_tokens.json", &format!("the id of `{}`", shorten(content)), value)
        })?;
        let special = special.contains(content.as_str());
        all.put("added_tokens.json", id, AddedToken::from(content.as_str(), special))?;
    }
    for value in whole {
        let wrong = || bad("tokenizer.json", "an added token", value);
        let id = value.get("id").and_then(id).ok_or_else(wrong)?;
        let special = value.get("special").and_then(Value::as_bool).unwrap_or(false);
        all.put("tokenizer.json", id, token(value, Some(special)).ok_or_else(wrong)?)?;
    }
    Ok(all.list())
}

/// Members of the lists of further special tokens.
fn lists(map: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    LISTS.iter().filter_map(|key| map.get(*key)?.as_array()).flatten()
}

/// The special tokens that no list names, in the order of their roles; `lists` of both files tell
/// further ones. A later one of the same text takes the place of an earlier one, with its flags.
pub(super) fn special(
    named: &BTreeMap<&'static str, &Value>,
    config: &Map<String, Value>,
    map: &Map<String, Value>,
    listed: &[Listed],
) -> Vec<Listed> {
    let known: BTreeSet<&str> = listed.iter().map(|l| l.token.content.as_str()).collect();
    let own = |role: &str| OWN.iter().find(|(own, _)| *own == role).map(|(_, text)| *text);
    let roles = ROLES.iter().filter_map(|role| match named.get(role) {
        Some(value) => token(value, Some(true)),
        None => own(role).map(|text| AddedToken::from(text, true)),
    });
    let more = lists(config).chain(lists(map)).filter_map(|value| token(value, Some(true)));
    roles
        .chain(more)
        .filter(|token| !token.content.is_empty() && !known.contains(token.content.as_str()))
        .map(|token| Listed { token, id: None })
        .collect()
}
