//! Counting how candidates became training samples, and why others did not.

use std::collections::{BTreeMap, BTreeSet};

use crate::run::Run;

/// Counts of the selection.
#[derive(Debug, Default)]
pub(crate) struct Funnel {
    pub(crate) candidates: usize,
    pub(crate) originals: usize,
    pub(crate) judged: usize,
    /// Reward → candidates that beat the original by it.
    pub(crate) passed_by: BTreeMap<String, usize>,
    pub(crate) passed: usize,
    pub(crate) selected: usize,
    pub(crate) prompts: usize,
    pub(crate) prompts_passed: usize,
    pub(crate) prompts_selected: usize,
    /// Reason → count, most frequent first.
    pub(crate) reasons: Vec<(String, usize)>,
    /// (stage, reason, count, first id), most frequent first.
    pub(crate) dropped: Vec<(String, String, usize, String)>,
    pub(crate) weights: Vec<f64>,
}

pub(crate) fn count(run: &Run) -> Funnel {
    let mut f = Funnel::default();
    if let Some(candidates) = &run.candidates {
        f.candidates = candidates.len();
        f.originals = candidates.iter().filter(|c| c.variant == 0).count();
        f.prompts = candidates.iter().map(|c| &c.prompt_id).collect::<BTreeSet<_>>().len();
    }
    let (mut with_pass, mut with_selected) = (BTreeSet::new(), BTreeSet::new());
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for line in run.selection.iter().flat_map(|s| s.values()) {
        f.judged += 1;
        for (reward, passed) in &line.passed_by {
            *f.passed_by.entry(reward.clone()).or_default() += usize::from(*passed);
        }
        if line.passed {
            f.passed += 1;
            with_pass.insert(&line.prompt_id);
        }
        if line.selected {
            f.selected += 1;
            with_selected.insert(&line.prompt_id);
            f.weights.extend(line.weight);
        }
        if let Some(reason) = line.reason.as_deref().filter(|r| !r.is_empty()) {
            *reasons.entry(general(reason)).or_default() += 1;
        }
    }
    (f.prompts_passed, f.prompts_selected) = (with_pass.len(), with_selected.len());
    f.reasons = by_count(reasons);
    f.dropped = dropped(run);
    f
}

fn by_count(counts: BTreeMap<String, usize>) -> Vec<(String, usize)> {
    let mut out: Vec<(String, usize)> = counts.into_iter().collect();
    out.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    out
}

fn dropped(run: &Run) -> Vec<(String, String, usize, String)> {
    let mut counts: BTreeMap<(String, String), (usize, String)> = BTreeMap::new();
    for stage in &run.stages {
        for d in &stage.dropped {
            let id = d.id.as_str().map_or_else(|| d.id.to_string(), str::to_owned);
            let entry = counts.entry((stage.folder.clone(), general(&d.reason))).or_insert((0, id));
            entry.0 += 1;
        }
    }
    let mut out: Vec<_> =
        counts.into_iter().map(|((stage, reason), (n, id))| (stage, reason, n, id)).collect();
    out.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| (&a.0, &a.1).cmp(&(&b.0, &b.1))));
    out
}

/// A reason without the numbers and ids that make every line of it different.
pub(crate) fn general(reason: &str) -> String {
    let words = reason.split_whitespace().map(|word| {
        let core = word.trim_matches(|c: char| {
            matches!(c, ',' | ';' | ':' | '.' | '(' | ')' | '[' | ']' | '`' | '\'' | '"')
        });
        let digits = core.trim_start_matches(['−', '-', '+']);
        // Small whole numbers are counts, and say something.
        let number = digits.parse::<f64>().is_ok()
            && digits.chars().any(|c| c.is_ascii_digit())
            && (digits.len() > 4 || digits.contains('.'));
        let id = core.strip_prefix('p').is_some_and(|rest| {
            rest.len() >= 5 && rest.bytes().take(5).all(|b| b.is_ascii_digit())
        });
        if (number || id) && !core.is_empty() {
            word.replacen(core, "…", 1)
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::general;

    #[test]
    fn reasons_are_grouped() {
        assert_eq!(
            general("pocket-hps 0.21 <= 0.25 of p00012-v00-s0, margin (-0.5)."),
            "pocket-hps … <= … of …, margin (…)."
        );
        for kept in ["budget of samples reached", "rose on 1 of 3 rewards: 3 needed"] {
            assert_eq!(general(kept), kept);
        }
    }
}
