//! The selection itself, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::advantage::{GroupFault, advantage, group_statistics};
use super::explain::hint;
use super::outcome::{Chosen, Dropped, Outcome};
use super::table::ScoreTable;
use super::{
    AdvantageScale, DropReason, Funnel, Indicator, NotSelected, SelectError, SelectOptions,
    Selection, Sign, Statistics, Total,
};
use crate::reward::ScoreRow;
use crate::stats::mean_std;

/// [`choose`] from rows that are all in memory.
///
/// # Errors
/// See [`choose`].
pub fn select(rows: &[ScoreRow], options: &SelectOptions) -> Result<Selection, SelectError> {
    let mut table = ScoreTable::new(options.rewards.iter().map(|reward| reward.name.clone()));
    rows.iter().for_each(|row| table.push(row));
    choose(&table, options).map(Selection::from)
}

/// Filters, weighs and budgets candidates; see the module. The order of rows does not matter.
///
/// # Errors
/// When an option is out of its range, and when nothing can be or was selected.
pub fn choose<'a>(
    table: &'a ScoreTable,
    options: &'a SelectOptions,
) -> Result<Chosen<'a>, SelectError> {
    let needed_passes = check(options)?;
    let rows = table.in_order();
    let filters = options.rewards.iter().filter(|reward| reward.filter).count();
    let chosen = Chosen {
        table,
        options,
        needed_passes,
        columns: options.rewards.iter().map(|reward| table.column(&reward.name)).collect(),
        outcomes: vec![Outcome::OPEN; rows.len()],
        rose: vec![false; rows.len() * filters],
        rows,
        funnel: Funnel::default(),
    };
    let mut choosing =
        Choosing { chosen, usable: Vec::new(), totals: Vec::new(), spread: Vec::new() };

    // 1. Usable rows.
    choosing.find_usable();
    if choosing.chosen.funnel.candidates == 0 {
        return Err(SelectError::NoCandidates { originals: choosing.chosen.funnel.originals });
    }
    choosing.sum();
    // 2. Groups.
    for group in choosing.groups() {
        choosing.judge(group);
    }
    // 3. Budget and weights.
    let mut chosen = choosing.chosen;
    spend_budget(&mut chosen);
    count(&mut chosen);
    if chosen.funnel.selected == 0 {
        let hint = hint(&chosen.funnel, needed_passes, options);
        return Err(SelectError::NothingSelected { funnel: Box::new(chosen.funnel), hint });
    }
    Ok(chosen)
}

/// Checks the options; how many filter rewards must rise.
fn check(options: &SelectOptions) -> Result<usize, SelectError> {
    let fail = |text: String| Err(SelectError::Options(text));
    let filters = options.rewards.iter().filter(|r| r.filter).count();
    for (place, reward) in options.rewards.iter().enumerate() {
        if !(reward.weight.is_finite() && reward.weight >= 0.0) {
            return fail(format!(
                "weight of `{}` is {}: expected a finite number of 0 or more",
                reward.name, reward.weight
            ));
        }
        if options.rewards[..place].iter().any(|r| r.name == reward.name) {
            return fail(format!("reward `{}` is listed twice", reward.name));
        }
    }
    if !options.rewards.iter().any(|r| r.weight > 0.0) {
        return fail("no reward with a weight above 0: advantages need at least one".into());
    }
    let needed = options.min_passes.unwrap_or(filters);
    if needed > filters {
        return fail(format!(
            "min_passes is {needed}, but only {filters} rewards filter: lower it or set filter = true on more rewards"
        ));
    }
    if !options.margin.is_finite() || !options.shift.is_finite() {
        return fail(format!(
            "margin is {} and shift is {}: expected finite numbers",
            options.margin, options.shift
        ));
    }
    if options.max_samples == 0 || options.max_per_prompt == Some(0) {
        return fail("max_samples and max_per_prompt must be at least 1".into());
    }
    Ok(needed)
}

/// A selection on its way.
struct Choosing<'a> {
    chosen: Chosen<'a>,
    /// Places of the rows that have every reward, in the order of the ids.
    usable: Vec<usize>,
    /// Beside `usable`.
    totals: Vec<f64>,
    /// Mean and deviation of each reward over all usable rows.
    spread: Vec<(f64, f64)>,
}

impl Choosing<'_> {
    fn score(&self, place: usize, reward: usize) -> f64 {
        let column = self.chosen.columns[reward];
        column.map_or(f64::NAN, |column| self.chosen.table.score(self.chosen.rows[place], column))
    }

    fn is_original(&self, place: usize) -> bool {
        self.chosen.table.variant(self.chosen.rows[place]) == 0
    }

    /// Counts all rows and keeps those that have every reward.
    fn find_usable(&mut self) {
        let table = self.chosen.table;
        let originals = (0..table.len() as u32).filter(|row| table.variant(*row) == 0).count();
        let once = (0..self.chosen.rows.len()).filter(|place| self.is_original(*place)).count();
        let funnel = &mut self.chosen.funnel;
        (funnel.originals, funnel.candidates) = (originals, table.len() - originals);
        // A duplicate has no outcome of its own, so it is counted here.
        let twice = [
            (&mut funnel.dropped_originals, originals - once),
            (&mut funnel.dropped, funnel.candidates + once - self.chosen.rows.len()),
        ];
        for (dropped, n) in twice.into_iter().filter(|(_, n)| *n > 0) {
            dropped.insert(DropReason::DuplicateId, n);
        }
        let prompts: BTreeSet<_> = self.chosen.rows.iter().map(|row| table.prompt(*row)).collect();
        funnel.prompts = prompts.len();
        for place in 0..self.chosen.rows.len() {
            let rewards = 0..self.chosen.options.rewards.len();
            match rewards.clone().find(|reward| self.score(place, *reward).is_nan()) {
                Some(reward) => self.drop(place, Dropped::Lacks(reward as u32)),
                None => self.usable.push(place),
            }
        }
    }

    /// Notes that a row takes no part.
    fn drop(&mut self, place: usize, why: Dropped) {
        self.chosen.outcomes[place].dropped = Some(why);
        if self.is_original(place)
            && let Some(why) = self.chosen.drop_reason(place)
        {
            *self.chosen.funnel.dropped_originals.entry(why).or_default() += 1;
        }
    }

    /// r_total of each usable row; one that is not finite makes it unusable.
    fn sum(&mut self) {
        let options = self.chosen.options;
        self.spread = (0..options.rewards.len())
            .map(|reward| {
                let values: Vec<f64> = self.usable.iter().map(|p| self.score(*p, reward)).collect();
                mean_std(&values)
            })
            .collect();
        for place in std::mem::take(&mut self.usable) {
            let weights = options.rewards.iter().map(|r| r.weight);
            let scores = (0..options.rewards.len()).map(|reward| self.score(place, reward));
            let total: f64 = match options.total {
                Total::Zscore => scores
                    .zip(&self.spread)
                    .map(|(r, (m, s))| zscore(r, *m, *s))
                    .zip(weights)
                    .map(weigh)
                    .sum(),
                Total::Raw => scores.zip(weights).map(weigh).sum(),
                Total::Gdpo => 0.0,
            };
            if total.is_finite() {
                self.usable.push(place);
                self.totals.push(total);
            } else {
                self.drop(place, Dropped::Total);
            }
        }
    }

    /// The usable rows of each prompt.
    fn groups(&self) -> Vec<Range<usize>> {
        let prompt = |i: usize| self.chosen.table.prompt(self.chosen.rows[self.usable[i]]);
        let mut groups: Vec<Range<usize>> = Vec::new();
        for i in 0..self.usable.len() {
            match groups.last_mut() {
                Some(group) if prompt(group.start) == prompt(i) => group.end = i + 1,
                _ => groups.push(i..i + 1),
            }
        }
        groups
    }

    /// Totals as sums of z-scores within the group.
    fn gdpo_totals(&mut self, group: Range<usize>) {
        for (place, reward) in self.chosen.options.rewards.iter().enumerate() {
            let values: Vec<f64> =
                group.clone().map(|i| self.score(self.usable[i], place)).collect();
            if let Ok((mean, std)) = group_statistics(&values) {
                for (i, value) in group.clone().zip(values) {
                    self.totals[i] += weigh((zscore(value, mean, std), reward.weight));
                }
            }
        }
    }

    /// Compares the candidates of a prompt with their originals. Returns those that could be.
    fn filter(&mut self, group: Range<usize>) -> Vec<usize> {
        let options = self.chosen.options;
        let sample = |chosen: &Chosen<'_>, place: usize| chosen.table.sample(chosen.rows[place]);
        let originals: BTreeMap<u32, usize> = group
            .clone()
            .map(|i| self.usable[i])
            .filter(|place| self.is_original(*place))
            .map(|place| (sample(&self.chosen, place), place))
            .collect();
        let filters: Vec<usize> = self.chosen.filters().collect();
        let mut compared = Vec::new();
        for i in group {
            let place = self.usable[i];
            if self.is_original(place) {
                continue;
            }
            let Some(&original) = originals.get(&sample(&self.chosen, place)) else {
                self.drop(place, Dropped::Original);
                continue;
            };
            let mut passes = 0;
            for (at, &reward) in filters.iter().enumerate() {
                let rise = self.score(place, reward) - self.score(original, reward);
                let rose = rise > options.margin * self.spread[reward].1;
                self.chosen.rose[place * filters.len() + at] = rose;
                passes += usize::from(rose);
                let name = options.rewards[reward].name.as_str();
                *entry(&mut self.chosen.funnel.passed_by, name) += usize::from(rose);
            }
            let outcome = &mut self.chosen.outcomes[place];
            outcome.compared = true;
            outcome.passes = passes >= self.chosen.needed_passes;
            outcome.total = Some(self.totals[i]);
            self.chosen.funnel.compared += 1;
            *self.chosen.funnel.passed_count.entry(passes).or_default() += 1;
            compared.push(i);
        }
        let passes = |chosen: &Chosen<'_>, i: &usize| chosen.outcomes[self.usable[*i]].passes;
        if options.indicator == Indicator::Prompt
            && !compared.iter().all(|i| passes(&self.chosen, i))
        {
            for i in &compared {
                self.chosen.outcomes[self.usable[*i]].passes = false;
            }
        }
        compared
    }

    /// Filter and advantages of one prompt.
    fn judge(&mut self, group: Range<usize>) {
        let options = self.chosen.options;
        if options.total == Total::Gdpo {
            self.gdpo_totals(group.clone());
        }
        let compared = self.filter(group.clone());
        let passes = |chosen: &Chosen<'_>, i: usize| chosen.outcomes[self.usable[i]].passes;
        let survivors = compared.iter().copied().filter(|i| passes(&self.chosen, *i));
        let totals: Vec<f64> = match options.statistics {
            Statistics::Group => self.totals[group].to_vec(),
            Statistics::Survivors => survivors.map(|i| self.totals[i]).collect(),
        };
        let statistics = group_statistics(&totals);
        let n = totals.len() as u32;
        for i in compared {
            let outcome = &mut self.chosen.outcomes[self.usable[i]];
            // Without a survivor there are no statistics of survivors, and nothing is lost by it.
            let judged = options.statistics == Statistics::Group || outcome.passes;
            match statistics {
                Ok((mean, std)) => {
                    outcome.advantage = Some(match options.scale {
                        AdvantageScale::Group => advantage(self.totals[i], mean, std),
                        AdvantageScale::None => self.totals[i] - mean,
                    });
                }
                Err(_) if !judged => {}
                Err(GroupFault::TooSmall) => outcome.dropped = Some(Dropped::Small(n)),
                Err(GroupFault::ZeroVariance) => outcome.dropped = Some(Dropped::Equal(n)),
            }
        }
    }
}

/// The count of a name, whose text is copied once.
fn entry<'m>(counts: &'m mut BTreeMap<String, usize>, name: &str) -> &'m mut usize {
    if !counts.contains_key(name) {
        counts.insert(name.to_owned(), 0);
    }
    counts.entry(name.to_owned()).or_default()
}

/// 0 where there is no deviation.
fn zscore(value: f64, mean: f64, std: f64) -> f64 {
    if std > 0.0 { value / std - mean / std } else { 0.0 }
}

/// A reward of weight 0 adds 0 whatever its size.
fn weigh((value, weight): (f64, f64)) -> f64 {
    if weight == 0.0 { 0.0 } else { value * weight }
}

/// Takes the best survivors and gives them weights of mean 1 (of mean size 1, if signed).
fn spend_budget(chosen: &mut Chosen<'_>) {
    let options = chosen.options;
    let mut survivors: Vec<(usize, f64)> = chosen
        .candidates()
        .filter(|place| chosen.outcomes[*place].passes && chosen.outcomes[*place].dropped.is_none())
        .filter_map(|place| chosen.outcomes[place].advantage.map(|a| (place, a)))
        .collect();
    // Places are in the order of the ids.
    survivors.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let mut of_prompt: BTreeMap<_, usize> = BTreeMap::new();
    let mut taken = 0;
    let mut sum = 0.0;
    for (place, advantage) in &survivors {
        let weight = match options.sign {
            Sign::Clip => advantage.max(0.0),
            Sign::Signed => *advantage,
            Sign::Shifted => (*advantage + options.shift).max(0.0),
            Sign::Ones => 1.0,
        };
        let count = of_prompt.entry(chosen.table.prompt(chosen.rows[*place])).or_default();
        let outcome = &mut chosen.outcomes[*place];
        outcome.not_selected = if weight == 0.0 {
            Some(NotSelected::NoWeight)
        } else if taken >= options.max_samples {
            Some(NotSelected::OverBudget)
        } else if options.max_per_prompt.is_some_and(|limit| *count >= limit) {
            Some(NotSelected::PromptLimit)
        } else {
            taken += 1;
            *count += 1;
            sum += weight.abs();
            outcome.weight = weight;
            None
        };
    }
    let mean = sum / taken.max(1) as f64;
    for (place, _) in survivors {
        if chosen.outcomes[place].not_selected.is_none() {
            chosen.outcomes[place].weight /= mean;
        }
    }
}

/// How many came how far.
fn count(chosen: &mut Chosen<'_>) {
    let mut funnel = std::mem::take(&mut chosen.funnel);
    let mut prompts = BTreeSet::new();
    for place in chosen.candidates() {
        let outcome = &chosen.outcomes[place];
        if let Some(why) = chosen.drop_reason(place) {
            *funnel.dropped.entry(why).or_default() += 1;
        } else if !outcome.passes {
            funnel.rejected += 1;
        } else {
            funnel.passed += 1;
            match outcome.not_selected {
                Some(why) => *funnel.not_selected.entry(why).or_default() += 1,
                None => {
                    funnel.selected += 1;
                    prompts.insert(chosen.table.prompt(chosen.rows[place]));
                }
            }
        }
    }
    funnel.selected_prompts = prompts.len();
    chosen.funnel = funnel;
}
