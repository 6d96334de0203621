//! The template expander.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::rng::{Key, Stream};

/// A list of templates that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Not TOML, or a key of the wrong kind.
    #[error("the template list is not readable: {0}")]
    Syntax(String),
    /// No template in the list.
    #[error("the template list is empty: add [[template]] text = \"{{prompt}}, …\"")]
    Empty,
    /// A template that leaves the prompt out.
    #[error("template {number} (`{text}`) does not contain {{prompt}}")]
    NoPrompt {
        /// Which template, from 1.
        number: usize,
        /// Its text.
        text: String,
    },
    /// A placeholder without a slot, or braces that do not match.
    #[error("template {number} (`{text}`): {message}")]
    Placeholder {
        /// Which template, from 1.
        number: usize,
        /// Its text.
        text: String,
        /// What is wrong.
        message: String,
    },
    /// A slot that cannot be used.
    #[error("slot `{name}`: {message}")]
    Slot {
        /// Its name.
        name: String,
        /// What is wrong.
        message: String,
    },
}

/// A prompt that has too few wordings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// The templates give fewer distinct wordings than wanted.
    #[error(
        "the templates give only {found} different wordings of `{prompt}`, and {wanted} are wanted: add templates or lower expand.variants"
    )]
    TooFew {
        /// The prompt.
        prompt: String,
        /// How many are wanted.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawList {
    #[serde(default)]
    slot: Vec<RawSlot>,
    #[serde(default)]
    template: Vec<RawTemplate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSlot {
    name: String,
    values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTemplate {
    text: String,
    #[serde(default)]
    replace: Vec<[String; 2]>,
}

/// A piece of a template's text.
#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Prompt,
    /// One of the values of a slot.
    Slot(Vec<String>),
}

/// One way of wording a prompt, or as many as its slots have combinations.
#[derive(Debug, Clone, PartialEq)]
struct Template {
    pieces: Vec<Piece>,
    replace: Vec<[String; 2]>,
}

/// A checked list of templates.
///
/// ```toml
/// [[slot]]
/// name = "light"
/// values = ["soft light", "hard light"]
///
/// [[template]]
/// text = "{prompt}, crisp, {light}"
/// replace = [["red", "orange"]]
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Templates {
    templates: Vec<Template>,
}

impl Templates {
    /// Parses a list. Slots may be named by any number of templates.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let raw: RawList =
            toml::from_str(text).map_err(|e| TemplateError::Syntax(e.to_string()))?;
        let mut slots: BTreeMap<&str, &[String]> = BTreeMap::new();
        for slot in &raw.slot {
            let fail = |message: &str| {
                Err(TemplateError::Slot { name: slot.name.clone(), message: message.to_owned() })
            };
            if slot.name.is_empty() || slot.name == "prompt" {
                return fail("expected a name other than `prompt`");
            }
            if slot.values.is_empty() {
                return fail("it has no values");
            }
            if slots.insert(&slot.name, &slot.values).is_some() {
                return fail("it is defined twice");
            }
        }
        let templates = raw
            .template
            .iter()
            .enumerate()
            .map(|(i, template)| parse_template(i + 1, template, &slots))
            .collect::<Result<Vec<_>, _>>()?;
        if templates.is_empty() {
            return Err(TemplateError::Empty);
        }
        Ok(Self { templates })
    }

    /// The built-in list for general models.
    pub fn general() -> Result<Self, TemplateError> {
        Self::parse(super::GENERAL_TEMPLATES)
    }

    /// How many templates the list has.
    pub fn len(&self) -> usize {
        self.templates.len()
    }

    /// Whether the list is empty; a parsed list never is.
    pub fn is_empty(&self) -> bool {
        self.templates.is_empty()
    }

    /// `g` different wordings of a prompt, none equal to it; a function of (list, prompt, key).
    ///
    /// Templates take turns in a random order, so that with g up to their number each gives at
    /// most one wording (unless wordings coincide); the values of their slots are drawn at random
    /// without repeating a combination. Give the key of the prompt:
    /// `Key::new(seed).stage("expand").prompt(id)`.
    pub fn expand(&self, prompt: &str, g: usize, key: &Key) -> Result<Vec<String>, ExpandError> {
        let prompt = prompt.trim();
        let mut stream = key.stream();
        let mut turns: Vec<Turn> = self.templates.iter().map(Turn::new).collect();
        stream.shuffle(&mut turns);
        let mut seen: BTreeSet<String> = BTreeSet::from([prompt.to_owned()]);
        let mut wordings = Vec::with_capacity(g);
        while wordings.len() < g && !turns.is_empty() {
            turns.retain_mut(|turn| {
                while wordings.len() < g {
                    let Some(wording) = turn.next_wording(prompt, &mut stream) else {
                        return false;
                    };
                    if seen.insert(wording.clone()) {
                        wordings.push(wording);
                        return true;
                    }
                }
                true
            });
        }
        if wordings.len() < g {
            return Err(ExpandError::TooFew {
                prompt: prompt.to_owned(),
                wanted: g,
                found: wordings.len(),
            });
        }
        Ok(wordings)
    }
}

/// A template and which of its combinations were used.
struct Turn<'a> {
    template: &'a Template,
    combinations: u64,
    used: BTreeSet<u64>,
}

impl<'a> Turn<'a> {
    fn new(template: &'a Template) -> Self {
        let combinations = template
            .pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Slot(values) => Some(values.len() as u64),
                _ => None,
            })
            .fold(1u64, u64::saturating_mul);
        Self { template, combinations, used: BTreeSet::new() }
    }

    /// A wording by a combination that was not used yet; `None` when all were.
    fn next_wording(&mut self, prompt: &str, stream: &mut Stream) -> Option<String> {
        let left = self.combinations.checked_sub(self.used.len() as u64)?;
        if left == 0 {
            return None;
        }
        // The n-th of those not used yet.
        let mut combination = stream.below(left);
        for used in &self.used {
            if *used <= combination {
                combination += 1;
            }
        }
        self.used.insert(combination);
        Some(self.template.word(prompt, combination))
    }
}

impl Template {
    /// The wording of one combination of slot values.
    fn word(&self, prompt: &str, mut combination: u64) -> String {
        let mut wording = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => wording.push_str(text),
                Piece::Prompt => wording.push_str(&replace_words(prompt, &self.replace)),
                Piece::Slot(values) => {
                    let n = values.len() as u64;
                    if let Some(value) = values.get((combination % n) as usize) {
                        wording.push_str(value);
                    }
                    combination /= n;
                }
            }
        }
        wording.trim().to_owned()
    }
}

/// Splits a template's text at its placeholders.
fn parse_template(
    number: usize,
    raw: &RawTemplate,
    slots: &BTreeMap<&str, &[String]>,
) -> Result<Template, TemplateError> {
    let fail = |message: String| {
        Err(TemplateError::Placeholder { number, text: raw.text.clone(), message })
    };
    let mut pieces = Vec::new();
    let mut rest = raw.text.as_str();
    while let Some(open) = rest.find(['{', '}']) {
        pieces.push(Piece::Text(rest[..open].to_owned()));
        let Some((name, after)) = rest[open..].strip_prefix('{').and_then(|r| r.split_once('}'))
        else {
            return fail("a brace has no partner".to_owned());
        };
        pieces.push(match (name, slots.get(name)) {
            ("prompt", _) => Piece::Prompt,
            (_, Some(values)) => Piece::Slot(values.to_vec()),
            (_, None) => return fail(format!("there is no slot `{name}`")),
        });
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    if !pieces.contains(&Piece::Prompt) {
        return Err(TemplateError::NoPrompt { number, text: raw.text.clone() });
    }
    if raw.replace.iter().any(|[from, _]| from.is_empty()) {
        return fail("`replace` of an empty text".to_owned());
    }
    Ok(Template { pieces, replace: raw.replace.clone() })
}

/// Replaces whole words or phrases in one pass from the left, the longest match first, so that
/// `[["red","blue"],["blue","red"]]` swaps. Case counts.
fn replace_words(text: &str, rules: &[[String; 2]]) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    let mut before: Option<char> = None;
    let joins = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    while let Some(next) = rest.chars().next() {
        let rule = rules
            .iter()
            .filter(|[from, _]| {
                rest.strip_prefix(from.as_str()).is_some_and(|after| {
                    let starts_word = from.starts_with(char::is_alphanumeric);
                    let ends_word = from.ends_with(char::is_alphanumeric);
                    let cut_before = starts_word && joins(before);
                    let cut_after = ends_word && joins(after.chars().next());
                    !cut_before && !cut_after
                })
            })
            .max_by_key(|[from, _]| from.len());
        let taken = match rule {
            Some([from, to]) => {
                result.push_str(to);
                from.len()
            }
            None => {
                result.push(next);
                next.len_utf8()
            }
        };
        before = rest[..taken].chars().next_back();
        rest = &rest[taken..];
    }
    result
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
