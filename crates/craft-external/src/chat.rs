//! A question about a picture to a model behind an OpenAI-compatible server.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::ExternalError;
use crate::failures::Failures;
use crate::text::head;
use crate::{Item, Scored, ServerOptions};

/// Path of chat completions below the base address.
pub(crate) const COMPLETIONS: &str = "/chat/completions";

/// What a question is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `yes` is 1 and `no` is 0.
    YesNo,
    /// A number from 0 to 10.
    Grade,
}

impl Answer {
    fn instruction(self) -> &'static str {
        match self {
            Self::YesNo => "Answer with one word: yes or no.",
            Self::Grade => "Answer with one number from 0 (worst) to 10 (best) and nothing else.",
        }
    }

    /// The score of an answer. Strict: what is more than the answer is no answer, since a guess at what a
    /// model meant would be noise that looks like a score.
    fn score(self, text: &str) -> Scored {
        let word = text.trim().trim_end_matches('.').to_ascii_lowercase();
        let score = match self {
            Self::YesNo => match word.as_str() {
                "yes" => Some(1.0),
                "no" => Some(0.0),
                _ => None,
            },
            Self::Grade => {
                let plain =
                    !word.is_empty() && word.chars().all(|c| c.is_ascii_digit() || c == '.');
                word.parse::<f64>().ok().filter(|grade| plain && (0.0..=10.0).contains(grade))
            }
        };
        let expected = match self {
            Self::YesNo => "yes or no",
            Self::Grade => "a number from 0 to 10",
        };
        score.ok_or_else(|| format!("it answered `{}`: expected {expected}", head(text)))
    }
}

/// A model and a question.
#[derive(Clone, Debug)]
pub struct VisionOptions {
    /// Name of the model.
    pub model: String,
    /// The question; `{prompt}` stands for the prompt.
    pub question: String,
    /// What it is answered with.
    pub answer: Answer,
}

/// A vision model that answers a question about every picture. After three failures of the server in a
/// row nothing more is asked.
#[derive(Debug)]
pub struct VisionReward {
    client: Client,
    options: VisionOptions,
    failures: Failures,
}

impl VisionReward {
    /// Checks address and key; connects to nothing yet.
    ///
    /// # Errors
    /// When address or key cannot be used.
    pub fn new(server: &ServerOptions, options: VisionOptions) -> Result<Self, ExternalError> {
        let client = Client::new(server, COMPLETIONS)?;
        Ok(Self { client, options, failures: Failures::default() })
    }

    /// One score a picture, in their order.
    pub fn score(&mut self, items: &[Item<'_>]) -> Vec<Scored> {
        items.iter().map(|item| self.score_one(item)).collect()
    }

    fn score_one(&mut self, item: &Item<'_>) -> Scored {
        if let Some(reason) = self.failures.given_up() {
            return Err(reason);
        }
        let VisionOptions { model, question, answer } = &self.options;
        let question = question.replace("{prompt}", item.prompt);
        let image = format!("data:image/png;base64,{}", STANDARD.encode(item.png()?));
        let body = json!({
            "model": model,
            "temperature": 0,
            "messages": [
                { "role": "system", "content": answer.instruction() },
                { "role": "user", "content": [
                    { "type": "text", "text": question },
                    { "type": "image_url", "image_url": { "url": image } },
                ] },
            ],
        });
        match self.client.post(&body) {
            Ok(value) => {
                self.failures.reset();
                answer.score(content(&value)?)
            }
            Err(reason) => Err(self.failures.add(reason)),
        }
    }
}

/// The text of the first choice of a chat completion.
pub(crate) fn content(value: &Value) -> Result<&str, String> {
    value.pointer("/choices/0/message/content").and_then(Value::as_str).ok_or_else(|| {
        format!(
            "its answer has no choices[0].message.content with a text: {}",
            head(&value.to_string())
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_itself_is_a_score() {
        for (text, score) in [("yes", 1.0), (" Yes.\n", 1.0), ("NO", 0.0)] {
            assert_eq!(Answer::YesNo.score(text).unwrap(), score);
        }
        for (text, score) in [("7", 7.0), ("8.5", 8.5), (" 10. ", 10.0), ("0", 0.0)] {
            assert_eq!(Answer::Grade.score(text).unwrap(), score);
        }
        for text in ["", "yes, it does", "no no", "maybe", "1", "ja"] {
            assert!(Answer::YesNo.score(text).is_err(), "{text}");
        }
        for text in ["", "-1", "11", "7/10", "NaN", "inf", "1e1", "seven", "8 because", "+3", "."] {
            let reason = Answer::Grade.score(text).unwrap_err();
            assert!(reason.contains("from 0 to 10"), "{text}: {reason}");
        }
    }
}
