//! What became of the candidates, in rows and in words.

use super::run::Fate;
use super::{Funnel, Indicator, NotSelected, SelectOptions, SelectionRow, Statistics};
use crate::prompt::CandidateId;

/// The line of one candidate.
pub(super) fn selection_row(
    id: CandidateId,
    fate: Fate,
    needed_passes: usize,
    options: &SelectOptions,
) -> SelectionRow {
    let reason = match (&fate.dropped, fate.passes, fate.not_selected) {
        (Some((_, text)), _, _) => Some(text.clone()),
        (None, false, _) => {
            let rose = fate.passed_by.values().filter(|p| **p).count();
            let of = fate.passed_by.len();
            Some(if rose >= needed_passes {
                "another candidate of the prompt failed, and all must pass".to_owned()
            } else {
                format!("rose on {rose} of {of} rewards: {needed_passes} needed")
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
    };
    SelectionRow {
        prompt_id: id.prompt.clone(),
        variant: id.variant,
        sample: id.sample,
        passed_by: fate.passed_by,
        passed: fate.passes && fate.dropped.is_none(),
        selected: reason.is_none(),
        weight: if reason.is_none() { fate.weight } else { 0.0 },
        reason,
        total: fate.total,
        advantage: fate.advantage,
        id,
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
