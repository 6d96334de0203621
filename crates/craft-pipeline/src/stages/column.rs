//! Scores of many pictures by one reward, compactly: a number each, and the reasons of those that lack one.

use std::collections::BTreeMap;

use craft_core::Missing;

/// One reward's scores in the order of the pictures; 8 bytes a picture, and equal reasons are kept once.
#[derive(Debug, Default)]
pub(crate) struct Column {
    /// NaN where there is none.
    scores: Vec<f64>,
    /// By place, the place of its reason.
    missing: BTreeMap<u32, u32>,
    reasons: Vec<Missing>,
    known: BTreeMap<Missing, u32>,
}

impl Column {
    /// Of so many pictures, of which none has a score yet.
    pub(crate) fn new(pictures: usize) -> Self {
        Self { scores: vec![f64::NAN; pictures], ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.scores.len()
    }

    /// Enters a finite score.
    pub(crate) fn set(&mut self, place: usize, score: f64) {
        if let Some(old) = self.scores.get_mut(place) {
            *old = score;
        }
    }

    /// Enters why there is no score.
    pub(crate) fn miss(&mut self, place: usize, reason: Missing) {
        let number = match self.known.get(&reason) {
            Some(number) => *number,
            None => {
                let number = self.reasons.len() as u32;
                self.known.insert(reason.clone(), number);
                self.reasons.push(reason);
                number
            }
        };
        self.missing.insert(place as u32, number);
    }

    /// The score of a picture, or why there is none.
    pub(crate) fn get(&self, place: usize) -> Result<f64, &Missing> {
        let score = self.scores.get(place).copied().unwrap_or(f64::NAN);
        match score.is_finite() {
            true => Ok(score),
            false => Err(self.reason(place).unwrap_or(&Missing::NotScored)),
        }
    }

    /// Why a picture has no score, if that was entered.
    pub(crate) fn reason(&self, place: usize) -> Option<&Missing> {
        let number = self.missing.get(&(place as u32))?;
        self.reasons.get(*number as usize)
    }

    /// How many have no score.
    pub(crate) fn lacking(&self) -> usize {
        self.scores.iter().filter(|score| !score.is_finite()).count()
    }
}
