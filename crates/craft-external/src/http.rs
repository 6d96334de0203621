//! A server that scores: pictures and prompts in, scores out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::answer::{self, Answer};
use crate::client::Client;
use crate::error::ExternalError;
use crate::failures::Failures;
use crate::text::head;
use crate::{Item, Scored, ServerOptions};

/// A server that is sent `{"items": [{"image": base64 of a PNG, "prompt": text}]}` and answers
/// `{"scores": [number, or null, or {"error": text}]}`.
///
/// When a request of several pictures fails, they are sent one by one, so that one bad picture costs
/// its own score only. After three failures in a row nothing more is asked.
#[derive(Debug)]
pub struct HttpReward {
    client: Client,
    batch: usize,
    failures: Failures,
}

impl HttpReward {
    /// Checks address and key; connects to nothing yet. `batch` pictures go into a request.
    ///
    /// # Errors
    /// When address or key cannot be used.
    pub fn new(options: &ServerOptions, batch: usize) -> Result<Self, ExternalError> {
        let client = Client::new(options, "")?;
        Ok(Self { client, batch: batch.max(1), failures: Failures::default() })
    }

    /// One score a picture, in their order.
    pub fn score(&mut self, items: &[Item<'_>]) -> Vec<Scored> {
        let mut out = Vec::with_capacity(items.len());
        for part in items.chunks(self.batch) {
            match self.request(part) {
                Ok(scores) => out.extend(scores),
                Err(reason) if part.len() == 1 => out.push(Err(reason)),
                Err(_) => {
                    for item in part {
                        let one = self.request(std::slice::from_ref(item));
                        out.push(one.and_then(|mut scores| {
                            scores.pop().unwrap_or_else(|| Err("no score".to_owned()))
                        }));
                    }
                }
            }
        }
        out
    }

    /// Scores of the pictures of one request; `Err` is a reason for all of them.
    fn request(&mut self, items: &[Item<'_>]) -> Result<Vec<Scored>, String> {
        if let Some(reason) = self.failures.given_up() {
            return Err(reason);
        }
        let list = items
            .iter()
            .map(|item| Ok(json!({ "image": STANDARD.encode(item.png()?), "prompt": item.prompt })))
            .collect::<Result<Vec<Value>, String>>()?;
        let result = self
            .client
            .post(&json!({ "items": list }))
            .and_then(|value| scores(&value, items.len()));
        match result {
            Ok(scores) => {
                self.failures.reset();
                Ok(scores)
            }
            Err(reason) => Err(self.failures.add(reason)),
        }
    }
}

/// The scores of an answer.
fn scores(value: &Value, expected: usize) -> Result<Vec<Scored>, String> {
    let Some(list) = value.get("scores").and_then(Value::as_array) else {
        return Err(format!(
            "it answered {}: expected {{\"scores\": [...]}}",
            head(&value.to_string())
        ));
    };
    if list.len() != expected {
        return Err(format!("it answered {} scores for {expected} pictures", list.len()));
    }
    Ok(list
        .iter()
        .map(|entry| {
            let answer =
                if entry.is_object() { answer::object(entry) } else { answer::number(entry) };
            match answer {
                Answer::Score(score) => Ok(score),
                Answer::Missing(reason) | Answer::Rubbish(reason) => Err(reason),
            }
        })
        .collect())
}
