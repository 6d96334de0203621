//! `[select]`: what is trained on, with which weight.

use serde::{Deserialize, Serialize};

use crate::select::{AdvantageScale, Indicator, Sign, Statistics, Total};

/// `[select]`; see [`crate::select`] for the meaning of each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelectSection {
    /// How many filter rewards must rise; `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_passes: Option<usize>,
    /// By how much each must rise, in its standard deviations.
    pub margin: f64,
    /// Per candidate or per prompt.
    pub indicator: Indicator,
    /// How rewards are summed.
    pub total: Total,
    /// Whole group or survivors.
    pub statistics: Statistics,
    /// In deviations of the group or as it is.
    pub advantage_scale: AdvantageScale,
    /// How advantages become weights.
    pub sign: Sign,
    /// The b of `sign = "shifted"`.
    pub shift: f64,
    /// The budget.
    pub max_samples: usize,
    /// Limit per prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_per_prompt: Option<usize>,
}

impl Default for SelectSection {
    fn default() -> Self {
        Self {
            min_passes: None,
            margin: 0.0,
            indicator: Indicator::default(),
            total: Total::default(),
            statistics: Statistics::default(),
            advantage_scale: AdvantageScale::default(),
            sign: Sign::default(),
            shift: 0.5,
            max_samples: 100,
            max_per_prompt: None,
        }
    }
}
