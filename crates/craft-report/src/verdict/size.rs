//! How large a change is, in shares of pictures and in words.

use craft_core::records::Change;
use serde_json::{Value, json};

use super::conditions::LEAST;
use crate::html::{percent, signed};
use crate::rewards::Context;
use crate::stats;

/// A change on one reward.
#[derive(Debug)]
pub(crate) struct Gain {
    pub(crate) reward: String,
    /// Shares of pictures that got better, stayed equal and got worse, against the base model's picture of the
    /// same prompt and seed.
    pub(crate) shares: [f64; 3],
    /// The mean change in standard deviations of the base model's pictures.
    pub(crate) deviations: Option<f64>,
}

/// Differences below this share of the base's deviation are rounding.
const EQUAL: f64 = 1e-6;

/// The change on a reward.
pub(crate) fn gain(ctx: &Context<'_>, reward: &str, eval: &Change) -> Gain {
    let deviation = stats::deviation(&ctx.scores(reward, "base"));
    let shares = of_pairs(ctx, reward, deviation.unwrap_or(0.0));
    Gain {
        reward: reward.to_owned(),
        shares: shares.unwrap_or_else(|| of_wins(eval)),
        deviations: deviation.map(|deviation| eval.delta / deviation),
    }
}

fn of_pairs(ctx: &Context<'_>, reward: &str, deviation: f64) -> Option<[f64; 3]> {
    let mut counts = [0usize; 3];
    for pair in ctx.pairs.values() {
        let score = |model| Context::score(pair, model, reward);
        let (Some(base), Some(tuned)) = (score("base"), score("tuned")) else { continue };
        let change = tuned - base;
        let place = if change.abs() <= EQUAL * deviation {
            1
        } else if change > 0.0 {
            0
        } else {
            2
        };
        counts[place] += 1;
    }
    let all = counts.iter().sum::<usize>();
    (all > 0).then(|| counts.map(|n| n as f64 / all as f64))
}

/// From the win rate, in which a tie counts one half.
fn of_wins(eval: &Change) -> [f64; 3] {
    let (wins, ties) = (eval.win_rate, eval.ties);
    let better = (wins - ties / 2.0).clamp(0.0, 1.0);
    [better, ties, (1.0 - better - ties).max(0.0)]
}

/// The size of a change in words; bounds of small, medium and large are Cohen's (1988).
pub(crate) fn words(deviations: f64) -> &'static str {
    match deviations.abs() {
        d if d < LEAST => "hardly any",
        d if d < 0.15 => "a very small",
        d if d < 0.45 => "a small",
        d if d < 0.75 => "a medium",
        _ => "a large",
    }
}

impl Gain {
    /// `a small gain (0.21 standard deviations of the base model's pictures)`.
    fn size(&self) -> Option<String> {
        let deviations = self.deviations?;
        let what = if deviations < 0.0 { "loss" } else { "gain" };
        let number = signed(deviations);
        Some(format!(
            "{} {what} ({} standard deviations of the base model's pictures)",
            words(deviations),
            number.trim_start_matches(['+', '−'])
        ))
    }

    /// One sentence.
    pub(crate) fn sentence(&self) -> String {
        let [better, equal, worse] = self.shares.map(percent);
        let shares = format!("{better} of pictures got better, {equal} equal, {worse} worse");
        let parts: Vec<String> = std::iter::once(shares).chain(self.size()).collect();
        format!("On {}: {}.", self.reward, parts.join("; "))
    }

    pub(crate) fn json(&self) -> Value {
        let [better, equal, worse] = self.shares;
        json!({
            "reward": self.reward,
            "better": better,
            "equal": equal,
            "worse": worse,
            "standard_deviations": self.deviations,
            "words": self.size(),
            "text": self.sentence(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_names() {
        let all = [0.0, 0.1, -0.2, 0.5, 2.0].map(words);
        assert_eq!(all, ["hardly any", "a very small", "a small", "a medium", "a large"]);
        let gain =
            Gain { reward: "ir".to_owned(), shares: [0.62, 0.08, 0.30], deviations: Some(-0.2) };
        assert_eq!(
            gain.sentence(),
            "On ir: 62 % of pictures got better, 8 % equal, 30 % worse; a small loss (0.200 standard deviations of the base model's pictures)."
        );
    }

    #[test]
    fn a_win_rate_gives_shares_too() {
        let eval = Change {
            base: 0.0,
            tuned: 0.0,
            control: None,
            delta: 0.0,
            ci95: [0.0, 0.0],
            win_rate: 0.6,
            ties: 0.2,
            trained_on: false,
            control_delta: None,
            control_ci95: None,
            tuned_minus_control: None,
        };
        let [better, equal, worse] = of_wins(&eval);
        assert!((better - 0.5).abs() < 1e-12 && equal == 0.2 && (worse - 0.3).abs() < 1e-12);
    }
}
