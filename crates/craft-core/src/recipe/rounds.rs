//! `[rounds]`, `[sweep]` and `[stop]`: drawing again from what was tuned, and watching what tuning does.

use serde::{Deserialize, Serialize};

use super::validate::{number, range, whole};
use super::{Recipe, RecipeError, RewardRole};

/// `[rounds]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoundsSection {
    /// How often to draw, filter and tune, each time from the model of the round before.
    pub count: usize,
    /// Whether all rounds together may take the steps, samples and prompts that one would.
    pub same_budget: bool,
}

impl Default for RoundsSection {
    fn default() -> Self {
        Self { count: 1, same_budget: false }
    }
}

/// `[sweep]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SweepSection {
    /// Whether weights between base and tuned model are measured.
    pub enabled: bool,
    /// Shares of the way from the base weights (0) to the tuned ones (1) and beyond.
    pub factors: Vec<f64>,
    /// The first so many prompts of the evaluation, one picture each.
    pub prompts: usize,
}

impl Default for SweepSection {
    fn default() -> Self {
        Self { enabled: false, factors: vec![0.0, 0.25, 0.5, 0.75, 1.0, 1.25], prompts: 32 }
    }
}

/// `[stop]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StopSection {
    /// Steps between looks at the model in training; 0: none.
    pub every: usize,
    /// So many prompts, one picture each: of the embedded world those for choosing settings, else the
    /// first of the evaluation.
    pub prompts: usize,
    /// Training ends when the first held-out reward lies this much below its best look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fall: Option<f64>,
    /// Training ends when a statistic of the pictures (saturation, brightness, contrast, sharpness,
    /// high frequencies) has changed by more than this share of the base model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_drift: Option<f64>,
}

impl Default for StopSection {
    fn default() -> Self {
        Self { every: 0, prompts: 24, max_fall: None, max_drift: None }
    }
}

impl Recipe {
    pub(super) fn validate_rounds(&self) -> Result<(), RecipeError> {
        whole("rounds.count", self.rounds.count, 1, 20)?;
        let sweep = &self.sweep;
        whole("sweep.prompts", sweep.prompts, 1, 1_000_000)?;
        if sweep.factors.is_empty() || sweep.factors.len() > 20 {
            return Err(range("sweep.factors", sweep.factors.len(), "from 1 to 20 numbers"));
        }
        for (i, factor) in sweep.factors.iter().enumerate() {
            number(&format!("sweep.factors[{i}]"), *factor, -2.0, 4.0)?;
        }
        let stop = &self.stop;
        whole("stop.every", stop.every, 0, 1_000_000)?;
        whole("stop.prompts", stop.prompts, 1, 1_000_000)?;
        for (key, bound) in [("stop.max_fall", stop.max_fall), ("stop.max_drift", stop.max_drift)] {
            if let Some(bound) = bound {
                number(key, bound, 0.0, 1e6)?;
                if stop.every == 0 {
                    let allowed = "no bound with stop.every = 0, which never looks; set stop.every";
                    return Err(range(key, bound, allowed));
                }
            }
        }
        let held_out = self.rewards.iter().any(|r| r.role == RewardRole::HeldOut);
        if let Some(bound) = stop.max_fall.filter(|_| !held_out) {
            return Err(range("stop.max_fall", bound, "a reward with role = \"held-out\" for it"));
        }
        Ok(())
    }
}
