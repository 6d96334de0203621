//! Mean scores by prompt of models that answered the same prompts, taken from their rows one at a time.

use std::collections::BTreeMap;

use craft_core::Key;
use craft_core::stats::{PairedDifference, WinRate, mean, paired_bootstrap, win_rate};

use crate::stages::measuring::SampleRow;

/// Sum and number of the scores of a prompt's pictures.
type Sum = (f64, u32);

/// Mean scores of each model's pictures, by reward and prompt: 16 bytes each.
#[derive(Debug, Default)]
pub(crate) struct Means {
    /// By model and reward; prompts in their order.
    sums: BTreeMap<String, BTreeMap<String, Vec<Sum>>>,
    /// Model and prompt of the last row, and the prompt's place.
    last: (String, String, usize),
}

impl Means {
    /// Takes the next row. Rows of a model come together, as do those of a prompt, and models have the same
    /// prompts in the same order.
    pub(crate) fn add(&mut self, row: &SampleRow) {
        let (model, prompt, place) = &mut self.last;
        if *model != row.model {
            *place = 0;
            model.clone_from(&row.model);
            prompt.clone_from(&row.prompt_id);
        } else if *prompt != row.prompt_id {
            *place += 1;
            prompt.clone_from(&row.prompt_id);
        }
        let place = *place;
        let rewards = self.sums.entry(row.model.clone()).or_default();
        for (reward, score) in &row.scores {
            let sums = rewards.entry(reward.clone()).or_default();
            if sums.len() <= place {
                sums.resize(place + 1, Sum::default());
            }
            sums[place] = (sums[place].0 + score, sums[place].1 + 1);
        }
    }

    fn of(&self, model: &str, reward: &str) -> &[Sum] {
        self.sums.get(model).and_then(|rewards| rewards.get(reward)).map_or(&[], Vec::as_slice)
    }

    /// Whether any picture of a model has a score.
    pub(crate) fn any(&self, model: &str, reward: &str) -> bool {
        !self.of(model, reward).is_empty()
    }

    /// Mean over the prompts that have one; none without.
    pub(crate) fn mean(&self, model: &str, reward: &str) -> Option<f64> {
        let values: Vec<f64> = self.of(model, reward).iter().filter_map(by_prompt).collect();
        (!values.is_empty()).then(|| mean(&values))
    }

    /// Paired values over the prompts that both models have.
    fn pairs(&self, a: &str, b: &str, reward: &str) -> (Vec<f64>, Vec<f64>) {
        let both = self.of(a, reward).iter().zip(self.of(b, reward));
        both.filter_map(|(a, b)| Some((by_prompt(a)?, by_prompt(b)?))).unzip()
    }

    /// `b` against `a`, with an interval from so many resamples; none where no prompt has both.
    pub(crate) fn difference(
        &self,
        [a, b]: [&str; 2],
        reward: &str,
        (seed, resamples): (u64, usize),
    ) -> Option<(PairedDifference, WinRate)> {
        let (a, b) = self.pairs(a, b, reward);
        let mut stream = Key::new(seed).stage("bootstrap").prompt(reward).stream();
        Some((paired_bootstrap(&a, &b, resamples, &mut stream)?, win_rate(&a, &b)?))
    }
}

fn by_prompt((sum, n): &Sum) -> Option<f64> {
    (*n > 0).then(|| sum / f64::from(*n))
}
