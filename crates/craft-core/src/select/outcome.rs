//! What becomes of the candidates of a table, kept small until their lines are asked for.

use std::collections::BTreeMap;

use super::explain::{Reason, reason};
use super::table::ScoreTable;
use super::{DropReason, Funnel, NotSelected, SelectOptions, Selection, SelectionRow};
use crate::reward::Missing;

/// Why a candidate was dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Dropped {
    /// It lacks the reward at this place of the options.
    Lacks(u32),
    /// r_total is not finite.
    Total,
    /// Its original has no usable scores.
    Original,
    /// So few rows to take statistics of.
    Small(u32),
    /// So many totals, all equal.
    Equal(u32),
}

/// What becomes of one candidate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) dropped: Option<Dropped>,
    /// Whether it could be compared with its original.
    pub(super) compared: bool,
    pub(super) passes: bool,
    pub(super) total: Option<f64>,
    pub(super) advantage: Option<f64>,
    pub(super) not_selected: Option<NotSelected>,
    pub(super) weight: f64,
}

impl Outcome {
    pub(super) const OPEN: Self = Self {
        dropped: None,
        compared: false,
        passes: false,
        total: None,
        advantage: None,
        not_selected: None,
        weight: 0.0,
    };
}

/// A selection from a table: some 70 bytes a candidate.
#[derive(Debug, Clone)]
pub struct Chosen<'a> {
    pub(super) table: &'a ScoreTable,
    pub(super) options: &'a SelectOptions,
    pub(super) needed_passes: usize,
    /// Columns of the options' rewards.
    pub(super) columns: Vec<Option<usize>>,
    /// Rows in the order of their ids.
    pub(super) rows: Vec<u32>,
    /// Beside the rows; of originals unused.
    pub(super) outcomes: Vec<Outcome>,
    /// For each row whether it rose, by the options' filter rewards.
    pub(super) rose: Vec<bool>,
    /// What was left after each step.
    pub funnel: Funnel,
}

impl Chosen<'_> {
    /// The places, in the options, of the rewards that filter.
    pub(super) fn filters(&self) -> impl Iterator<Item = usize> {
        let rewards = self.options.rewards.iter().enumerate();
        rewards.filter(|(_, reward)| reward.filter).map(|(place, _)| place)
    }

    /// For each filter reward whether a row rose; empty if it could not be compared.
    pub(super) fn rose(&self, place: usize) -> &[bool] {
        let filters = self.filters().count();
        match self.outcomes[place].compared {
            true => &self.rose[place * filters..(place + 1) * filters],
            false => &[],
        }
    }

    /// Places of the candidates: rows of variants ≥ 1.
    pub(super) fn candidates(&self) -> impl Iterator<Item = usize> {
        (0..self.rows.len()).filter(|place| self.table.variant(self.rows[*place]) >= 1)
    }

    /// Why a candidate was dropped, in the words of counts.
    pub(super) fn drop_reason(&self, place: usize) -> Option<DropReason> {
        Some(match self.outcomes[place].dropped? {
            Dropped::Lacks(reward) => {
                let column = self.columns[reward as usize];
                match self.table.reason(self.rows[place], column) {
                    Some(Missing::NonFinite(_)) => DropReason::NonFinite,
                    _ => DropReason::MissingReward,
                }
            }
            Dropped::Total => DropReason::NonFinite,
            Dropped::Original => DropReason::OriginalMissing,
            Dropped::Small(_) => DropReason::GroupTooSmall,
            Dropped::Equal(_) => DropReason::ZeroVarianceGroup,
        })
    }

    /// The line of each candidate in the order of the ids, one at a time.
    pub fn rows(&self) -> impl Iterator<Item = SelectionRow> {
        self.candidates().map(|place| self.row(place))
    }

    fn row(&self, place: usize) -> SelectionRow {
        let outcome = &self.outcomes[place];
        let id = self.table.id(self.rows[place]);
        let rewards = self.filters().map(|reward| self.options.rewards[reward].name.to_string());
        let passed_by: BTreeMap<String, bool> =
            rewards.zip(self.rose(place).iter().copied()).collect();
        let reason = reason(self, place, &Reason { id: &id, passed_by: &passed_by });
        SelectionRow {
            prompt_id: id.prompt.clone(),
            variant: id.variant,
            sample: id.sample,
            passed_by,
            passed: outcome.passes && outcome.dropped.is_none(),
            selected: reason.is_none(),
            weight: if reason.is_none() { outcome.weight } else { 0.0 },
            reason,
            total: outcome.total,
            advantage: outcome.advantage,
            id,
        }
    }
}

impl From<Chosen<'_>> for Selection {
    fn from(chosen: Chosen<'_>) -> Self {
        Self { rows: chosen.rows().collect(), funnel: chosen.funnel }
    }
}
