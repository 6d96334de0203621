//! Stage 3: every reward of every candidate, always for the original prompt.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use craft_core::{Candidate, Prompt, RewardName, ScoreRow};
use craft_rewards::{Reward, RgbImageRef};
use craft_store::{DroppedItem, Manifest, RgbImage, Stage, image, jsonl};
use rayon::prelude::*;

use crate::cache::ScoreCache;
use crate::error::{PipelineError, Result};
use crate::rewards::{RunReward, for_each};
use crate::stages::{Outcome, Run, inputs};

/// A score, or the reason for its absence.
pub(crate) type Scored = std::result::Result<f64, String>;

/// A picture that is to be scored, or why it cannot be read.
type Picture<'a> = std::result::Result<Cow<'a, RgbImage>, String>;

/// Where pictures are: on disk, or few enough for the memory.
#[derive(Clone, Copy)]
pub enum Pictures<'a> {
    /// On disk, as PNG.
    Files(&'a [PathBuf]),
    /// In memory.
    Memory(&'a [RgbImage]),
}

impl<'a> Pictures<'a> {
    fn len(&self) -> usize {
        match self {
            Self::Files(files) => files.len(),
            Self::Memory(pictures) => pictures.len(),
        }
    }

    fn file(&self, i: usize) -> Option<&'a Path> {
        match self {
            Self::Files(files) => Some(files[i].as_path()),
            Self::Memory(_) => None,
        }
    }

    fn read(&self, i: usize) -> Picture<'a> {
        match self {
            Self::Files(files) => image::read(&files[i]).map(Cow::Owned).map_err(|e| e.to_string()),
            Self::Memory(pictures) => Ok(Cow::Borrowed(&pictures[i])),
        }
    }
}

/// Pictures that are read before it is looked whether the run was stopped.
const READ: usize = 64;

/// Pictures with their prompts and what they are known by in the cache of scores. Of pictures on disk no
/// more are in memory than a reward scores at a time.
pub(crate) struct Work<'a> {
    pictures: Pictures<'a>,
    prompts: &'a [&'a str],
    /// Hashes of pictures; of one that cannot be read, why.
    hashes: Vec<std::result::Result<String, String>>,
}

impl<'a> Work<'a> {
    /// Picture `i` is to show `prompts[i]`.
    pub(crate) fn new(
        run: &Run<'_>,
        pictures: Pictures<'a>,
        prompts: &'a [&'a str],
    ) -> Result<Self> {
        let places: Vec<usize> = (0..pictures.len()).collect();
        let mut hashes = Vec::with_capacity(places.len());
        for part in places.chunks(READ) {
            run.context.check()?;
            let hash = |i: &usize| pictures.read(*i).map(|picture| ScoreCache::image(&picture));
            hashes.par_extend(part.par_iter().map(hash));
        }
        Ok(Self { pictures, prompts, hashes })
    }

    /// Scores all pictures with one reward, those apart whose score is known. What was scored is kept
    /// when the run is stopped on the way. A picture that could not be read lacks its score.
    pub(crate) fn score(
        &self,
        run: &Run<'_>,
        cache: &mut ScoreCache,
        (reward, model, digest): (&RunReward, &dyn Reward, &str),
        done: impl Fn(usize),
    ) -> Result<Vec<Scored>> {
        let name = reward.name.as_str();
        let version = format!("{} {}", model.version(), digest.get(..16).unwrap_or(digest));
        let mut rows: Vec<Scored> = Vec::with_capacity(self.hashes.len());
        let mut open = Vec::new();
        for (i, hash) in self.hashes.iter().enumerate() {
            rows.push(match hash {
                Err(reason) => Err(reason.clone()),
                Ok(hash) => cache.get(hash, self.prompts[i], name, &version).ok_or_else(|| {
                    open.push(i);
                    "not scored".to_owned()
                }),
            });
        }
        done(rows.len() - open.len());
        for part in open.chunks(model.batch().max(1)) {
            run.context.check()?;
            self.score_part(part, model, &mut rows);
            for &i in part {
                if let (Ok(score), Ok(hash)) = (&rows[i], &self.hashes[i]) {
                    cache.put(hash, self.prompts[i], name, &version, *score)?;
                }
            }
            cache.sync_now_and_then()?;
            // Ctrl-C reaches a program that scores as well: what it did not say then is no missing score.
            run.context.check()?;
            done(part.len());
            if reward.stops {
                self.stop_at_missing(name, part, &rows)?;
            }
        }
        cache.sync()?;
        let failed = rows.iter().filter(|row| row.is_err()).count();
        if failed == rows.len()
            && let Some(Err(reason)) = rows.first()
        {
            return Err(PipelineError::NoScores {
                reward: name.to_owned(),
                images: failed,
                reason: reason.clone(),
            });
        }
        Ok(rows)
    }

    /// Scores the pictures at these places.
    fn score_part(&self, part: &[usize], model: &dyn Reward, rows: &mut [Scored]) {
        let read: Vec<(usize, Picture<'_>)> =
            part.par_iter().map(|i| (*i, self.pictures.read(*i))).collect();
        let mut pictures = Vec::with_capacity(read.len());
        for (i, picture) in read {
            match picture {
                Ok(picture) => pictures.push((i, picture)),
                // It was there when its hash was made.
                Err(reason) => rows[i] = Err(reason),
            }
        }
        let views: Vec<RgbImageRef<'_>> = pictures
            .iter()
            .map(|(_, p)| RgbImageRef { pixels: &p.data, width: p.width, height: p.height })
            .collect();
        let files: Vec<Option<&Path>> =
            pictures.iter().map(|(i, _)| self.pictures.file(*i)).collect();
        let texts: Vec<&str> = pictures.iter().map(|(i, _)| self.prompts[*i]).collect();
        let scores = model.score_files(&views, &files, &texts);
        for ((i, _), score) in pictures.iter().zip(scores) {
            rows[*i] = score.map(|s| s.get()).map_err(|reason| reason.to_string());
        }
    }

    /// Stops where the recipe says `on_failure = "stop"`.
    fn stop_at_missing(&self, reward: &str, part: &[usize], rows: &[Scored]) -> Result<()> {
        for i in part {
            if let Err(reason) = &rows[*i] {
                return Err(PipelineError::Unscored {
                    reward: reward.to_owned(),
                    image: match self.pictures.file(*i) {
                        Some(file) => file.display().to_string(),
                        None => format!("a picture of `{}`", self.prompts[*i]),
                    },
                    reason: reason.clone(),
                });
            }
        }
        Ok(())
    }
}

/// How many different prompts are too long for a reward.
fn prompts_cut(reward: &dyn Reward, texts: &[&str]) -> usize {
    let different: BTreeSet<&str> = texts.iter().copied().collect();
    different.into_iter().filter(|text| reward.tokens_cut(text) > 0).count()
}

/// Scores all candidates with the rewards that are trained on.
pub(crate) fn run(
    run: &Run<'_>,
    rewards: &[RunReward],
    hashes: &BTreeMap<String, String>,
    generated: &Manifest,
) -> Result<Manifest> {
    let used: Vec<&RunReward> = rewards.iter().filter(|r| r.trained_on).collect();
    let names: Vec<&str> = used.iter().map(|r| r.name.as_str()).collect();
    let mut inputs = inputs(&[generated]);
    inputs.extend(names.iter().map(|n| ((*n).to_owned(), hashes[*n].clone())));
    run.stage(Stage::SCORE, &names, inputs, |writer| {
        let candidates: Vec<Candidate> = jsonl::read(&run.path("candidates/candidates.jsonl"))?;
        let prompts: Vec<Prompt> = jsonl::read(&run.path("prompts/prompts.jsonl"))?;
        let texts: BTreeMap<_, _> = prompts.iter().map(|p| (&p.id, p.text.as_str())).collect();
        let texts: Vec<&str> =
            candidates.iter().map(|c| texts.get(&c.prompt_id).copied().unwrap_or("")).collect();
        let paths: Vec<PathBuf> =
            candidates.iter().map(|c| run.path("candidates").join(&c.image)).collect();
        let work = Work::new(run, Pictures::Files(&paths), &texts)?;
        let mut cache = ScoreCache::open(run.folder, &run.context)?;
        let mut rows: Vec<ScoreRow> =
            candidates.iter().map(|c| ScoreRow::new(c.id.clone())).collect();
        let total = (candidates.len() * used.len()) as u64;
        run.context.progress.start("score", total, "scores");
        let mut missing = 0;
        let mut dropped = Vec::new();
        let mut cut: BTreeMap<String, usize> = BTreeMap::new();
        let named: Vec<_> = used.iter().map(|r| (r.name.as_str(), &r.source)).collect();
        for_each(&named, &Device::flex(), |index, model| {
            let reward = used[index];
            let name = RewardName::new(reward.name.clone())
                .map_err(|error| PipelineError::Usage(error.to_string()))?;
            let too_long = prompts_cut(model, &texts);
            if too_long > 0 {
                cut.insert(name.to_string(), too_long);
            }
            let progress = run.context.progress;
            let scorer = (reward, model, hashes[&reward.name].as_str());
            let scores = work.score(run, &mut cache, scorer, |n| progress.advance(n as u64))?;
            for (row, score) in rows.iter_mut().zip(scores) {
                match score {
                    Ok(value) => row.set(&name, value),
                    Err(reason) => {
                        missing += 1;
                        dropped.push(DroppedItem {
                            id: row.id().to_string(),
                            reason: format!("{name}: {reason}"),
                        });
                        row.set_missing(&name, reason);
                    }
                }
            }
            Ok(())
        })?;
        for (name, n) in &cut {
            run.context.progress.note(&format!(
                "{n} prompts are longer than {name} reads; it scores their beginnings"
            ));
        }
        jsonl::write(&writer.join("rewards.jsonl"), &rows)?;
        let n = rows.len();
        Ok(Outcome { dropped, ..Outcome::default() }
            .count("candidates", n)
            .count("missing", missing)
            .count("prompts_cut", cut.values().max().copied().unwrap_or(0))
            .say(format!("{n} candidates by {}{}", names.join(", "), lacking(missing))))
    })
}

/// How many scores are missing, in words, if any.
pub(crate) fn lacking(missing: usize) -> String {
    if missing == 0 { String::new() } else { format!("; {missing} scores are missing") }
}
