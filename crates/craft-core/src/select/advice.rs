//! Fewer samples than asked for: what stopped the others, and what to loosen, counted by selecting anew.

use serde::{Deserialize, Serialize};

use super::outcome::Chosen;
use super::{Funnel, Indicator, NotSelected, SelectOptions, Sign, choose};

/// A change of the recipe and what it would select.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The change, in words of the recipe: `select.min_passes = 2`.
    pub change: String,
    /// Samples that would be selected with it.
    pub selected: usize,
}

/// `selection/shortfall.json`: fewer samples were selected than asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    /// `select.max_samples`.
    pub asked: usize,
    /// Samples selected.
    pub selected: usize,
    /// Candidates that passed the filter.
    pub passed: usize,
    /// Candidates compared with their original.
    pub compared: usize,
    /// The filter reward on which most candidates failed, and how many did.
    pub strictest: Option<(String, usize)>,
    /// Changes that select more, the greatest first.
    pub changes: Vec<Change>,
    /// Candidates that the sample size asked for would need at the rate seen.
    pub candidates_needed: Option<usize>,
    /// All of it in words.
    pub text: String,
}

/// What to say of a selection that is smaller than asked for; `None` if it is not.
pub fn shortfall(chosen: &Chosen<'_>) -> Option<Shortfall> {
    let (funnel, options) = (&chosen.funnel, chosen.options);
    let asked = options.max_samples;
    if funnel.selected >= asked {
        return None;
    }
    let strictest = funnel
        .passed_by
        .iter()
        .map(|(name, passed)| (name.clone(), funnel.compared.saturating_sub(*passed)))
        .filter(|(_, failed)| *failed > 0)
        // Of equals the first by name.
        .rev()
        .max_by_key(|(_, failed)| *failed);
    let mut changes: Vec<Change> = variants(chosen)
        .into_iter()
        .filter_map(|(change, options)| {
            let selected = choose(chosen.table, &options).ok()?.funnel.selected;
            (selected > funnel.selected).then_some(Change { change, selected })
        })
        .collect();
    changes.sort_by_key(|change| std::cmp::Reverse(change.selected));
    let candidates_needed = (funnel.selected > 0).then(|| {
        (asked as f64 * funnel.candidates as f64 / funnel.selected as f64).ceil() as usize
    });
    let mut found = Shortfall {
        asked,
        selected: funnel.selected,
        passed: funnel.passed,
        compared: funnel.compared,
        strictest,
        changes,
        candidates_needed,
        text: String::new(),
    };
    found.text = words(&found, funnel);
    Some(found)
}

/// Looser options, each with the change in words.
fn variants(chosen: &Chosen<'_>) -> Vec<(String, SelectOptions)> {
    let (funnel, options) = (&chosen.funnel, chosen.options);
    let mut out = Vec::new();
    let filters = options.rewards.iter().filter(|r| r.filter).count();
    let needed = options.min_passes.unwrap_or(filters);
    if needed > 1 {
        let min_passes = Some(needed - 1);
        let change = format!("select.min_passes = {}", needed - 1);
        out.push((change, SelectOptions { min_passes, ..options.clone() }));
    }
    if options.margin > 0.0 {
        let loose = SelectOptions { margin: 0.0, ..options.clone() };
        out.push((format!("select.margin = 0 (now {})", options.margin), loose));
    }
    if options.indicator == Indicator::Prompt {
        let loose = SelectOptions { indicator: Indicator::Candidate, ..options.clone() };
        out.push(("select.indicator = \"candidate\"".to_owned(), loose));
    }
    if filters > 1 {
        out.extend(without_one(chosen));
    }
    if funnel.not_selected.contains_key(&NotSelected::PromptLimit) {
        let loose = SelectOptions { max_per_prompt: None, ..options.clone() };
        out.push(("no select.max_per_prompt".to_owned(), loose));
    }
    if funnel.not_selected.contains_key(&NotSelected::NoWeight) {
        let loose = SelectOptions { sign: Sign::Ones, ..options.clone() };
        out.push(("select.sign = \"ones\"".to_owned(), loose));
    }
    out
}

/// Without the filter of the reward that alone stopped most candidates.
fn without_one(chosen: &Chosen<'_>) -> Option<(String, SelectOptions)> {
    let options = chosen.options;
    let filters: Vec<usize> = chosen.filters().collect();
    let alone = |reward: usize| {
        let failed = |place: &usize| {
            let rose = chosen.rose(*place);
            let only = |(filter, rose): (&usize, &bool)| *rose == (*filter != reward);
            !rose.is_empty() && filters.iter().zip(rose).all(only)
        };
        chosen.candidates().filter(failed).count()
    };
    let (place, _) = (options.rewards.iter().enumerate())
        .filter(|(_, reward)| reward.filter)
        .map(|(place, _)| (place, alone(place)))
        .filter(|(_, stopped)| *stopped > 0)
        .rev()
        .max_by_key(|(_, stopped)| *stopped)?;
    let mut loose = options.clone();
    loose.rewards[place].filter = false;
    let left = loose.rewards.iter().filter(|r| r.filter).count();
    loose.min_passes = loose.min_passes.map(|needed| needed.min(left));
    Some((format!("filter = false for {}", options.rewards[place].name), loose))
}

fn words(found: &Shortfall, funnel: &Funnel) -> String {
    let mut out = format!(
        "{} of the {} samples asked for (select.max_samples) are trained on: of {} candidates compared with their prompt's own picture {} passed the filter",
        found.selected, found.asked, found.compared, found.passed
    );
    if let Some((name, failed)) = &found.strictest {
        let share = 100.0 * *failed as f64 / found.compared.max(1) as f64;
        out += &format!("; most failed on {name} ({failed}, {share:.0} %)");
    }
    let dropped: usize = funnel.dropped.values().sum();
    if dropped > 0 {
        out += &format!("; {dropped} were dropped for a missing score or group");
    }
    let mut ways: Vec<String> = found
        .changes
        .iter()
        .map(|c| format!("{} (would select {})", c.change, c.selected))
        .collect();
    if let Some(needed) = found.candidates_needed {
        let times = needed as f64 / funnel.candidates.max(1) as f64;
        ways.push(format!(
            "more prompts, expand.variants or generate.samples (at this rate {} samples need about {needed} candidates, {times:.1} times as many)",
            found.asked
        ));
    }
    if !ways.is_empty() {
        out += &format!(". To get more: {}", ways.join("; or "));
    }
    out
}
