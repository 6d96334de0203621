//! JSON and JSON lines, with the NaN and Infinity that Python's `json` writes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::shape::{self, Node};
use super::{Collector, Place, PromptFileError};

const LIST: &str = "a JSON list of texts or objects";
const LINES: &str = "one JSON object a line, with a text, prompt or caption";

/// A file that is one value. Several values one after the other are JSON lines under another name.
pub(super) fn whole(text: &str, into: &mut Collector) -> Result<(), PromptFileError> {
    let text = without_nan(text);
    match serde_json::from_str(&text) {
        Ok(node) => shape::collect(node, "JSON", into),
        Err(error)
            if first_line(&text).is_some_and(|l| serde_json::from_str::<Node>(l).is_ok()) =>
        {
            each_line(&text, into).map_err(|lines| match lines {
                PromptFileError::Json { .. } => wrong(&error, error.line(), LIST),
                other => other,
            })
        }
        Err(error) => Err(wrong(&error, error.line(), LIST)),
    }
}

/// A value a line. A list over several lines is read as such.
pub(super) fn lines(text: &str, into: &mut Collector) -> Result<(), PromptFileError> {
    let text = without_nan(text);
    if text.trim_start().starts_with('[')
        && let Ok(node @ Node::List(_)) = serde_json::from_str::<Node>(&text)
    {
        return shape::collect(node, "JSON", into);
    }
    each_line(&text, into)
}

fn first_line(text: &str) -> Option<&str> {
    text.lines().find(|line| !line.trim().is_empty())
}

fn each_line(text: &str, into: &mut Collector) -> Result<(), PromptFileError> {
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            into.add(Place::line(i + 1), "", None)?;
            continue;
        }
        let node: Node = serde_json::from_str(line).map_err(|e| wrong(&e, i + 1, LINES))?;
        shape::entry(node, Place::entry(i + 1), None, "", into)?;
    }
    Ok(())
}

fn wrong(error: &serde_json::Error, line: usize, expected: &'static str) -> PromptFileError {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default().to_owned();
    PromptFileError::Json { line, message, expected }
}

/// `null` for `NaN`, `Infinity` and `-Infinity` outside of texts.
fn without_nan(text: &str) -> Cow<'_, str> {
    const WORDS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    if !text.contains("NaN") && !text.contains("Infinity") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let (mut from, mut inside, mut at) = (0, false, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if inside => at += 1,
            b'"' => inside = !inside,
            b'N' | b'I' | b'-' if !inside => {
                if let Some(word) = WORDS.iter().find(|w| text[at..].starts_with(**w)) {
                    out += &text[from..at];
                    out += "null";
                    at += word.len();
                    from = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    out += &text[from.min(text.len())..];
    Cow::Owned(out)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Nodes)
    }
}

struct Nodes;

impl<'de> Visitor<'de> for Nodes {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        Ok(Node::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Node::of_pairs(pairs))
    }
}
