//! Composite reward filtering, group advantages and the budget: which candidates are trained on,
//! and with which weights.
//!
//! For prompt i, wording j ≥ 1 and noise s, candidate (i, j, s) is compared with the image of the
//! original wording with the same number of sample, (i, 0, s), drawn from the same noise or from another:
//!
//! 1. Rows that lack a reward that is needed, or hold a non-finite one, are dropped and counted.
//!    All statistics are over the rows that remain, so that the result equals that of a clean run.
//! 2. Filter: reward ξ passes when `r_ξ(i,j,s) > r_ξ(i,0,s) + margin · std_ξ`; the candidate
//!    passes when at least `min_passes` filter rewards do (default: all; the paper's I_ξ, I_ha and
//!    I_hpa are filters of one, two and three rewards).
//! 3. Total: r_total per row ([`Total`]), advantage `Â = (r_total − mean_i) / (std_i + EPS)`, or without
//!    the division ([`AdvantageScale`]), over the group of prompt i, which is all of its rows, originals
//!    and all noises included.
//! 4. Budget: the best `max_samples` survivors by Â; ties go to the smaller id.
//! 5. Weights from Â ([`Sign`]), normalised to mean 1.

mod advantage;
mod advice;
mod control;
mod explain;
mod outcome;
mod run;
mod table;

pub use advantage::{GroupFault, group_advantages};
pub use advice::{Change, Shortfall, shortfall};
pub use control::{ControlError, ControlRow, random_control, random_control_of};
pub use outcome::Chosen;
pub use run::{choose, select};
pub use table::ScoreTable;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::prompt::{CandidateId, PromptId};
use crate::reward::RewardName;

/// Added to the standard deviation of a group before dividing by it.
///
/// Groups whose deviation is rounding noise are dropped beforehand (see [`group_advantages`]), so
/// this never decides an advantage: it keeps the formula of the paper, and is small beside the
/// deviations met in practice (of z-scores about 1, of raw cosines about 1e-2).
pub const EPS: f64 = 1e-8;

/// Which candidates a passed comparison stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Indicator {
    /// Each candidate passes or fails by itself.
    #[default]
    Candidate,
    /// All usable candidates of a prompt must pass, or none does.
    Prompt,
}

/// How the rewards of a row become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Total {
    /// Weighted sum of z-scores over all usable rows of the run.
    #[default]
    Zscore,
    /// Weighted sum of the rewards as they are.
    Raw,
    /// Weighted sum of z-scores within the group of the prompt; a reward without variance in a
    /// group adds 0 there.
    Gdpo,
}

/// Over which rows the mean and deviation of a group are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statistics {
    /// All usable rows of the prompt, the originals included.
    #[default]
    Group,
    /// Only candidates that passed the filter. A group with one survivor has no variance then.
    Survivors,
}

/// What the distance of a total from its group's mean is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdvantageScale {
    /// Deviations of the group (GRPO; the paper). A small gain in a group of equals counts as much as a
    /// large one elsewhere.
    #[default]
    Group,
    /// The total's own scale, which all groups share (Dr. GRPO, arXiv 2503.20783): large gains count more.
    None,
}

/// How an advantage becomes a weight, before weights are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// max(Â, 0). Weights cannot be negative, which the lower bound of the method needs.
    #[default]
    Clip,
    /// Â itself; normalised to a mean *size* of 1. Known to be unstable.
    Signed,
    /// max(Â + shift, 0).
    Shifted,
    /// 1 for every survivor.
    Ones,
}

/// A reward model as selection uses it.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardUse {
    /// Its name in the score rows.
    pub name: RewardName,
    /// Its weight in r_total, ≥ 0; with 0 it filters only.
    pub weight: f64,
    /// Whether candidates must beat the original on it.
    pub filter: bool,
}

impl RewardUse {
    /// A reward that filters and counts with weight 1.
    pub fn new(name: RewardName) -> Self {
        Self { name, weight: 1.0, filter: true }
    }
}

/// Everything that decides a selection.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectOptions {
    /// The rewards used for filter or total. Held-out rewards must not be here.
    pub rewards: Vec<RewardUse>,
    /// How many filter rewards must rise; `None`: all of them. 0: no filter.
    pub min_passes: Option<usize>,
    /// By how much a reward must rise, in standard deviations of that reward over all usable rows.
    pub margin: f64,
    /// Per candidate or per prompt.
    pub indicator: Indicator,
    /// How rewards are summed.
    pub total: Total,
    /// Statistics of a group.
    pub statistics: Statistics,
    /// The unit of advantages.
    pub scale: AdvantageScale,
    /// How advantages become weights.
    pub sign: Sign,
    /// The b of [`Sign::Shifted`].
    pub shift: f64,
    /// At most so many candidates are selected.
    pub max_samples: usize,
    /// At most so many of one prompt; `None`: no limit.
    pub max_per_prompt: Option<usize>,
}

impl SelectOptions {
    /// The defaults of the project for a set of rewards: all must rise, per candidate, z-scores,
    /// whole group, clipped, the best 100.
    pub fn new(rewards: Vec<RewardUse>) -> Self {
        Self {
            rewards,
            min_passes: None,
            margin: 0.0,
            indicator: Indicator::default(),
            total: Total::default(),
            statistics: Statistics::default(),
            scale: AdvantageScale::default(),
            sign: Sign::default(),
            shift: 0.0,
            max_samples: 100,
            max_per_prompt: None,
        }
    }
}

/// Why a candidate takes no part in the selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    /// A second row of the same id; the first is kept.
    DuplicateId,
    /// A needed reward has no score.
    MissingReward,
    /// A needed reward was not finite, or r_total was not.
    NonFinite,
    /// The original wording with the same noise has no usable row.
    OriginalMissing,
    /// Fewer than two rows to take statistics of.
    GroupTooSmall,
    /// All totals of the group are equal.
    ZeroVarianceGroup,
}

impl DropReason {
    /// The reason as it stands in counts: `missing-reward`.
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::DuplicateId => "duplicate-id",
            DropReason::MissingReward => "missing-reward",
            DropReason::NonFinite => "non-finite",
            DropReason::OriginalMissing => "original-missing",
            DropReason::GroupTooSmall => "group-too-small",
            DropReason::ZeroVarianceGroup => "zero-variance-group",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a survivor of the filter was not selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotSelected {
    /// Its weight would be 0.
    NoWeight,
    /// Better candidates of the same prompt reached `max_per_prompt`.
    PromptLimit,
    /// Better candidates reached `max_samples`.
    OverBudget,
}

/// How many candidates were left after each step.
///
/// `candidates = Σ dropped + rejected + passed` and `passed = selected + Σ not_selected`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Funnel {
    /// Prompts with at least one row.
    pub prompts: usize,
    /// Rows of original wordings (variant 0).
    pub originals: usize,
    /// Rows of variants ≥ 1: what can be selected.
    pub candidates: usize,
    /// Candidates dropped, by reason.
    pub dropped: BTreeMap<DropReason, usize>,
    /// Originals dropped, by reason; their candidates count as `original-missing`.
    pub dropped_originals: BTreeMap<DropReason, usize>,
    /// Candidates that could be compared with their original.
    pub compared: usize,
    /// Of the compared, how many rose on each filter reward.
    pub passed_by: BTreeMap<String, usize>,
    /// Of the compared, how many rose on exactly so many filter rewards.
    pub passed_count: BTreeMap<usize, usize>,
    /// Candidates that were not dropped and failed the filter.
    pub rejected: usize,
    /// Candidates that were not dropped and passed it.
    pub passed: usize,
    /// Of the passed, those not selected, by reason.
    pub not_selected: BTreeMap<NotSelected, usize>,
    /// Candidates that are trained on.
    pub selected: usize,
    /// Prompts with at least one selected candidate.
    pub selected_prompts: usize,
}

/// One line of `selection/selection.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SelectionRow {
    /// The candidate (variant ≥ 1).
    pub id: CandidateId,
    /// Its prompt.
    pub prompt_id: PromptId,
    /// Its wording.
    pub variant: u32,
    /// Its noise.
    pub sample: u32,
    /// For each filter reward whether it rose; empty if it could not be compared.
    pub passed_by: BTreeMap<String, bool>,
    /// Whether it passed the filter.
    pub passed: bool,
    /// Why it was not selected; `None` if it was.
    pub reason: Option<String>,
    /// r_total, where it could be computed.
    pub total: Option<f64>,
    /// Â, where it could be computed.
    pub advantage: Option<f64>,
    /// Its weight in training: mean 1 over the selected, 0 for others.
    pub weight: f64,
    /// Whether it is trained on.
    pub selected: bool,
}

/// A selection.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// One row per candidate (variant ≥ 1) in the order of the ids.
    pub rows: Vec<SelectionRow>,
    /// What was left after each step.
    pub funnel: Funnel,
}

impl Selection {
    /// The selected rows in the order of the ids; their weights have mean 1.
    pub fn selected(&self) -> impl Iterator<Item = &SelectionRow> {
        self.rows.iter().filter(|row| row.selected)
    }

    /// Every candidate that was not used, with its reason, for the `dropped` list of a manifest:
    /// only those dropped for a fault, not those that failed the filter.
    pub fn faults(&self) -> impl Iterator<Item = (&CandidateId, &str)> {
        self.rows
            .iter()
            .filter(|row| row.advantage.is_none())
            .filter_map(|row| Some((&row.id, row.reason.as_deref()?)))
    }
}

/// As many of the rows that are not selected as there are selected ones, those of the lowest advantages first; ties go to the smaller id.
pub fn worst(rows: &[SelectionRow]) -> Vec<&SelectionRow> {
    let selected = rows.iter().filter(|row| row.selected).count();
    let mut others: Vec<(f64, &SelectionRow)> = rows
        .iter()
        .filter(|row| !row.selected)
        .filter_map(|row| Some((row.advantage?, row)))
        .collect();
    others.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.id.cmp(&b.1.id)));
    others.into_iter().take(selected).map(|(_, row)| row).collect()
}

/// A selection that cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SelectError {
    /// An option out of its range.
    #[error("select: {0}")]
    Options(String),
    /// Nothing to select from.
    #[error(
        "no candidate to select from: {originals} rows, all of original wordings; expand prompts into at least one more wording"
    )]
    NoCandidates {
        /// Rows of original wordings.
        originals: usize,
    },
    /// Nothing is left to train on.
    #[error("none of {} candidates was selected: {hint}", funnel.candidates)]
    NothingSelected {
        /// What was left after each step.
        funnel: Box<Funnel>,
        /// What happened to the candidates, and which option to loosen.
        hint: String,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
