//! What the numbers say, in plain words that do not claim more than the intervals allow. The verdict is green only
//! where every condition of [`conditions`] holds.

mod conditions;
mod lamps;
mod size;

use craft_core::records::Change;
use serde_json::{Value, json};

use crate::html::{self, interval, percent, signed};
use crate::rewards::{Context, Role};
use crate::stats;

pub(crate) use lamps::{drift_level, lamps, relative};
use size::Gain;

/// Colour of a lamp; the page also writes it as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Good,
    Unclear,
    Bad,
    Unknown,
}

impl Level {
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Unclear => "amber",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }

    /// The level in `run.json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Unclear => "unclear",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Unclear => "look",
            Self::Bad => "alarm",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) level: Level,
    pub(crate) headline: String,
    /// (what it is about, sentence)
    pub(crate) sentences: Vec<(&'static str, String)>,
    /// What a green verdict would need and this run lacks, one condition each; empty where it is green.
    pub(crate) missing: Vec<String>,
    /// The size of the change on each held-out reward.
    pub(crate) gains: Vec<Gain>,
}

impl Verdict {
    /// The verdict as `run.json` holds it.
    pub(crate) fn json(&self) -> Value {
        let sentence = |(about, text): &(&str, String)| json!({"about": about, "text": text});
        json!({
            "level": self.level.name(),
            "headline": self.headline,
            "missing": self.missing,
            "gains": self.gains.iter().map(Gain::json).collect::<Vec<_>>(),
            "sentences": self.sentences.iter().map(sentence).collect::<Vec<_>>(),
        })
    }
}

/// Where an interval lies against zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Above,
    Includes,
    Below,
    Unknown,
}

fn side([lo, hi]: [f64; 2]) -> Side {
    match () {
        () if lo > 0.0 => Side::Above,
        () if hi < 0.0 => Side::Below,
        () => Side::Includes,
    }
}

/// Wilson's interval of a win rate, over prompts (seeds of one prompt are not independent).
pub(crate) fn win_interval(eval: &Change, prompts: usize) -> Option<[f64; 2]> {
    stats::wilson(eval.win_rate, prompts as f64)
}

pub(crate) fn judge(ctx: &Context<'_>) -> Verdict {
    if ctx.run.evaluation.is_none() {
        return Verdict {
            level: Level::Unknown,
            headline: "No verdict yet".to_owned(),
            sentences: vec![(
                "Evaluation",
                "This run has no evaluation yet, so nothing can be said about whether it worked."
                    .to_owned(),
            )],
            missing: vec!["an evaluation".to_owned()],
            gains: Vec::new(),
        };
    }
    let held: Vec<(&str, &Change)> =
        ctx.of_role(Role::HeldOut).into_iter().filter_map(|n| Some((n, ctx.eval(n)?))).collect();
    let mut sentences = Vec::new();
    let gains: Vec<Gain> = held.iter().map(|(name, e)| size::gain(ctx, name, e)).collect();
    let sides: Vec<Side> = held.iter().map(|(_, e)| side(e.ci95)).collect();
    for ((name, eval), s) in held.iter().zip(&sides) {
        sentences.push(("Held out", held_sentence(ctx, name, eval, *s)));
    }
    sentences.extend(gains.iter().map(|gain| ("Size", gain.sentence())));
    let all = |wanted: Side| !sides.is_empty() && sides.iter().all(|s| *s == wanted);
    let checker = ctx.eval("checker");
    let checker_side = checker.map_or(Side::Unknown, |e| side(e.ci95));
    let control = control_sides(&held);
    if let Some(text) = control_sentence(ctx, &held, &control) {
        sentences.push(("Control", text));
    }
    if let Some(e) = checker {
        sentences.push(("Checker", checker_sentence(e, checker_side)));
    }
    sentences.extend(trained_sentence(ctx, all(Side::Above)).map(|text| ("Trained on", text)));
    if let Some(short) = &ctx.run.shortfall {
        sentences.push(("Samples", format!("{}.", short.text)));
    }
    let missing = conditions::missing(ctx, &held, &gains);
    let beaten = control.len() == held.len() && control.iter().all(|s| *s == Side::Above);
    let (level, headline) = if held.is_empty() {
        (Level::Unclear, "No held-out reward, so improvement and reward hacking look the same")
    } else if sides.contains(&Side::Below) && sides.contains(&Side::Above) {
        (Level::Unclear, "Mixed: held-out rewards disagree")
    } else if sides.contains(&Side::Below) {
        (Level::Bad, "It did not work: held-out quality fell")
    } else if !all(Side::Above) {
        (Level::Unclear, "Not shown to work: a held-out change of this size could be chance")
    } else if checker_side == Side::Below {
        (Level::Unclear, "Liked better, but less faithful: the checker's accuracy fell")
    } else if !ctx.has_control {
        (Level::Unclear, "Held-out quality rose, but without a random control it is not shown why")
    } else if !beaten {
        (
            Level::Unclear,
            "Better than the base model, but not shown to be better than the random control",
        )
    } else if !missing.is_empty() {
        (Level::Unclear, "Held-out quality rose, but this run is not enough to say that it worked")
    } else {
        (Level::Good, "It worked: held-out quality rose, and by more than in the random control")
    };
    Verdict { level, headline: headline.to_owned(), sentences, missing, gains }
}

fn held_sentence(ctx: &Context<'_>, name: &str, eval: &Change, s: Side) -> String {
    let n = ctx.eval_prompts();
    let rate = eval.win_rate;
    let wins = match win_interval(eval, n) {
        Some([lo, hi]) => format!(
            "the tuned model beats the base model on {} of the comparisons (95 % interval {:.0} to {:.0} %)",
            percent(rate),
            lo * 100.0,
            hi * 100.0
        ),
        None => "no win rate is known".to_owned(),
    };
    let change = format!(
        "the mean change is {} (95 % interval {})",
        signed(eval.delta),
        interval(eval.ci95)
    );
    let reading = match s {
        Side::Above => "The interval is clear of zero: this is a real gain on these prompts.",
        Side::Includes => {
            "The interval includes zero: with this many prompts it cannot be told from no change."
        }
        Side::Below => "The interval lies below zero: this is a real loss.",
        Side::Unknown => "Without an interval nothing can be concluded.",
    };
    let seeds = ctx.run.evaluation.as_ref().map(|e| e.samples_per_prompt).filter(|s| *s > 0);
    let seeds = seeds
        .map_or_else(String::new, |s| format!(" with {} each", html::count(s as usize, "seed")));
    format!(
        "On {name}, which was never trained on, {wins} over {}{seeds}; {change}. {reading}",
        html::count(n, "prompt")
    )
}

fn control_sides(held: &[(&str, &Change)]) -> Vec<Side> {
    held.iter().filter_map(|(_, e)| e.tuned_minus_control.as_ref()).map(|v| side(v.ci95)).collect()
}

fn control_sentence(ctx: &Context<'_>, held: &[(&str, &Change)], sides: &[Side]) -> Option<String> {
    if held.is_empty() {
        return None;
    }
    if !ctx.has_control {
        return Some(
            "There is no random control in this run, so it cannot be said how much of the change comes from the \
             filter and how much from merely training on the model's own pictures."
                .to_owned(),
        );
    }
    let parts: Vec<String> = held
        .iter()
        .filter_map(|(name, e)| {
            let lead = e.tuned_minus_control.as_ref()?;
            let ci = interval(lead.ci95);
            Some(format!("{} on {name} (95 % interval {ci})", signed(lead.delta)))
        })
        .collect();
    let reading = if sides.is_empty() || sides.contains(&Side::Unknown) {
        "so the comparison is open"
    } else if sides.iter().all(|s| *s == Side::Above) {
        "so choosing the samples mattered, not only training on them"
    } else if sides.contains(&Side::Below) {
        "so the random pick did better somewhere: the filter did harm there"
    } else {
        "so it is not shown that the filter did more than a random pick"
    };
    let what =
        if parts.is_empty() { "no difference is known".to_owned() } else { parts.join(", ") };
    Some(format!(
        "Against the random control (as many samples, picked at random, trained alike): {what}, {reading}."
    ))
}

fn checker_sentence(e: &Change, s: Side) -> String {
    let values = format!(" from {:.1} % to {:.1} % of the facts", e.base * 100.0, e.tuned * 100.0);
    let [lo, hi] = e.ci95.map(|end| end * 100.0);
    let ci = format!(" (change {lo:+.1} to {hi:+.1} points)").replace('-', "−");
    match s {
        Side::Above => format!(
            "The checker, which looks at the pixels, says the pictures became more faithful:{values}{ci}."
        ),
        Side::Below => format!(
            "The checker, which looks at the pixels, says the pictures became less faithful:{values}{ci}."
        ),
        _ => format!(
            "The checker, which looks at the pixels, sees no clear change in faithfulness:{values}{ci}."
        ),
    }
}

fn trained_sentence(ctx: &Context<'_>, held_rose: bool) -> Option<String> {
    let sides: Vec<Side> = ctx
        .of_role(Role::TrainedOn)
        .into_iter()
        .filter_map(|n| ctx.eval(n))
        .map(|e| side(e.ci95))
        .collect();
    if sides.is_empty() {
        return None;
    }
    let rose = sides.iter().filter(|s| **s == Side::Above).count();
    let text = format!(
        "Of the {} trained on, {rose} rose with an interval clear of zero",
        html::count(sides.len(), "reward")
    );
    Some(if rose == 0 {
        format!("{text}: training did not clearly move even what it aimed at.")
    } else if !held_rose {
        format!(
            "{text}, while the held-out side is not clear of zero: that is how reward hacking begins."
        )
    } else {
        format!("{text}. A rise there alone would prove little.")
    })
}
