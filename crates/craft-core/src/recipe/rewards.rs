//! `[[rewards]]`: what pictures are scored by.

use serde::{Deserialize, Serialize};

use super::{OnFailure, RewardAnswer, RewardApi, is_default};
use crate::reward::RewardName;

/// What a reward model is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RewardRole {
    /// Filtering and weighing.
    #[default]
    Train,
    /// Evaluation only.
    HeldOut,
}

/// One of `[[rewards]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardSection {
    /// Which reward model.
    pub name: RewardName,
    /// Its weights, if it has any outside the binary: folders, files, or repositories of the Hugging
    /// Face hub (`owner/name`, `owner/name/file`, either with `@revision`), several after commas.
    /// `None`: embedded, or the published ones of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Its weight in r_total.
    #[serde(default = "one")]
    pub weight: f64,
    /// Training or held out.
    #[serde(default)]
    pub role: RewardRole,
    /// Whether candidates must beat the original on it.
    #[serde(default = "yes")]
    pub filter: bool,
    /// What happens when a candidate gets no score from it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_failure: OnFailure,
    /// A program and its arguments that score instead of weights; started in the recipe's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Address of a server that scores instead of weights; with `api = "openai"` the base address,
    /// such as `http://127.0.0.1:8000/v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What the server speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<RewardApi>,
    /// Model that an OpenAI-compatible server is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Question about a picture; `{prompt}` stands for its prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// What the question is answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<RewardAnswer>,
    /// Environment variable that holds the server's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Whether the server may be another machine.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_remote: bool,
    /// Seconds that an answer may take; 60 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// Seconds that the first answer of a started command may take; 600 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_timeout_seconds: Option<f64>,
    /// Times that a busy or failing server is asked again; 3 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<usize>,
    /// Pictures in one request to a server; 8 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Version of a command or server, "1" if not given; scores of another version are not used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}
