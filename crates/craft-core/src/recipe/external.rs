//! Rewards that are not part of the binary: a command or a server.

use serde::{Deserialize, Serialize};

use super::validate::{number, range, text, whole};
use super::{RecipeError, RewardSection};
use crate::reward::RewardName;

/// What happens when a candidate gets no score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The candidate is dropped and counted, and the run goes on.
    #[default]
    Drop,
    /// The run stops; the scores so far are kept.
    Stop,
}

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RewardApi {
    /// Pictures and prompts in, scores out (docs/external-rewards.md).
    #[default]
    Scores,
    /// Chat completions with pictures, as of OpenAI.
    Openai,
}

/// What a question about a picture is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RewardAnswer {
    /// `yes` is 1 and `no` is 0.
    #[default]
    YesNo,
    /// A number from 0 to 10.
    Grade,
}

/// Where the scores of a reward come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RewardSource<'a> {
    /// The embedded reward of its name.
    Embedded,
    /// Weights at a path.
    Weights(&'a str),
    /// A program and its arguments.
    Command(&'a [String]),
    /// A server at an address.
    Server(&'a str),
}

/// Longest accepted timeout.
const MAX_SECONDS: f64 = 86_400.0;

/// Checks the name of an environment variable, so that a key itself is not taken for one.
pub(super) fn variable_name(key: &str, name: &str) -> Result<(), RecipeError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let first = name.chars().next().is_some_and(|c| !c.is_ascii_digit());
    if first && name.len() <= 128 && name.chars().all(legal) {
        return Ok(());
    }
    // Not quoted: it may be the key itself.
    let allowed = "the name of an environment variable, such as MY_API_KEY (never the key itself)";
    Err(range(key, "not a name", allowed))
}

/// Checks a timeout in seconds.
pub(super) fn server_timeout(key: &str, seconds: Option<f64>) -> Result<(), RecipeError> {
    seconds.map_or(Ok(()), |seconds| number(key, seconds, 0.01, MAX_SECONDS))
}

impl RewardSection {
    /// Seconds of an answer when `timeout_seconds` is not given.
    pub const TIMEOUT_SECONDS: f64 = 60.0;
    /// Seconds of a command's first answer when `start_timeout_seconds` is not given.
    pub const START_TIMEOUT_SECONDS: f64 = 600.0;
    /// Times that a server is asked again when `retries` is not given.
    pub const RETRIES: usize = 3;
    /// Pictures in a request when `batch` is not given.
    pub const BATCH: usize = 8;

    /// A reward with every other key at its default.
    pub fn named(name: RewardName) -> Self {
        Self {
            name,
            weights: None,
            weight: 1.0,
            role: Default::default(),
            filter: true,
            on_failure: OnFailure::default(),
            command: None,
            url: None,
            api: None,
            model: None,
            question: None,
            answer: None,
            api_key_env: None,
            allow_remote: false,
            timeout_seconds: None,
            start_timeout_seconds: None,
            retries: None,
            batch: None,
            version: None,
        }
    }

    /// Checks the reward on its own; keys in messages start with its name.
    ///
    /// # Errors
    /// When a value is out of its range, or does not go with the others.
    pub fn validate(&self) -> Result<(), RecipeError> {
        self.validate_source(self.name.as_str())
    }

    /// Where the scores come from.
    pub fn source(&self) -> RewardSource<'_> {
        match (&self.command, &self.url, &self.weights) {
            (Some(words), ..) => RewardSource::Command(words),
            (_, Some(url), _) => RewardSource::Server(url),
            (.., Some(path)) => RewardSource::Weights(path),
            _ => RewardSource::Embedded,
        }
    }

    /// Version of an external reward.
    pub fn external_version(&self) -> &str {
        self.version.as_deref().unwrap_or("1")
    }

    /// Checks that there is one source, and no key that another source would need.
    pub(super) fn validate_source(&self, at: &str) -> Result<(), RecipeError> {
        let given: Vec<&str> = [
            ("weights", self.weights.is_some()),
            ("command", self.command.is_some()),
            ("url", self.url.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, given)| given.then_some(key))
        .collect();
        if given.len() > 1 {
            let found = format!("given {}", given.join(" and "));
            return Err(range(at, found, "at most one of weights, command and url"));
        }
        let source = self.source();
        let server = matches!(source, RewardSource::Server(_));
        let external = server || self.command.is_some();
        let openai = self.api == Some(RewardApi::Openai);
        for (key, given, fits, needs) in [
            ("api", self.api.is_some(), server, "url"),
            ("allow_remote", self.allow_remote, server, "url"),
            ("api_key_env", self.api_key_env.is_some(), server, "url"),
            ("retries", self.retries.is_some(), server, "url"),
            ("batch", self.batch.is_some(), server && !openai, "url and api = \"scores\""),
            ("model", self.model.is_some(), server && openai, "api = \"openai\""),
            ("question", self.question.is_some(), server && openai, "api = \"openai\""),
            ("answer", self.answer.is_some(), server && openai, "api = \"openai\""),
            (
                "start_timeout_seconds",
                self.start_timeout_seconds.is_some(),
                self.command.is_some(),
                "command",
            ),
            ("timeout_seconds", self.timeout_seconds.is_some(), external, "command or url"),
            ("version", self.version.is_some(), external, "command or url"),
        ] {
            if given && !fits {
                let key = format!("{at}.{key}");
                return Err(range(key, "given", format!("it beside {needs} only")));
            }
        }
        if let RewardSource::Command(words) = source {
            let program = words.first().map_or("", String::as_str);
            let expected = "a program and its arguments, such as [\"python3\", \"score.py\"]";
            text(&format!("{at}.command"), program, expected)?;
            if words.iter().any(|word| word.contains('\0')) {
                return Err(range(format!("{at}.command"), "text with a NUL byte", expected));
            }
        }
        if let RewardSource::Server(url) = source {
            let expected = "an address such as http://127.0.0.1:8000/score";
            text(&format!("{at}.url"), url, expected)?;
        }
        if openai {
            for (key, value, expected) in [
                ("model", &self.model, "the name of a model of the server"),
                ("question", &self.question, "a question, with {prompt} for the prompt"),
            ] {
                let key = format!("{at}.{key}");
                match value {
                    Some(value) => text(&key, value, expected)?,
                    None => return Err(range(key, "missing", expected)),
                }
            }
        }
        if let Some(name) = &self.api_key_env {
            variable_name(&format!("{at}.api_key_env"), name)?;
        }
        server_timeout(&format!("{at}.timeout_seconds"), self.timeout_seconds)?;
        server_timeout(&format!("{at}.start_timeout_seconds"), self.start_timeout_seconds)?;
        whole(&format!("{at}.retries"), self.retries.unwrap_or(Self::RETRIES), 0, 10)?;
        whole(&format!("{at}.batch"), self.batch.unwrap_or(Self::BATCH), 1, 256)?;
        text(&format!("{at}.version"), self.external_version(), "a text such as \"1\"")
    }
}
