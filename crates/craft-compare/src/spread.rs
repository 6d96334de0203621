//! The part of the candidates that a variant may see.

use std::collections::BTreeSet;

/// A part of the candidates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Part {
    /// The first so many prompts only.
    pub(super) prompts: Option<usize>,
    /// The first so many expansions of each prompt only, beside the prompt itself.
    pub(super) wordings: Option<usize>,
    /// Half of each prompt's expansions, by how far they depart from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spread: Option<Spread>,
}

/// Which half of a prompt's expansions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) enum Spread {
    /// Those that share most words with the prompt.
    Near,
    /// The others.
    Far,
    /// Every other one.
    Mixed,
}

impl Spread {
    /// Places of the expansions that are kept. Closeness is the number of different
    /// words that expansion and prompt share over the number that either has.
    pub(super) fn kept(self, prompt: &str, expansions: &[&str]) -> Vec<usize> {
        let words = |text: &str| -> BTreeSet<String> {
            let parts = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
            parts.map(str::to_lowercase).collect()
        };
        let own = words(prompt);
        let closeness = |text: &str| {
            let other = words(text);
            let all = own.union(&other).count().max(1);
            own.intersection(&other).count() as f64 / all as f64
        };
        let mut places: Vec<usize> = (0..expansions.len()).collect();
        if self != Self::Mixed {
            // Stable: of equals the first.
            places.sort_by(|a, b| closeness(expansions[*b]).total_cmp(&closeness(expansions[*a])));
        }
        let half = expansions.len().div_ceil(2);
        let mut kept: Vec<usize> = match self {
            Self::Near => places.into_iter().take(half).collect(),
            Self::Far => places.into_iter().rev().take(half).collect(),
            Self::Mixed => places.into_iter().step_by(2).collect(),
        };
        kept.sort_unstable();
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_by_words_in_common() {
        let expansions =
            ["a red circle, crisp", "a circle in the fog", "a red circle", "two ships"];
        let kept = |spread: Spread| spread.kept("A red circle", &expansions);
        assert_eq!(kept(Spread::Near), [0, 2]);
        assert_eq!(kept(Spread::Far), [1, 3]);
        assert_eq!(kept(Spread::Mixed), [0, 2]);
        assert_eq!(Spread::Far.kept("x", &["y"]), [0]);
    }
}
