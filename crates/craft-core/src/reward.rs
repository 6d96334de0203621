//! Scores of reward models: finite by construction, or missing with a reason.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::prompt::CandidateId;

/// Why there is no score: on disk `{"kind": "non-finite", "detail": "NaN"}`. Displays as words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", content = "detail", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Missing {
    /// The score was not a number or infinite; which of them.
    NonFinite(String),
    /// The picture cannot be read, or is none; what is wrong with it.
    BadPicture(String),
    /// There was no prompt for the picture.
    NoPrompt,
    /// A program or server outside gave none; what it said.
    External(String),
    /// The reward gave none and did not say why.
    NotScored,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NonFinite(value) => write!(f, "non-finite score ({value})"),
            Self::BadPicture(why) | Self::External(why) => f.write_str(why),
            Self::NoPrompt => f.write_str("there is no prompt for the image"),
            Self::NotScored => f.write_str("the reward gave no score for it"),
        }
    }
}

/// A name that no reward model can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not the name of a reward: expected 1 to 64 of a-z, 0-9, `-`, `_` or `.`, such as `pocket-hps`"
)]
pub struct RewardNameError(String);

/// Name of a reward model in files and reports, such as `pocket-hps`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RewardName(String);

impl RewardName {
    /// Checks and wraps a name.
    pub fn new(name: impl Into<String>) -> Result<Self, RewardNameError> {
        let name = name.into();
        let legal =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            return Err(RewardNameError(name));
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RewardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for RewardName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for RewardName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for RewardName {
    type Err = RewardNameError;
    fn from_str(s: &str) -> Result<Self, RewardNameError> {
        Self::new(s)
    }
}

impl TryFrom<String> for RewardName {
    type Error = RewardNameError;
    fn try_from(s: String) -> Result<Self, RewardNameError> {
        Self::new(s)
    }
}

impl From<RewardName> for String {
    fn from(name: RewardName) -> String {
        name.0
    }
}

/// One line of `rewards/rewards.jsonl`: what every reward model says of one candidate.
///
/// A reward is either among the scores, and then finite, or among the missing with a reason, or
/// unknown; never in both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawScoreRow")]
pub struct ScoreRow {
    id: CandidateId,
    scores: BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    missing: BTreeMap<String, Missing>,
}

impl ScoreRow {
    /// A row without scores.
    pub fn new(id: CandidateId) -> Self {
        Self { id, scores: BTreeMap::new(), missing: BTreeMap::new() }
    }

    /// Enters a score. A value that is not finite is entered as missing, with its value in the
    /// reason.
    pub fn set(&mut self, reward: &RewardName, score: f64) {
        if score.is_finite() {
            self.missing.remove(reward.as_str());
            self.scores.insert(reward.to_string(), score);
        } else {
            self.set_missing(reward, Missing::NonFinite(score.to_string()));
        }
    }

    /// Enters that there is no score, and why.
    pub fn set_missing(&mut self, reward: &RewardName, why: Missing) {
        self.scores.remove(reward.as_str());
        self.missing.insert(reward.to_string(), why);
    }

    /// [`ScoreRow::set`] for building a row in one expression.
    #[must_use]
    pub fn with(mut self, reward: &RewardName, score: f64) -> Self {
        self.set(reward, score);
        self
    }

    /// The candidate.
    pub fn id(&self) -> &CandidateId {
        &self.id
    }

    /// A score, if there is one; finite.
    pub fn score(&self, reward: &RewardName) -> Option<f64> {
        self.scores.get(reward.as_str()).copied()
    }

    /// All scores by the name of their reward; finite.
    pub fn scores(&self) -> &BTreeMap<String, f64> {
        &self.scores
    }

    /// Why a reward is missing, by its name.
    pub fn missing(&self) -> &BTreeMap<String, Missing> {
        &self.missing
    }
}

/// What a line may hold before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScoreRow {
    id: CandidateId,
    scores: BTreeMap<String, f64>,
    #[serde(default)]
    missing: BTreeMap<String, Missing>,
}

impl TryFrom<RawScoreRow> for ScoreRow {
    type Error = String;
    fn try_from(raw: RawScoreRow) -> Result<Self, String> {
        for (name, score) in &raw.scores {
            RewardName::new(name.as_str()).map_err(|e| e.to_string())?;
            if !score.is_finite() {
                return Err(format!("score of `{name}` is {score}: expected a finite number"));
            }
            if raw.missing.contains_key(name) {
                return Err(format!("`{name}` is both scored and missing"));
            }
        }
        Ok(Self { id: raw.id, scores: raw.scores, missing: raw.missing })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_finite_or_missing_with_a_reason() {
        let hps = RewardName::new("pocket-hps").unwrap();
        let pick = RewardName::new("pocket-pick").unwrap();
        let mut row = ScoreRow::new("p00012-v03-s0".parse().unwrap());
        row.set(&hps, 0.21);
        row.set(&pick, f64::NAN);
        let line = serde_json::to_string(&row).unwrap();
        assert_eq!(
            line,
            r#"{"id":"p00012-v03-s0","scores":{"pocket-hps":0.21},"missing":{"pocket-pick":{"kind":"non-finite","detail":"NaN"}}}"#
        );
        assert_eq!(serde_json::from_str::<ScoreRow>(&line).unwrap(), row);
        row.set(&pick, 1.0);
        assert!(row.missing().is_empty());
        row.set(&hps, f64::INFINITY);
        assert_eq!(row.score(&hps), None);
    }

    #[test]
    fn bad_lines_are_refused() {
        for bad in [
            r#"{"id":"p1-v03-s0","scores":{"a":null}}"#,
            r#"{"id":"p1-v03-s0","scores":{"a":1e999}}"#,
            r#"{"id":"p1-v03-s0","scores":{"a":1},"missing":{"a":{"kind":"no-prompt"}}}"#,
            r#"{"id":"p1-v03-s0","scores":{},"missing":{"a":"non-finite score (NaN)"}}"#,
            r#"{"id":"p1-v03-s0","scores":{},"missing":{"a":{"kind":"other"}}}"#,
            r#"{"id":"p1","scores":{}}"#,
            r#"{"id":"p1-v03-s0","scores":{"A b":1}}"#,
            r#"{"id":"p1-v03-s0"}"#,
        ] {
            assert!(serde_json::from_str::<ScoreRow>(bad).is_err(), "{bad}");
        }
    }
}
