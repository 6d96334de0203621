//! What was asked once in a run is not asked again: scores and wordings, by everything they depend on.
//!
//! The files lie in `cache/` of the run folder, outside of the stages, so that a stage that is continued
//! or done again finds them. A failure is never kept.

use std::collections::BTreeMap;
use std::path::Path;

use craft_store::hash::sha256_bytes;
use craft_store::jsonl::{self, Appender};
use craft_store::{RgbImage, RunFolder, atomic};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::error::Result;

/// Scores, in a run folder.
const SCORES: &str = "cache/scores.jsonl";
/// Wordings, in a run folder.
pub(crate) const WORDINGS: &str = "cache/wordings.jsonl";

/// A file that rows are appended to.
#[derive(Debug)]
struct Log(Appender);

impl Log {
    /// Reads the rows of a file and opens it to append more. One that is damaged is begun anew.
    fn open<T: DeserializeOwned>(path: &Path, context: &Context<'_>) -> Result<(Self, Vec<T>)> {
        if let Some(dir) = path.parent() {
            atomic::create_dir(dir)?;
        }
        let rows = match jsonl::read_resumable(path) {
            Ok(resumed) => resumed.rows,
            Err(error) if error.is_bad_input() => {
                context.progress.note(&format!("{error}; the file is begun anew"));
                atomic::write(path, b"")?;
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        Ok((Self(Appender::open(path)?), rows))
    }
}

/// A line of `cache/scores.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ScoreLine {
    /// SHA-256 of the picture's size and pixels.
    image: String,
    prompt: String,
    reward: String,
    /// Version of the reward, with a digest of its weights or settings.
    version: String,
    /// As text, which is read back to the last bit.
    score: String,
    /// Digest of the rest, so that a line that was changed is not believed.
    #[serde(default)]
    check: String,
}

impl ScoreLine {
    fn digest(&self) -> String {
        let Self { image, prompt, reward, version, score, .. } = self;
        let text = [image, prompt, reward, version, score].map(String::as_str).join("\0");
        sha256_bytes(text)[..16].to_owned()
    }
}

/// Scores by picture, prompt, reward and version.
#[derive(Debug)]
pub(crate) struct ScoreCache {
    scores: BTreeMap<[String; 4], f64>,
    log: Log,
}

impl ScoreCache {
    pub(crate) fn open(folder: &RunFolder, context: &Context<'_>) -> Result<Self> {
        let (log, rows) = Log::open::<ScoreLine>(&folder.join(SCORES), context)?;
        let count = rows.len();
        let rows: Vec<ScoreLine> =
            rows.into_iter().filter(|row| row.check == row.digest()).collect();
        if rows.len() < count {
            context.progress.note(&format!(
                "{SCORES}: {} of {count} scores were changed or damaged after they were written; these pictures are scored again",
                count - rows.len()
            ));
        }
        let scores = rows
            .into_iter()
            .filter_map(|row| {
                let score = row.score.parse::<f64>().ok().filter(|score| score.is_finite())?;
                Some(([row.image, row.prompt, row.reward, row.version], score))
            })
            .collect();
        Ok(Self { scores, log })
    }

    /// What a picture is known by.
    pub(crate) fn image(picture: &RgbImage) -> String {
        let mut bytes = format!("{}x{}\n", picture.width, picture.height).into_bytes();
        bytes.extend_from_slice(&picture.data);
        sha256_bytes(bytes)
    }

    pub(crate) fn get(
        &self,
        image: &str,
        prompt: &str,
        reward: &str,
        version: &str,
    ) -> Option<f64> {
        let key = [image, prompt, reward, version].map(str::to_owned);
        self.scores.get(&key).copied()
    }

    pub(crate) fn put(
        &mut self,
        image: &str,
        prompt: &str,
        reward: &str,
        version: &str,
        score: f64,
    ) -> Result<()> {
        let [image, prompt, reward, version] = [image, prompt, reward, version].map(str::to_owned);
        let score_text = score.to_string();
        let check = String::new();
        let mut line = ScoreLine { image, prompt, reward, version, score: score_text, check };
        line.check = line.digest();
        self.log.0.append(&line)?;
        self.scores.insert([line.image, line.prompt, line.reward, line.version], score);
        Ok(())
    }
}

/// A line of `cache/wordings.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct WordingLine {
    prompt: String,
    /// Digest of model, temperature, number and instructions.
    settings: String,
    wordings: Vec<String>,
}

/// Wordings of a language model by prompt and settings.
#[derive(Debug)]
pub(crate) struct WordingCache {
    wordings: BTreeMap<[String; 2], Vec<String>>,
    log: Log,
}

impl WordingCache {
    pub(crate) fn open(folder: &RunFolder, context: &Context<'_>) -> Result<Self> {
        let (log, rows) = Log::open::<WordingLine>(&folder.join(WORDINGS), context)?;
        let wordings =
            rows.into_iter().map(|row| ([row.prompt, row.settings], row.wordings)).collect();
        Ok(Self { wordings, log })
    }

    pub(crate) fn get(&self, prompt: &str, settings: &str) -> Option<&Vec<String>> {
        self.wordings.get(&[prompt, settings].map(str::to_owned))
    }

    pub(crate) fn put(
        &mut self,
        prompt: &str,
        settings: &str,
        wordings: Vec<String>,
    ) -> Result<()> {
        let [prompt, settings] = [prompt, settings].map(str::to_owned);
        let line = WordingLine { prompt, settings, wordings };
        self.log.0.append(&line)?;
        self.wordings.insert([line.prompt, line.settings], line.wordings);
        Ok(())
    }
}
