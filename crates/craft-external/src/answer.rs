//! Answers of programs and servers: JSON, a score or an error.

use serde_json::Value;

use crate::text::{head, tail};

/// Largest accepted size of a score. Beyond it sums of squares lose their meaning.
const MAX_SCORE: f64 = 1e12;

/// What an answer says of a picture.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// A finite score.
    Score(f64),
    /// Why there is none.
    Missing(String),
    /// Not an answer at all: what follows it cannot be trusted.
    Rubbish(String),
}

/// Parses JSON in which numbers may also be `NaN`, `Infinity`, or too large for a double, as Python
/// writes them: these become null.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(error) => {
            serde_json::from_str(&without_infinities(text)).map_err(|_| error.to_string())
        }
    }
}

/// The text with numbers that are not finite replaced by `null`; strings are left as they are.
fn without_infinities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '"' => string_length(rest),
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (piece, after) = rest.split_at(length);
        let infinite = is_word(c) && piece.parse::<f64>().is_ok_and(|number| !number.is_finite());
        out.push_str(if infinite { "null" } else { piece });
        rest = after;
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

/// Length of the JSON string that a text begins with.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// A number as a score.
pub(crate) fn number(value: &Value) -> Answer {
    match value.as_f64() {
        Some(score) if score.abs() <= MAX_SCORE => Answer::Score(score),
        Some(score) => Answer::Missing(format!(
            "the score is {score:e}: expected a number between -{MAX_SCORE:e} and {MAX_SCORE:e}"
        )),
        None if value.is_null() => Answer::Missing(
            "the score is null, NaN or infinite: expected a finite number".to_owned(),
        ),
        None => {
            Answer::Rubbish(format!("the score is {}: expected a number", head(&value.to_string())))
        }
    }
}

/// `{"score": number}` or `{"error": text}`.
pub(crate) fn object(value: &Value) -> Answer {
    let expected = "expected {\"score\": number} or {\"error\": text}";
    match (value.get("score"), value.get("error")) {
        (Some(score), None | Some(Value::Null)) => number(score),
        (None | Some(Value::Null), Some(Value::String(error))) => {
            Answer::Missing(format!("it says: {}", tail(error)))
        }
        _ => Answer::Rubbish(format!("it answered {}: {expected}", head(&value.to_string()))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(text: &str) -> Answer {
        object(&parse(text).unwrap())
    }

    #[test]
    fn scores_are_finite_or_missing() {
        assert_eq!(of(r#"{"score": -1.5e-3, "id": 7}"#), Answer::Score(-1.5e-3));
        assert_eq!(of(r#"{"score": 3}"#), Answer::Score(3.0));
        assert_eq!(of(r#"{"error": "no\nface"}"#), Answer::Missing("it says: no face".to_owned()));
        for text in ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e13", "null"] {
            let answer = of(&format!("{{\"score\": {text}, \"note\": \"a \\\" NaN\"}}"));
            assert!(matches!(answer, Answer::Missing(_)), "{text}: {answer:?}");
        }
    }

    #[test]
    fn everything_else_is_rubbish() {
        for text in [
            "{}",
            "[]",
            "1",
            "null",
            r#"{"score": "1"}"#,
            r#"{"score": [1]}"#,
            r#"{"score": 1, "error": "x"}"#,
            r#"{"error": 1}"#,
            r#"{"Score": 1}"#,
        ] {
            assert!(matches!(of(text), Answer::Rubbish(_)), "{text}: {:?}", of(text));
        }
        for text in ["", "Loading model...", "{\"score\": nan}x", "{\"score\": 1", "\"\\", "NaNs"] {
            assert!(parse(text).is_err(), "{text}");
        }
        // Words in strings stay.
        assert_eq!(parse("{\"a\": \"NaN\", \"b\": NaN}").unwrap()["a"], "NaN");
    }
}
