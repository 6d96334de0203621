//! Stage 3: every reward of every candidate, always for the original prompt.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::Device;
use craft_core::{Candidate, Prompt, RewardName, ScoreRow};
use craft_rewards::{Reward, RgbImageRef};
use craft_store::{DroppedItem, Manifest, RgbImage, Stage, image, jsonl};
use rayon::prelude::*;

use crate::error::{PipelineError, Result};
use crate::rewards::{RunReward, for_each};
use crate::stages::{Outcome, Run, inputs};

/// Pictures that are scored at a time. Does not change any score.
const BATCH: usize = 64;

/// A score, or the reason for its absence.
pub(crate) type Scored = std::result::Result<f64, String>;

/// Scores pictures under prompts with one reward. A picture that could not be read lacks its score.
pub(crate) fn score(
    reward: &dyn Reward,
    pictures: &[std::result::Result<RgbImage, String>],
    prompts: &[&str],
    mut done: impl FnMut(usize),
) -> Vec<Scored> {
    let mut out = Vec::with_capacity(pictures.len());
    for (pictures, prompts) in pictures.chunks(BATCH).zip(prompts.chunks(BATCH)) {
        let readable: Vec<(usize, &RgbImage)> =
            pictures.iter().enumerate().filter_map(|(i, p)| Some((i, p.as_ref().ok()?))).collect();
        let refs: Vec<RgbImageRef<'_>> = readable
            .iter()
            .map(|(_, p)| RgbImageRef { pixels: &p.data, width: p.width, height: p.height })
            .collect();
        let texts: Vec<&str> = readable.iter().map(|(i, _)| prompts[*i]).collect();
        let mut rows: Vec<Scored> = pictures
            .iter()
            .map(|p| Err(p.as_ref().err().cloned().unwrap_or_else(|| "not scored".to_owned())))
            .collect();
        for ((i, _), score) in readable.iter().zip(reward.score(&refs, &texts)) {
            rows[*i] = score.map(|s| s.get()).map_err(|reason| reason.to_string());
        }
        out.extend(rows);
        done(pictures.len());
    }
    out
}

/// How many different prompts are too long for a reward.
fn prompts_cut(reward: &dyn Reward, texts: &[&str]) -> usize {
    let different: BTreeSet<&str> = texts.iter().copied().collect();
    different.into_iter().filter(|text| reward.tokens_cut(text) > 0).count()
}

/// Reads pictures; a torn one is its reason.
pub(crate) fn read_pictures<P: AsRef<Path> + Sync>(
    paths: &[P],
) -> Vec<std::result::Result<RgbImage, String>> {
    paths.par_iter().map(|path| image::read(path.as_ref()).map_err(|e| e.to_string())).collect()
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
        let paths: Vec<_> =
            candidates.iter().map(|c| run.path("candidates").join(&c.image)).collect();
        let pictures = read_pictures(&paths);
        let mut rows: Vec<ScoreRow> =
            candidates.iter().map(|c| ScoreRow::new(c.id.clone())).collect();
        let total = (candidates.len() * used.len()) as u64;
        run.context.progress.start("score", total, "scores");
        let mut missing = 0;
        let mut dropped = Vec::new();
        let mut cut: BTreeMap<String, usize> = BTreeMap::new();
        let named: Vec<_> = used.iter().map(|r| (r.name.as_str(), &r.weights)).collect();
        for_each(&named, &Device::flex(), |index, model| {
            run.context.check()?;
            let name = RewardName::new(used[index].name.clone())
                .map_err(|error| PipelineError::Usage(error.to_string()))?;
            let too_long = prompts_cut(model, &texts);
            if too_long > 0 {
                cut.insert(name.to_string(), too_long);
            }
            let progress = run.context.progress;
            let scores = score(model, &pictures, &texts, |n| progress.advance(n as u64));
            for (row, score) in rows.iter_mut().zip(scores) {
                match score {
                    Ok(value) => row.set(&name, value),
                    Err(reason) => {
                        missing += 1;
                        let reason = format!("{name}: {reason}");
                        dropped
                            .push(DroppedItem { id: row.id().to_string(), reason: reason.clone() });
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
            .say(format!("{n} candidates by {}", names.join(", "))))
    })
}
