//! Scores of pictures, and two models compared by them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Scores of one picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PictureRow {
    pub(super) prompt_id: String,
    pub(super) sample: usize,
    pub(super) scores: BTreeMap<String, f64>,
}

/// Mean score by prompt.
pub(super) fn by_prompt(rows: &[PictureRow], reward: &str) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for row in rows {
        if let Some(score) = row.scores.get(reward) {
            let entry = sums.entry(&row.prompt_id).or_default();
            *entry = (entry.0 + score, entry.1 + 1);
        }
    }
    sums.into_iter().map(|(prompt, (sum, n))| (prompt.to_owned(), sum / n as f64)).collect()
}

/// Scores of prompts that both have, in order.
pub(super) fn paired(a: &[PictureRow], b: &[PictureRow], reward: &str) -> (Vec<f64>, Vec<f64>) {
    let (a, b) = (by_prompt(a, reward), by_prompt(b, reward));
    a.iter().filter_map(|(prompt, a)| Some((*a, *b.get(prompt)?))).unzip()
}

/// 1, ½ or 0 of each prompt that both have: whether `b` wins over `a`, ties, or loses.
pub(super) fn wins(a: &[PictureRow], b: &[PictureRow], reward: &str) -> BTreeMap<String, f64> {
    let (a, b) = (by_prompt(a, reward), by_prompt(b, reward));
    let outcome = |a: f64, b: f64| f64::from(u8::from(b > a)) + 0.5 * f64::from(u8::from(b == a));
    a.iter().filter_map(|(p, a)| Some((p.clone(), outcome(*a, *b.get(p)?)))).collect()
}

/// Mean of `b − a` over their common prompts, by reward.
pub(super) fn gains(a: &[PictureRow], b: &[PictureRow]) -> BTreeMap<String, f64> {
    let names: BTreeSet<&String> = b.iter().flat_map(|r| r.scores.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| {
            let (a, b) = paired(a, b, name);
            let change: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
            (!change.is_empty()).then(|| (name.clone(), craft_core::stats::mean(&change)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(prompt: &str, sample: usize, scores: &[(&str, f64)]) -> PictureRow {
        let scores = scores.iter().map(|(name, score)| ((*name).to_owned(), *score)).collect();
        PictureRow { prompt_id: prompt.to_owned(), sample, scores }
    }

    #[test]
    fn models_are_compared_by_the_prompts_that_both_have() {
        let a =
            [row("p1", 0, &[("r", 1.0)]), row("p1", 1, &[("r", 3.0)]), row("p2", 0, &[("r", 5.0)])];
        let b = [row("p1", 0, &[("r", 4.0), ("s", 1.0)]), row("p3", 0, &[("r", 9.0)])];
        assert_eq!(by_prompt(&a, "r"), [("p1".to_owned(), 2.0), ("p2".to_owned(), 5.0)].into());
        assert_eq!(paired(&a, &b, "r"), (vec![2.0], vec![4.0]));
        assert_eq!(wins(&a, &b, "r"), [("p1".to_owned(), 1.0)].into());
        assert_eq!(wins(&a, &a, "r")["p2"], 0.5);
        // No gain of a reward that only one of them has.
        assert_eq!(gains(&a, &b), [("r".to_owned(), 2.0)].into());
    }
}
