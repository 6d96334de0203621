//! Which prompts the page shows, where a run has more than fit.

use std::collections::{BTreeMap, BTreeSet};

use craft_core::records::{PromptId, Sample};

/// Bytes that the rows of shown candidates take in the page, about.
pub(super) const CANDIDATES: usize = 5_000_000;
/// Bytes that the rows and marks of shown evaluation prompts take, about.
const EVALUATED: usize = 3_500_000;

/// Prompts that are shown, and all that there are.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) shown: BTreeSet<PromptId>,
    pub(crate) all: usize,
    /// What their rows take in the page, about.
    pub(crate) bytes: usize,
}

impl Part {
    /// `shown of all`, where not all are shown.
    pub(crate) fn words(&self) -> Option<String> {
        let shown = self.shown.len();
        (shown < self.all).then(|| format!("{shown} of {} prompts", self.all))
    }
}

/// At most `most` prompts whose rows take `room` bytes: those that come first by `first`, then others
/// evenly spread over their ids. `prompts` has the bytes of each.
pub(super) fn choose(
    prompts: &BTreeMap<&PromptId, usize>,
    first: impl Fn(&PromptId) -> bool,
    most: usize,
    room: usize,
) -> Part {
    let (ahead, rest): (Vec<&PromptId>, Vec<&PromptId>) =
        prompts.keys().copied().partition(|id| first(id));
    let mut most = most.min(prompts.len());
    loop {
        let mut shown = spread(&ahead, most);
        shown.extend(spread(&rest, most - shown.len()));
        let bytes: usize = shown.iter().filter_map(|id| prompts.get(id)).sum();
        if bytes <= room || most == 0 {
            let shown = shown.into_iter().cloned().collect();
            return Part { shown, all: prompts.len(), bytes };
        }
        most = ((most as f64 * room as f64 / bytes as f64) as usize).min(most - 1);
    }
}

/// `n` of a list in equal steps; all where there are fewer.
fn spread<'a>(list: &[&'a PromptId], n: usize) -> Vec<&'a PromptId> {
    let n = n.min(list.len());
    (0..n).map(|i| list[i * list.len() / n]).collect()
}

/// The evaluated prompts that are shown.
pub(super) fn evaluated(samples: &[Sample], most: usize) -> Part {
    let mut prompts: BTreeMap<&PromptId, usize> = BTreeMap::new();
    for sample in samples {
        let facts: usize = sample.facts.iter().map(|f| f.kind.len() + f.fact.len() + 24).sum();
        let image = sample.image.len() + 24;
        // A row in the gallery, and a mark in the charts of each reward.
        let text = escaped(&sample.text);
        let marks = sample.scores.len() * (12 + (150 + text) / 2);
        *prompts.entry(&sample.prompt_id).or_default() += 40 + text + image + facts + marks;
    }
    choose(&prompts, |_| false, most, EVALUATED)
}

/// Bytes of a text in the page.
pub(super) fn escaped(text: &str) -> usize {
    text.chars()
        .map(|c| match c {
            '<' | '>' | '&' | '\u{0}'..='\u{1f}' | '\u{2028}' | '\u{2029}' => 6,
            '"' | '\\' => 2,
            other => other.len_utf8(),
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_ahead_come_first_and_the_rest_is_spread_evenly() {
        let ids: Vec<PromptId> = (0..100).map(PromptId::from_index).collect();
        let prompts: BTreeMap<&PromptId, usize> = ids.iter().map(|id| (id, 10)).collect();
        let ahead = |id: &PromptId| id.as_str() >= "p00097";
        let part = choose(&prompts, ahead, 7, 1000);
        let shown: Vec<&str> = part.shown.iter().map(PromptId::as_str).collect();
        assert_eq!(shown, ["p00000", "p00024", "p00048", "p00072", "p00097", "p00098", "p00099"]);
        assert_eq!((part.all, part.bytes), (100, 70));
        assert_eq!(part.words().as_deref(), Some("7 of 100 prompts"));
        // Fewer where they would take more bytes.
        assert_eq!(choose(&prompts, ahead, 50, 205).shown.len(), 20);
        assert_eq!(choose(&prompts, ahead, 200, 1000).words(), None);
        assert_eq!(choose(&prompts, ahead, 2, 1000).shown.len(), 2);
    }
}
