//! What was asked once in a run is not asked again: scores and wordings, by everything they depend on.
//!
//! The files lie in `cache/` of the run folder, outside of the stages, so that a stage that is continued
//! or done again finds them. A failure is never kept.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use craft_store::atomic::AtomicFile;
use craft_store::hash::sha256_bytes;
use craft_store::jsonl::{Appender, each_line};
use craft_store::{RgbImage, RunFolder, atomic};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::error::{PipelineError, Result};

/// Scores, in a run folder.
const SCORES: &str = "cache/scores.jsonl";
/// Wordings, in a run folder.
pub(crate) const WORDINGS: &str = "cache/wordings.jsonl";
/// A flush to the device may take longer than a score.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// A row with a checksum of its content, so that one that was changed is not believed.
#[derive(Debug, Serialize, Deserialize)]
struct Sealed<T> {
    #[serde(flatten)]
    row: T,
    sum: String,
}

impl<T: Serialize> Sealed<T> {
    fn new(row: T) -> Self {
        Self { sum: sum(&row), row }
    }
}

/// The first 64 bits of the SHA-256 of a row as JSON.
fn sum<T: Serialize>(row: &T) -> String {
    sha256_bytes(serde_json::to_string(row).unwrap_or_default())[..16].to_owned()
}

/// A file that rows are appended to.
#[derive(Debug)]
struct Log {
    file: Appender,
    flushed: Instant,
}

impl Log {
    /// Reads the rows of a file and opens it to append more. Lines that are damaged, were changed or have
    /// no checksum are taken out, and what they knew is asked again.
    fn open<T: Serialize + DeserializeOwned>(
        path: &Path,
        context: &Context<'_>,
        mut take: impl FnMut(T),
    ) -> Result<Self> {
        if let Some(dir) = path.parent() {
            atomic::create_dir(dir)?;
        }
        let mut bad: Option<(usize, usize)> = None;
        let mut mend = false;
        each_line(path, |number, line| {
            match checked::<T>(line) {
                Some(row) => take(row),
                // A kill tears the last line; that is nothing to tell.
                None if line.ends_with(b"\n") => {
                    bad = Some(bad.map_or((number, 1), |(first, n)| (first, n + 1)));
                }
                None => (),
            }
            mend |= bad.is_some() || !line.ends_with(b"\n");
            Ok::<_, PipelineError>(())
        })?;
        if mend {
            let mut kept = AtomicFile::create(path)?;
            each_line(path, |_, line| {
                if checked::<T>(line).is_some() {
                    kept.put(line.trim_ascii_end())?;
                    kept.put(b"\n")?;
                }
                Ok::<_, PipelineError>(())
            })?;
            kept.commit()?;
        }
        if let Some((first, n)) = bad {
            context.progress.note(&format!(
                "{}, line {first}{}: {} damaged, changed or without a checksum; what {} said is asked again",
                path.display(),
                if n > 1 { format!(" and {} more", n - 1) } else { String::new() },
                if n > 1 { "they are" } else { "it is" },
                if n > 1 { "they" } else { "it" },
            ));
        }
        Ok(Self { file: Appender::open(path)?, flushed: Instant::now() })
    }

    fn append<T: Serialize>(&mut self, row: T) -> Result<T> {
        let line = Sealed::new(row);
        self.file.append(&line)?;
        Ok(line.row)
    }

    fn sync(&mut self) -> Result<()> {
        self.flushed = Instant::now();
        Ok(self.file.sync()?)
    }
}

/// The row of a line whose checksum agrees.
fn checked<T: Serialize + DeserializeOwned>(line: &[u8]) -> Option<T> {
    let Sealed { row, sum: found } = serde_json::from_slice::<Sealed<T>>(line).ok()?;
    (sum(&row) == found).then_some(row)
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
}

/// SHA-256 of a picture's size and pixels.
pub(crate) type Digest = [u8; 32];

/// Scores by picture, prompt, reward and version.
#[derive(Debug)]
pub(crate) struct ScoreCache {
    /// By a hash of the four, which keeps a large run's cache small: 24 bytes a score.
    scores: BTreeMap<u128, f64>,
    log: Log,
}

/// A hash of what a score depends on.
fn key_of(parts: [&str; 4]) -> u128 {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend(part.as_bytes());
    }
    u128::from_str_radix(&sha256_bytes(bytes)[..32], 16).unwrap_or_default()
}

fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl ScoreCache {
    pub(crate) fn open(folder: &RunFolder, context: &Context<'_>) -> Result<Self> {
        let mut scores = BTreeMap::new();
        let log = Log::open(&folder.join(SCORES), context, |row: ScoreLine| {
            if let Some(score) = row.score.parse::<f64>().ok().filter(|score| score.is_finite()) {
                let key = key_of([&row.image, &row.prompt, &row.reward, &row.version]);
                scores.insert(key, score);
            }
        })?;
        Ok(Self { scores, log })
    }

    /// What a picture is known by.
    pub(crate) fn image(picture: &RgbImage) -> Digest {
        let mut bytes = format!("{}x{}\n", picture.width, picture.height).into_bytes();
        bytes.extend_from_slice(&picture.data);
        let text = sha256_bytes(bytes);
        std::array::from_fn(|i| {
            let byte = text.get(2 * i..2 * i + 2).unwrap_or_default();
            u8::from_str_radix(byte, 16).unwrap_or_default()
        })
    }

    pub(crate) fn get(
        &self,
        image: &Digest,
        prompt: &str,
        reward: &str,
        version: &str,
    ) -> Option<f64> {
        self.scores.get(&key_of([&hex(image), prompt, reward, version])).copied()
    }

    pub(crate) fn put(
        &mut self,
        image: &Digest,
        prompt: &str,
        reward: &str,
        version: &str,
        score: f64,
    ) -> Result<()> {
        let image = hex(image);
        let key = key_of([&image, prompt, reward, version]);
        let [prompt, reward, version] = [prompt, reward, version].map(str::to_owned);
        self.log.append(ScoreLine { image, prompt, reward, version, score: score.to_string() })?;
        self.scores.insert(key, score);
        Ok(())
    }

    /// Flushes to the device what was put; a kill loses none of it in any case, a power cut might.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.log.sync()
    }

    /// [`Self::sync`], if the last time is a second ago.
    pub(crate) fn sync_now_and_then(&mut self) -> Result<()> {
        if self.log.flushed.elapsed() < FLUSH_EVERY { Ok(()) } else { self.sync() }
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
        let mut wordings = BTreeMap::new();
        let log = Log::open(&folder.join(WORDINGS), context, |row: WordingLine| {
            wordings.insert([row.prompt, row.settings], row.wordings);
        })?;
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
        let line = self.log.append(WordingLine { prompt, settings, wordings })?;
        self.log.sync()?;
        self.wordings.insert([line.prompt, line.settings], line.wordings);
        Ok(())
    }
}
