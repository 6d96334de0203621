//! `sweep/sweep.json`: weights between base and tuned model, and beyond.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PictureStatistics;

/// A reward at one strength.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Strength {
    /// Mean over the prompts.
    pub mean: f64,
    /// Mean change against strength 0, where it was measured.
    pub delta: Option<f64>,
    /// Its 95 % bootstrap interval.
    pub ci95: Option<[f64; 2]>,
}

/// A reward at every strength, in the order of the factors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Strengths {
    /// Whether it filtered or weighted samples.
    pub trained_on: bool,
    /// By factor.
    pub at: Vec<Strength>,
}

/// `sweep/sweep.json`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// Shares of the way from the base weights (0) to the tuned ones (1) and beyond.
    pub factors: Vec<f64>,
    /// Prompts, one picture each.
    pub prompts: u64,
    /// By reward.
    pub rewards: BTreeMap<String, Strengths>,
    /// Means of the pictures' statistics, by factor.
    pub drift: Vec<PictureStatistics>,
}
