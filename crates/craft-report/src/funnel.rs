//! Counting how candidates became training samples, and why others did not.

use std::collections::BTreeMap;

use craft_core::records::SelectionRow;

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
    pub(crate) weights: Vec<f64>,
}

impl Funnel {
    /// Counts a candidate of the selection, but for its prompt.
    pub(crate) fn take(&mut self, row: &SelectionRow, reasons: &mut BTreeMap<String, usize>) {
        self.judged += 1;
        for (reward, passed) in &row.passed_by {
            *self.passed_by.entry(reward.clone()).or_default() += usize::from(*passed);
        }
        self.passed += usize::from(row.passed);
        if row.selected {
            self.selected += 1;
            self.weights.push(row.weight);
        }
        if let Some(reason) = row.reason.as_deref().filter(|reason| !reason.is_empty()) {
            *reasons.entry(general(reason)).or_default() += 1;
        }
    }
}

/// The most frequent first.
pub(crate) fn by_count(counts: BTreeMap<String, usize>) -> Vec<(String, usize)> {
    let mut out: Vec<(String, usize)> = counts.into_iter().collect();
    out.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    out
}

/// What stages left out: (stage, reason, count, first id), most frequent first.
pub(crate) fn dropped(run: &Run) -> Vec<(String, String, usize, String)> {
    let mut counts: BTreeMap<(&str, String), (usize, &str)> = BTreeMap::new();
    for stage in &run.stages {
        for item in &stage.manifest.dropped {
            let entry = counts.entry((stage.folder.as_str(), general(&item.reason)));
            entry.or_insert((0, item.id.as_str())).0 += 1;
        }
    }
    let rows = counts.into_iter();
    let mut out: Vec<_> = rows
        .map(|((stage, reason), (n, id))| (stage.to_owned(), reason, n, id.to_owned()))
        .collect();
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
