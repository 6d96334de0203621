//! Stage 3: every reward of every candidate, always for the original prompt.

use std::collections::BTreeMap;

use craft_core::{RewardName, ScoreRow};
use craft_rewards::Reward;
use craft_store::{DroppedItem, Manifest, Stage, jsonl};

use crate::cache::ScoreCache;
use crate::error::{PipelineError, Result};
use crate::rewards::{RunReward, for_each};
use crate::stages::candidates::Candidates;
use crate::stages::column::Column;
use crate::stages::scoring::{Hashes, Scorer, score};
pub(crate) use crate::stages::scoring::{Pictures, Work};
use crate::stages::{Outcome, Run, inputs};

/// A row for each candidate.
const ROWS: &str = "rewards.jsonl";

/// How many prompts are too long for a reward.
fn prompts_cut(reward: &dyn Reward, candidates: &Candidates) -> Result<usize> {
    let (mut cut, mut last) = (0, None);
    candidates.with_prompts(|_, prompt| {
        if last.as_ref() != Some(&prompt.id) {
            cut += usize::from(reward.tokens_cut(&prompt.text) > 0);
            last = Some(prompt.id.clone());
        }
        Ok(())
    })?;
    Ok(cut)
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
        let candidates = Candidates::of(run);
        let known = Hashes::of(run, &candidates)?;
        let mut cache = ScoreCache::open(run.folder, &run.context)?;
        let n = known.len();
        run.context.progress.start("score", (n * used.len()) as u64, "scores");
        let mut columns: Vec<(RewardName, Column)> = Vec::new();
        let mut most_cut = 0;
        let named: Vec<_> = used.iter().map(|r| (r.name.as_str(), &r.source)).collect();
        for_each(&named, run.context.device(), |index, model| {
            let reward = used[index];
            let name = RewardName::new(reward.name.clone())
                .map_err(|error| PipelineError::Usage(error.to_string()))?;
            let progress = run.context.progress;
            let scorer = Scorer { reward, model, digest: hashes[&reward.name].as_str() };
            let column = score(run, &mut cache, (&candidates, &known), scorer, |n| {
                progress.advance(n as u64);
            })?;
            let cut = prompts_cut(model, &candidates)?;
            if cut > 0 {
                progress.note(&format!(
                    "{cut} prompts are longer than {name} reads; it scores their beginnings"
                ));
            }
            most_cut = most_cut.max(cut);
            columns.push((name, column));
            Ok(())
        })?;
        let dropped = write(&writer.join(ROWS), &candidates, &columns)?;
        let missing = dropped.len();
        Ok(Outcome { dropped, ..Outcome::default() }
            .count("candidates", n)
            .count("missing", missing)
            .count("prompts_cut", most_cut)
            .say(format!("{n} candidates by {}{}", names.join(", "), lacking(missing))))
    })
}

/// Writes the row of each candidate. Returns the scores that are missing, by reward.
fn write(
    path: &std::path::Path,
    candidates: &Candidates,
    columns: &[(RewardName, Column)],
) -> Result<Vec<DroppedItem>> {
    let mut file = jsonl::Writer::create(path)?;
    let mut dropped: Vec<Vec<DroppedItem>> = columns.iter().map(|_| Vec::new()).collect();
    let mut place = 0;
    candidates.each(|candidate| {
        let id = candidate.id.to_string();
        let mut row = ScoreRow::new(candidate.id);
        for ((name, column), dropped) in columns.iter().zip(&mut dropped) {
            match column.get(place) {
                Ok(score) => row.set(name, score),
                Err(reason) => {
                    let text = format!("{name}: {reason}");
                    dropped.push(DroppedItem { id: id.clone(), reason: text });
                    row.set_missing(name, reason.clone());
                }
            }
        }
        place += 1;
        Ok(file.put(&row)?)
    })?;
    file.commit()?;
    Ok(dropped.into_iter().flatten().collect())
}

/// How many scores are missing, in words, if any.
pub(crate) fn lacking(missing: usize) -> String {
    if missing == 0 { String::new() } else { format!("; {missing} scores are missing") }
}
