//! `[report]`: how much of a run its page shows.

use serde::{Deserialize, Serialize};

use super::validate::whole;
use super::{Recipe, RecipeError};

/// `[report]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportSection {
    /// So many prompts are shown with their pictures; numbers are over all.
    pub max_prompts: usize,
}

impl ReportSection {
    /// Prompts shown where the recipe does not say.
    pub const MAX_PROMPTS: usize = 2000;
}

impl Default for ReportSection {
    fn default() -> Self {
        Self { max_prompts: Self::MAX_PROMPTS }
    }
}

impl Recipe {
    pub(super) fn validate_report(&self) -> Result<(), RecipeError> {
        whole("report.max_prompts", self.report.max_prompts, 1, 100_000)
    }
}
