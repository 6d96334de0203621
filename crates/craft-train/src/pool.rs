//! The candidates of a run with their scores, as methods choose among them.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use craft_core::select::{SelectionRow, select};
use craft_core::stats::mean_std;
use craft_core::{CandidateId, PromptId, Recipe, ScoreRow};

use crate::error::Result;

/// A candidate and its number: a weight, an advantage, or a label.
pub type Chosen = (CandidateId, f64);

/// Candidates that share a timestep and a noise, each with its number.
pub type Units = Vec<Vec<Chosen>>;

/// Where the candidates of a run are read from. Nothing is read that a method does not ask for.
pub trait Source {
    /// All candidates, in the order of their ids.
    ///
    /// # Errors
    /// When they cannot be read.
    fn ids(&self) -> Result<Vec<CandidateId>>;

    /// The scores of all candidates.
    ///
    /// # Errors
    /// As [`Self::ids`].
    fn rows(&self) -> Result<Vec<ScoreRow>>;

    /// What is selected with its weights, if that is known already.
    ///
    /// # Errors
    /// As [`Self::ids`].
    fn selected(&self) -> Result<Option<Vec<Chosen>>> {
        Ok(None)
    }
}

/// The candidates that a method sees.
pub struct Pool<'a> {
    /// The method's own recipe.
    pub recipe: &'a Recipe,
    source: &'a dyn Source,
    rows: OnceCell<Vec<ScoreRow>>,
    selection: OnceCell<Vec<SelectionRow>>,
    totals: OnceCell<BTreeMap<CandidateId, f64>>,
}

/// A cell's value, computed at the first call that succeeds.
fn once<T>(cell: &OnceCell<T>, compute: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = compute()?;
    Ok(cell.get_or_init(|| value))
}

impl<'a> Pool<'a> {
    /// The candidates of a source under a recipe.
    pub fn new(recipe: &'a Recipe, source: &'a dyn Source) -> Self {
        let (rows, selection, totals) = Default::default();
        Self { recipe, source, rows, selection, totals }
    }

    /// All candidates.
    ///
    /// # Errors
    /// Those of the source.
    pub fn ids(&self) -> Result<Vec<CandidateId>> {
        self.source.ids()
    }

    fn rows(&self) -> Result<&Vec<ScoreRow>> {
        once(&self.rows, || self.source.rows())
    }

    /// What the filter and the budget make of all candidates.
    ///
    /// # Errors
    /// Those of the source, and when nothing is selected.
    pub fn selection(&self) -> Result<&Vec<SelectionRow>> {
        once(&self.selection, || Ok(select(self.rows()?, &self.recipe.select_options())?.rows))
    }

    /// What the filter and the budget leave, with its weights.
    ///
    /// # Errors
    /// As [`Self::selection`].
    pub fn selected(&self) -> Result<Vec<Chosen>> {
        if let Some(selected) = self.source.selected()? {
            return Ok(selected);
        }
        let selected = self.selection()?.iter().filter(|row| row.selected);
        Ok(selected.map(|row| (row.id.clone(), row.weight)).collect())
    }

    /// The weighted sum of z-scores over the pool of each candidate that has every reward.
    ///
    /// # Errors
    /// Those of the source.
    pub fn totals(&self) -> Result<&BTreeMap<CandidateId, f64>> {
        once(&self.totals, || Ok(totals(self.rows()?, self.recipe)))
    }

    /// Candidates of each prompt that have every reward, with their totals; with or without the plain
    /// prompt's own pictures.
    ///
    /// # Errors
    /// Those of the source.
    pub fn groups(&self, plain: bool) -> Result<Vec<Vec<Chosen>>> {
        let mut groups: BTreeMap<&PromptId, Vec<Chosen>> = BTreeMap::new();
        for (id, total) in self.totals()?.iter().filter(|(id, _)| plain || id.variant >= 1) {
            groups.entry(&id.prompt).or_default().push((id.clone(), *total));
        }
        Ok(groups.into_values().collect())
    }
}

/// Weighted sums of z-scores over all rows that have every reward.
fn totals(rows: &[ScoreRow], recipe: &Recipe) -> BTreeMap<CandidateId, f64> {
    let rewards = recipe.select_options().rewards;
    let scores = |row: &ScoreRow| -> Option<Vec<f64>> {
        rewards.iter().map(|reward| row.score(&reward.name)).collect()
    };
    let whole: Vec<(&CandidateId, Vec<f64>)> =
        rows.iter().filter_map(|row| Some((row.id(), scores(row)?))).collect();
    let spread: Vec<(f64, f64)> = (0..rewards.len())
        .map(|i| mean_std(&whole.iter().map(|(_, s)| s[i]).collect::<Vec<_>>()))
        .collect();
    let total = |scores: &[f64]| -> f64 {
        let terms = scores.iter().zip(&spread).zip(&rewards);
        terms
            .filter(|((_, (_, std)), _)| *std > 0.0)
            .map(|((s, (m, std)), r)| r.weight * (s - m) / std)
            .sum()
    };
    whole.into_iter().map(|(id, scores)| (id.clone(), total(&scores))).collect()
}

/// Units of one candidate each.
pub fn singles(chosen: impl IntoIterator<Item = Chosen>) -> Units {
    chosen.into_iter().map(|c| vec![c]).collect()
}

/// Best and worst of a group; ties go to the smaller id.
pub fn ends(group: &[Chosen]) -> Option<(&Chosen, &Chosen)> {
    let best = group.iter().rev().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let worst = group.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    Some((best, worst))
}

/// Best and worst of each prompt's pictures, plain ones included, where one is better; labelled 1 and 0.
///
/// # Errors
/// Those of the pool.
pub fn best_and_worst(pool: &Pool<'_>) -> Result<Vec<[Chosen; 2]>> {
    let groups = pool.groups(true)?;
    let pairs = groups.iter().filter_map(|g| ends(g).filter(|(best, worst)| best.1 > worst.1));
    Ok(pairs.map(|(best, worst)| [(best.0.clone(), 1.0), (worst.0.clone(), 0.0)]).collect())
}
