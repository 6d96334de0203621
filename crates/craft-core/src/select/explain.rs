//! What became of the candidates, in words.

use std::collections::BTreeMap;

use super::outcome::{Chosen, Dropped};
use super::{Funnel, Indicator, NotSelected, SelectOptions, Statistics};
use crate::prompt::CandidateId;

/// What a reason speaks of.
pub(super) struct Reason<'a> {
    pub(super) id: &'a CandidateId,
    pub(super) passed_by: &'a BTreeMap<String, bool>,
}

/// Why a candidate is not trained on; none if it is.
pub(super) fn reason(chosen: &Chosen<'_>, place: usize, of: &Reason<'_>) -> Option<String> {
    let (outcome, options) = (&chosen.outcomes[place], chosen.options);
    match (outcome.dropped, outcome.passes, outcome.not_selected) {
        (Some(why), _, _) => Some(match why {
            Dropped::Lacks(reward) => {
                let (name, column) =
                    (&options.rewards[reward as usize].name, chosen.columns[reward as usize]);
                match chosen.table.reason(chosen.rows[place], column) {
                    Some(why) => format!("no {name}: {why}"),
                    None => format!("no {name}: it was never scored"),
                }
            }
            Dropped::Total => "r_total is not finite".to_owned(),
            Dropped::Original => {
                format!("the original wording {} has no usable scores", of.id.original())
            }
            Dropped::Small(n) => format!("{n} rows to take statistics of: 2 are needed"),
            Dropped::Equal(n) => format!("all {n} totals of the group are equal"),
        }),
        (None, false, _) => {
            let rose = of.passed_by.values().filter(|p| **p).count();
            let all = of.passed_by.len();
            let needed = chosen.needed_passes;
            Some(if rose >= needed {
                "another candidate of the prompt failed, and all must pass".to_owned()
            } else {
                format!("rose on {rose} of {all} rewards: {needed} needed")
            })
        }
        (None, true, Some(NotSelected::NoWeight)) => {
            Some("its advantage gives it no weight".into())
        }
        (None, true, Some(NotSelected::PromptLimit)) => Some(format!(
            "{0} better candidates of its prompt were taken (max_per_prompt = {0})",
            options.max_per_prompt.unwrap_or_default()
        )),
        (None, true, Some(NotSelected::OverBudget)) => Some(format!(
            "{0} better candidates were taken (max_samples = {0})",
            options.max_samples
        )),
        (None, true, None) => None,
    }
}

/// What happened to candidates of which none was selected, and what to change.
pub(super) fn hint(funnel: &Funnel, needed_passes: usize, options: &SelectOptions) -> String {
    let dropped: usize = funnel.dropped.values().sum();
    let mut parts = Vec::new();
    if dropped > 0 {
        let reasons: Vec<String> =
            funnel.dropped.iter().map(|(why, count)| format!("{count} {why}")).collect();
        parts.push(format!("{dropped} were dropped ({})", reasons.join(", ")));
    }
    if funnel.compared > 0 {
        let by: Vec<String> =
            funnel.passed_by.iter().map(|(name, count)| format!("{count} on {name}")).collect();
        parts.push(format!(
            "of {} compared with their original, rose: {}",
            funnel.compared,
            by.join(", ")
        ));
    }
    let mut change = Vec::new();
    if funnel.passed == 0 && funnel.compared > 0 {
        let reachable = funnel
            .passed_count
            .iter()
            .rev()
            .find(|(passes, count)| **passes > 0 && **passes < needed_passes && **count > 0);
        if let Some((passes, _)) = reachable {
            let would: usize = funnel.passed_count.range(passes..).map(|(_, c)| c).sum();
            change.push(format!("select.min_passes = {passes} (would pass {would})"));
        }
        if options.margin > 0.0 {
            change.push(format!("a select.margin below {}", options.margin));
        }
        if options.indicator == Indicator::Prompt {
            change.push("select.indicator = \"candidate\"".to_owned());
        }
        change.push("more wordings or samples per prompt".to_owned());
    } else if funnel.not_selected.contains_key(&NotSelected::NoWeight) {
        parts.push(format!("{} passed, none with an advantage above 0", funnel.passed));
        change.push("select.sign = \"ones\" or \"shifted\"".to_owned());
    }
    if options.statistics == Statistics::Survivors && dropped > 0 {
        change.push("select.statistics = \"group\"".to_owned());
    }
    if change.is_empty() {
        change.push("looking into why these scores are missing or equal".to_owned());
    }
    format!("{}; try {}", parts.join("; "), change.join(", or "))
}
