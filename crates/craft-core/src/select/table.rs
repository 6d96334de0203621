//! The scores of a run in a form that is small: a number for each candidate and reward, no text for either.

use std::collections::BTreeMap;

use crate::prompt::{CandidateId, PromptId};
use crate::reward::{Missing, RewardName, ScoreRow};

/// A candidate by the place of its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    prompt: u32,
    variant: u32,
    sample: u32,
}

/// Scores of candidates, taken one row at a time. Takes 12 bytes a candidate and 8 for each of its scores;
/// a reason for a missing score is kept once, however many candidates share it.
#[derive(Debug, Clone, Default)]
pub struct ScoreTable {
    rewards: Vec<RewardName>,
    /// Each prompt once for every time that rows turned to it.
    prompts: Vec<PromptId>,
    rows: Vec<Place>,
    /// Row by row, NaN where a score is missing.
    scores: Vec<f64>,
    /// Reasons by row and reward; no entry where it was never scored.
    missing: BTreeMap<(u32, u32), u32>,
    reasons: Vec<Missing>,
    known: BTreeMap<Missing, u32>,
}

impl ScoreTable {
    /// A table without rows that keeps the scores of these rewards.
    pub fn new(rewards: impl IntoIterator<Item = RewardName>) -> Self {
        Self { rewards: rewards.into_iter().collect(), ..Self::default() }
    }

    /// Adds a row. The order of rows does not matter; of two with one id the first counts.
    pub fn push(&mut self, row: &ScoreRow) {
        let id = row.id();
        if self.prompts.last() != Some(&id.prompt) {
            self.prompts.push(id.prompt.clone());
        }
        let place = self.rows.len() as u32;
        for (reward, name) in self.rewards.iter().enumerate() {
            self.scores.push(row.score(name).unwrap_or(f64::NAN));
            if let Some(reason) = row.missing().get(name.as_str()) {
                let next = self.reasons.len() as u32;
                let number = *self.known.entry(reason.clone()).or_insert(next);
                if number == next {
                    self.reasons.push(reason.clone());
                }
                self.missing.insert((place, reward as u32), number);
            }
        }
        let prompt = self.prompts.len() as u32 - 1;
        self.rows.push(Place { prompt, variant: id.variant, sample: id.sample });
    }

    /// How many rows there are, with those of one id.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The column of a reward.
    pub(super) fn column(&self, reward: &RewardName) -> Option<usize> {
        self.rewards.iter().position(|name| name == reward)
    }

    /// A score; NaN where it is missing.
    pub(super) fn score(&self, row: u32, column: usize) -> f64 {
        self.scores[row as usize * self.rewards.len() + column]
    }

    /// Why a score is missing; `None` where it was never scored.
    pub(super) fn reason(&self, row: u32, column: Option<usize>) -> Option<&Missing> {
        let number = self.missing.get(&(row, column? as u32))?;
        self.reasons.get(*number as usize)
    }

    pub(super) fn variant(&self, row: u32) -> u32 {
        self.rows[row as usize].variant
    }

    pub(super) fn sample(&self, row: u32) -> u32 {
        self.rows[row as usize].sample
    }

    pub(super) fn prompt(&self, row: u32) -> &PromptId {
        &self.prompts[self.rows[row as usize].prompt as usize]
    }

    pub(super) fn id(&self, row: u32) -> CandidateId {
        let Place { variant, sample, .. } = self.rows[row as usize];
        CandidateId::new(self.prompt(row).clone(), variant, sample)
    }

    /// Rows in the order of their ids, each id once: its first row.
    pub(super) fn in_order(&self) -> Vec<u32> {
        let key = |row: &u32| {
            let Place { variant, sample, .. } = self.rows[*row as usize];
            (self.prompt(*row), variant, sample)
        };
        let mut order: Vec<u32> = (0..self.rows.len() as u32).collect();
        // Rows come in order as a rule, and then this takes one comparison each.
        order.sort_by(|a, b| key(a).cmp(&key(b)));
        order.dedup_by(|b, a| key(a) == key(b));
        order
    }
}
