//! The selection itself, step by step.

use std::collections::BTreeMap;

use super::advantage::{GroupFault, advantage, group_statistics};
use super::explain::{hint, selection_row};
use super::{
    AdvantageScale, DropReason, Funnel, Indicator, NotSelected, SelectError, SelectOptions,
    Selection, SelectionRow, Sign, Statistics, Total,
};
use crate::prompt::{CandidateId, PromptId};
use crate::reward::{NON_FINITE, ScoreRow};
use crate::stats::mean_std;

/// A row with every reward that is needed.
struct Row<'a> {
    id: &'a CandidateId,
    /// In the order of `options.rewards`.
    scores: Vec<f64>,
    total: f64,
}

/// What becomes of one candidate.
pub(super) struct Fate {
    pub(super) passed_by: BTreeMap<String, bool>,
    pub(super) passes: bool,
    pub(super) dropped: Option<(DropReason, String)>,
    pub(super) total: Option<f64>,
    pub(super) advantage: Option<f64>,
    pub(super) not_selected: Option<NotSelected>,
    pub(super) weight: f64,
}

impl Fate {
    fn dropped(why: DropReason, text: String) -> Self {
        Self {
            passed_by: BTreeMap::new(),
            passes: false,
            dropped: Some((why, text)),
            total: None,
            advantage: None,
            not_selected: None,
            weight: 0.0,
        }
    }
}

/// Filters, weighs and budgets candidates; see the module. The order of `rows` does not matter.
pub fn select(rows: &[ScoreRow], options: &SelectOptions) -> Result<Selection, SelectError> {
    let needed_passes = check(options)?;
    let mut funnel = Funnel::default();
    let mut fates: BTreeMap<CandidateId, Fate> = BTreeMap::new();

    // 1. Usable rows.
    let mut usable = usable_rows(rows, options, &mut funnel, &mut fates);
    if funnel.candidates == 0 {
        return Err(SelectError::NoCandidates { originals: funnel.originals });
    }
    let spread = spread_of_rewards(&usable, options);
    usable.retain_mut(|row| {
        let zscores = || row.scores.iter().zip(&spread);
        let weights = options.rewards.iter().map(|r| r.weight);
        row.total = match options.total {
            Total::Zscore => {
                zscores().map(|(r, (m, s))| zscore(*r, *m, *s)).zip(weights).map(weigh).sum()
            }
            Total::Raw => row.scores.iter().copied().zip(weights).map(weigh).sum(),
            Total::Gdpo => 0.0,
        };
        if !row.total.is_finite() {
            drop_row(
                row.id,
                DropReason::NonFinite,
                "r_total is not finite".into(),
                &mut funnel,
                &mut fates,
            );
        }
        row.total.is_finite()
    });

    // 2. Groups.
    let mut groups: BTreeMap<&PromptId, Vec<Row>> = BTreeMap::new();
    for row in usable {
        groups.entry(&row.id.prompt).or_default().push(row);
    }
    for group in groups.values_mut() {
        if options.total == Total::Gdpo {
            gdpo_totals(group, options);
        }
        judge_group(group, &spread, needed_passes, options, &mut funnel, &mut fates);
    }

    // 3. Budget and weights.
    spend_budget(&mut fates, options);
    for fate in fates.values() {
        if let Some((why, _)) = &fate.dropped {
            *funnel.dropped.entry(*why).or_default() += 1;
        } else if !fate.passes {
            funnel.rejected += 1;
        } else {
            funnel.passed += 1;
            match fate.not_selected {
                Some(why) => *funnel.not_selected.entry(why).or_default() += 1,
                None => funnel.selected += 1,
            }
        }
    }
    // A duplicate has no fate of its own, so it is counted where it was found.
    if funnel.selected == 0 {
        let hint = hint(&funnel, needed_passes, options);
        return Err(SelectError::NothingSelected { funnel: Box::new(funnel), hint });
    }
    let rows: Vec<SelectionRow> = fates
        .into_iter()
        .map(|(id, fate)| selection_row(id, fate, needed_passes, options))
        .collect();
    let mut prompts: Vec<&PromptId> =
        rows.iter().filter(|r| r.selected).map(|r| &r.prompt_id).collect();
    prompts.dedup();
    funnel.selected_prompts = prompts.len();
    Ok(Selection { rows, funnel })
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

/// Counts all rows and keeps those that have every reward, in the order of the ids.
fn usable_rows<'a>(
    rows: &'a [ScoreRow],
    options: &SelectOptions,
    funnel: &mut Funnel,
    fates: &mut BTreeMap<CandidateId, Fate>,
) -> Vec<Row<'a>> {
    let mut first: BTreeMap<&CandidateId, &ScoreRow> = BTreeMap::new();
    for row in rows {
        let original = row.id().variant == 0;
        *(if original { &mut funnel.originals } else { &mut funnel.candidates }) += 1;
        if first.contains_key(row.id()) {
            let dropped =
                if original { &mut funnel.dropped_originals } else { &mut funnel.dropped };
            *dropped.entry(DropReason::DuplicateId).or_default() += 1;
        } else {
            first.insert(row.id(), row);
        }
    }
    let mut prompts: Vec<&PromptId> = first.keys().map(|id| &id.prompt).collect();
    prompts.dedup();
    funnel.prompts = prompts.len();

    let mut usable = Vec::with_capacity(first.len());
    for (id, row) in first {
        let mut scores = Vec::with_capacity(options.rewards.len());
        let mut fault = None;
        for reward in &options.rewards {
            match row.score(&reward.name) {
                Some(score) => scores.push(score),
                None => {
                    let why = row.missing().get(reward.name.as_str());
                    let non_finite = why.is_some_and(|w| w.starts_with(NON_FINITE));
                    let kind =
                        if non_finite { DropReason::NonFinite } else { DropReason::MissingReward };
                    let why = why.map_or("it was never scored", String::as_str);
                    fault = Some((kind, format!("no {}: {why}", reward.name)));
                    break;
                }
            }
        }
        match fault {
            None => usable.push(Row { id, scores, total: 0.0 }),
            Some((kind, text)) => drop_row(id, kind, text, funnel, fates),
        }
    }
    usable
}

/// Notes that a row takes no part.
fn drop_row(
    id: &CandidateId,
    why: DropReason,
    text: String,
    funnel: &mut Funnel,
    fates: &mut BTreeMap<CandidateId, Fate>,
) {
    if id.variant == 0 {
        *funnel.dropped_originals.entry(why).or_default() += 1;
    } else {
        fates.insert(id.clone(), Fate::dropped(why, text));
    }
}

/// Mean and deviation of each reward over all usable rows.
fn spread_of_rewards(usable: &[Row], options: &SelectOptions) -> Vec<(f64, f64)> {
    (0..options.rewards.len())
        .map(|place| {
            let values: Vec<f64> = usable.iter().map(|row| row.scores[place]).collect();
            mean_std(&values)
        })
        .collect()
}

/// 0 where there is no deviation.
fn zscore(value: f64, mean: f64, std: f64) -> f64 {
    if std > 0.0 { value / std - mean / std } else { 0.0 }
}

/// A reward of weight 0 adds 0 whatever its size.
fn weigh((value, weight): (f64, f64)) -> f64 {
    if weight == 0.0 { 0.0 } else { value * weight }
}

/// Totals as sums of z-scores within the group.
fn gdpo_totals(group: &mut [Row], options: &SelectOptions) {
    for (place, reward) in options.rewards.iter().enumerate() {
        let values: Vec<f64> = group.iter().map(|row| row.scores[place]).collect();
        if let Ok((mean, std)) = group_statistics(&values) {
            for row in group.iter_mut() {
                row.total += weigh((zscore(row.scores[place], mean, std), reward.weight));
            }
        }
    }
}

/// Filter and advantages of one prompt.
fn judge_group(
    group: &[Row],
    spread: &[(f64, f64)],
    needed_passes: usize,
    options: &SelectOptions,
    funnel: &mut Funnel,
    fates: &mut BTreeMap<CandidateId, Fate>,
) {
    let originals: BTreeMap<u32, &Row> =
        group.iter().filter(|r| r.id.variant == 0).map(|r| (r.id.sample, r)).collect();
    let mut judged: Vec<(&Row, BTreeMap<String, bool>, bool)> = Vec::new();
    for row in group.iter().filter(|r| r.id.variant >= 1) {
        let Some(original) = originals.get(&row.id.sample) else {
            let text = format!("the original wording {} has no usable scores", row.id.original());
            drop_row(row.id, DropReason::OriginalMissing, text, funnel, fates);
            continue;
        };
        let mut passed_by = BTreeMap::new();
        for (place, reward) in options.rewards.iter().enumerate().filter(|(_, r)| r.filter) {
            let rise = row.scores[place] - original.scores[place];
            let passed = rise > options.margin * spread[place].1;
            passed_by.insert(reward.name.to_string(), passed);
            *funnel.passed_by.entry(reward.name.to_string()).or_default() += usize::from(passed);
        }
        let passes = passed_by.values().filter(|p| **p).count();
        funnel.compared += 1;
        *funnel.passed_count.entry(passes).or_default() += 1;
        judged.push((row, passed_by, passes >= needed_passes));
    }
    if options.indicator == Indicator::Prompt && !judged.iter().all(|(_, _, passes)| *passes) {
        judged.iter_mut().for_each(|(_, _, passes)| *passes = false);
    }
    let totals: Vec<f64> = match options.statistics {
        Statistics::Group => group.iter().map(|row| row.total).collect(),
        Statistics::Survivors => judged.iter().filter(|j| j.2).map(|j| j.0.total).collect(),
    };
    let statistics = group_statistics(&totals);
    for (row, passed_by, passes) in judged {
        // Without a survivor there are no statistics of survivors, and nothing is lost by it.
        let judged_by_statistics = options.statistics == Statistics::Group || passes;
        let (advantage, dropped) = match statistics {
            Ok((mean, std)) => {
                let advantage = match options.scale {
                    AdvantageScale::Group => advantage(row.total, mean, std),
                    AdvantageScale::None => row.total - mean,
                };
                (Some(advantage), None)
            }
            Err(_) if !judged_by_statistics => (None, None),
            Err(GroupFault::TooSmall) => (
                None,
                Some((
                    DropReason::GroupTooSmall,
                    format!("{} rows to take statistics of: 2 are needed", totals.len()),
                )),
            ),
            Err(GroupFault::ZeroVariance) => (
                None,
                Some((
                    DropReason::ZeroVarianceGroup,
                    format!("all {} totals of the group are equal", totals.len()),
                )),
            ),
        };
        fates.insert(
            row.id.clone(),
            Fate {
                passed_by,
                passes,
                dropped,
                total: Some(row.total),
                advantage,
                not_selected: None,
                weight: 0.0,
            },
        );
    }
}

/// Takes the best survivors and gives them weights of mean 1 (of mean size 1, if signed).
fn spend_budget(fates: &mut BTreeMap<CandidateId, Fate>, options: &SelectOptions) {
    let mut survivors: Vec<(&CandidateId, &mut Fate, f64)> = fates
        .iter_mut()
        .filter(|(_, fate)| fate.passes && fate.dropped.is_none())
        .filter_map(|(id, fate)| fate.advantage.map(|a| (id, fate, a)))
        .collect();
    survivors.sort_by(|a, b| b.2.total_cmp(&a.2).then_with(|| a.0.cmp(b.0)));
    let mut of_prompt: BTreeMap<&PromptId, usize> = BTreeMap::new();
    let mut taken = 0;
    let mut sum = 0.0;
    for (id, fate, advantage) in &mut survivors {
        let weight = match options.sign {
            Sign::Clip => advantage.max(0.0),
            Sign::Signed => *advantage,
            Sign::Shifted => (*advantage + options.shift).max(0.0),
            Sign::Ones => 1.0,
        };
        let count = of_prompt.entry(&id.prompt).or_default();
        fate.not_selected = if weight == 0.0 {
            Some(NotSelected::NoWeight)
        } else if taken >= options.max_samples {
            Some(NotSelected::OverBudget)
        } else if options.max_per_prompt.is_some_and(|limit| *count >= limit) {
            Some(NotSelected::PromptLimit)
        } else {
            taken += 1;
            *count += 1;
            sum += weight.abs();
            fate.weight = weight;
            None
        };
    }
    let mean = sum / taken.max(1) as f64;
    for (_, fate, _) in survivors {
        if fate.not_selected.is_none() {
            fate.weight /= mean;
        }
    }
}
