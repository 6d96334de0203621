//! Stage 3: every reward of every candidate, always for the original prompt.

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
pub(crate) type Picture = std::result::Result<RgbImage, String>;

/// Pictures with their prompts and what they are known by in the cache of scores.
pub(crate) struct Work<'a> {
    pictures: &'a [Picture],
    files: Option<&'a [PathBuf]>,
    prompts: &'a [&'a str],
    hashes: Vec<String>,
}

impl<'a> Work<'a> {
    /// `pictures[i]` is the content of `files[i]`, if there are files, and is to show `prompts[i]`.
    pub(crate) fn new(
        pictures: &'a [Picture],
        files: Option<&'a [PathBuf]>,
        prompts: &'a [&'a str],
    ) -> Self {
        let hash =
            |picture: &Picture| picture.as_ref().map_or_else(|_| String::new(), ScoreCache::image);
        Self { pictures, files, prompts, hashes: pictures.par_iter().map(hash).collect() }
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
        let mut rows: Vec<Scored> = Vec::with_capacity(self.pictures.len());
        let mut open = Vec::new();
        for (i, picture) in self.pictures.iter().enumerate() {
            let known = cache.get(&self.hashes[i], self.prompts[i], name, &version);
            rows.push(match (picture, known) {
                (Err(reason), _) => Err(reason.clone()),
                (Ok(_), Some(score)) => Ok(score),
                (Ok(_), None) => {
                    open.push(i);
                    Err("not scored".to_owned())
                }
            });
        }
        done(rows.len() - open.len());
        for part in open.chunks(model.batch().max(1)) {
            run.context.check()?;
            let views: Vec<RgbImageRef<'_>> = part
                .iter()
                .filter_map(|i| self.pictures[*i].as_ref().ok())
                .map(|p| RgbImageRef { pixels: &p.data, width: p.width, height: p.height })
                .collect();
            let file = |i: &usize| self.files.map(|files| files[*i].as_path());
            let files: Vec<Option<&Path>> = part.iter().map(file).collect();
            let texts: Vec<&str> = part.iter().map(|i| self.prompts[*i]).collect();
            for (i, score) in part.iter().zip(model.score_files(&views, &files, &texts)) {
                rows[*i] = score.map(|s| s.get()).map_err(|reason| reason.to_string());
                if let Ok(score) = rows[*i] {
                    cache.put(&self.hashes[*i], self.prompts[*i], name, &version, score)?;
                }
            }
            done(part.len());
            if reward.stops {
                self.stop_at_missing(name, part, &rows)?;
            }
        }
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

    /// Stops where the recipe says `on_failure = "stop"`.
    fn stop_at_missing(&self, reward: &str, part: &[usize], rows: &[Scored]) -> Result<()> {
        for i in part {
            if let Err(reason) = &rows[*i] {
                return Err(PipelineError::Unscored {
                    reward: reward.to_owned(),
                    image: match self.files {
                        Some(files) => files[*i].display().to_string(),
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

/// Reads pictures; a torn one is its reason.
pub(crate) fn read_pictures(paths: &[PathBuf]) -> Vec<Picture> {
    paths.par_iter().map(|path| image::read(path).map_err(|e| e.to_string())).collect()
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
        let pictures = read_pictures(&paths);
        let work = Work::new(&pictures, Some(&paths), &texts);
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
