//! Richer wordings of prompts by a language model behind an OpenAI-compatible server.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::chat::{COMPLETIONS, content};
use crate::client::Client;
use crate::error::ExternalError;
use crate::text::head;
use crate::{ServerOptions, answer};

/// What the model is told; `{n}` stands for the number of wordings. Part of what a run depends on.
pub const INSTRUCTIONS: &str = "You write prompts for a text-to-image model. You are given one prompt. Write {n} richer wordings of it: each keeps every object, number, colour, text and relation of the prompt and adds fitting detail of style, light, composition or surroundings. Each is one line of at most 60 words, and no two are alike. Answer with a JSON list of {n} strings and nothing else.";

/// Longest accepted wording, in characters.
const MAX_CHARS: usize = 1000;

/// A language model.
#[derive(Clone, Debug)]
pub struct WordingOptions {
    /// Name of the model.
    pub model: String,
    /// Temperature of its sampling.
    pub temperature: f64,
    /// Wordings a prompt.
    pub variants: usize,
}

/// An answer of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wording {
    /// As many different wordings as were asked for.
    Good(Vec<String>),
    /// Something else, with what is wrong.
    Malformed(String),
}

/// A language model that words prompts.
#[derive(Debug)]
pub struct WordingModel {
    client: Client,
    options: WordingOptions,
}

impl WordingModel {
    /// Checks address and key; connects to nothing yet.
    ///
    /// # Errors
    /// When address or key cannot be used.
    pub fn new(server: &ServerOptions, options: WordingOptions) -> Result<Self, ExternalError> {
        Ok(Self { client: Client::new(server, COMPLETIONS)?, options })
    }

    /// Asks for the wordings of one prompt.
    ///
    /// # Errors
    /// When the server cannot be reached or does not answer as such.
    pub fn ask(&self, prompt: &str) -> Result<Wording, String> {
        let WordingOptions { model, temperature, variants } = &self.options;
        let body = json!({
            "model": model,
            "temperature": temperature,
            "messages": [
                { "role": "system", "content": INSTRUCTIONS.replace("{n}", &variants.to_string()) },
                { "role": "user", "content": prompt },
            ],
        });
        let value = self.client.post(&body)?;
        Ok(match content(&value).and_then(|text| wordings(text, prompt, *variants)) {
            Ok(list) => Wording::Good(list),
            Err(reason) => Wording::Malformed(reason),
        })
    }
}

/// The wordings of an answer: a JSON list of `n` different lines, none of them the prompt. A fence of
/// Markdown around it is taken off.
fn wordings(text: &str, prompt: &str, n: usize) -> Result<Vec<String>, String> {
    let wrong = |what: &str| Err(format!("{what}: {}", head(text)));
    let Some(list) = answer::parse(unfenced(text)).ok().and_then(|v| match v {
        Value::Array(list) => Some(list),
        _ => None,
    }) else {
        return wrong("it is not a JSON list");
    };
    if list.len() != n {
        return wrong(&format!("it has {} wordings, {n} are wanted", list.len()));
    }
    let mut seen = BTreeSet::from([prompt.trim().to_lowercase()]);
    let mut out = Vec::with_capacity(n);
    for value in &list {
        let Some(text) = value.as_str().map(str::trim) else {
            return wrong("a wording is not a text");
        };
        if text.is_empty() || text.chars().count() > MAX_CHARS || text.chars().any(char::is_control)
        {
            return wrong("a wording is empty, too long, or not one line");
        }
        if !seen.insert(text.to_lowercase()) {
            return wrong("a wording repeats another or the prompt");
        }
        out.push(text.to_owned());
    }
    Ok(out)
}

fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    inner.map_or(text, |inner| inner.strip_prefix("json").unwrap_or(inner).trim())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_right_length_are_taken() {
        let expected = ["a red cat, at dusk", "a \"big\" cat"];
        for text in [
            r#"["a red cat, at dusk", " a \"big\" cat "]"#,
            "```json\n[\"a red cat, at dusk\",\n \"a \\\"big\\\" cat\"]\n```",
        ] {
            assert_eq!(wordings(text, "a cat", 2).unwrap(), expected);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "Sure! [\"a\", \"b\"]",
            r#"{"wordings": ["a", "b"]}"#,
            r#"["a"]"#,
            r#"["a", "b", "c"]"#,
            r#"["a", 1]"#,
            r#"["a", null]"#,
            r#"["a", " "]"#,
            r#"["a", "A"]"#,
            r#"["a", "A cat"]"#,
            r#"["a", "b\nc"]"#,
            "1. a\n2. b",
        ] {
            assert!(wordings(text, "a cat", 2).is_err(), "{text}");
        }
        assert!(wordings(&format!("[\"{}\"]", "x".repeat(1001)), "a cat", 1).is_err());
    }
}
