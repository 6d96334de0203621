//! What a green verdict needs. Each condition that a run lacks is told in plain words, with what would mend it.

use craft_core::records::Change;
use craft_core::stats;

use super::size::Gain;
use super::{Side, side};
use crate::html::{count, interval, num, percent};
use crate::rewards::{Context, Role};

/// Fewer evaluation prompts than this are no evidence.
pub(crate) const PROMPTS: usize = 50;
/// A gain below this share of the base's standard deviation is hardly any.
pub(super) const LEAST: f64 = 0.05;
/// Held-out and trained-on scores that correlate by more than this come from one model.
const SAME: f64 = 0.999;

/// The conditions that do not hold.
pub(crate) fn missing(ctx: &Context<'_>, held: &[(&str, &Change)], gains: &[Gain]) -> Vec<String> {
    let mut out = Vec::new();
    out.extend(control(ctx));
    out.extend(prompts(ctx, held));
    out.extend(samples(ctx));
    out.extend(trained_on(ctx));
    if held.is_empty() {
        out.push(
            "a held-out reward: every reward was trained on (give one role = \"held-out\")"
                .to_owned(),
        );
    }
    for (name, eval) in held {
        out.extend(rose(name, eval));
        out.extend(led(ctx, name, eval));
        out.extend(same_as(ctx, name));
    }
    for gain in gains {
        out.extend(size(gain));
    }
    if ctx.eval("checker").is_some_and(|e| side(e.ci95) == Side::Below) {
        out.push("facts kept: the checker's accuracy fell, clear of zero".to_owned());
    }
    out
}

fn control(ctx: &Context<'_>) -> Option<String> {
    (!ctx.has_control).then(|| {
        "a random control: this run trained none ([control] enabled = true), so what the filter did is not known"
            .to_owned()
    })
}

/// Counted where scores are, not where a file says so.
fn prompts(ctx: &Context<'_>, held: &[(&str, &Change)]) -> Option<String> {
    let scored = held.iter().map(|(name, _)| ctx.deltas(name, "tuned").len()).min();
    let judged = match scored {
        Some(n) if !ctx.pairs.is_empty() => n,
        _ => ctx.eval_prompts(),
    };
    (judged < PROMPTS).then(|| {
        format!(
            "at least {PROMPTS} evaluation prompts: this run has {judged} with scores (a longer list at prompts.eval, or a higher prompts.eval_count)"
        )
    })
}

fn samples(ctx: &Context<'_>) -> Option<String> {
    if !ctx.run.candidates.are_judged() {
        return Some(
            "the selection: this folder does not say how many samples were trained on".to_owned(),
        );
    }
    let selected = ctx.run.candidates.funnel.selected;
    let Some(asked) = ctx.run.budget() else {
        return Some(
            "the budget: this folder does not say how many samples were asked for".to_owned(),
        );
    };
    (selected == 0 || 2 * selected < asked).then(|| {
        format!(
            "at least half of the samples asked for: {selected} of {asked} were trained on (see Samples)"
        )
    })
}

/// Training must have moved what it aimed at, and more than random picks did.
fn trained_on(ctx: &Context<'_>) -> Option<String> {
    let trained: Vec<(&str, &Change)> =
        ctx.of_role(Role::TrainedOn).into_iter().filter_map(|n| Some((n, ctx.eval(n)?))).collect();
    let of = |wanted: Side| trained.iter().filter(|(_, e)| side(e.ci95) == wanted).count();
    let (rose, fell) = (of(Side::Above), of(Side::Below));
    let all = count(trained.len(), "reward");
    if rose == 0 {
        return Some(format!(
            "a trained-on reward that rose: of {all} none did with an interval clear of zero, so training did not reach what it aimed at"
        ));
    }
    if fell >= rose {
        return Some(format!(
            "more trained-on rewards that rose than fell: of {all} {rose} rose and {fell} fell, clear of zero"
        ));
    }
    let more_than_control = |(_, e): &&(&str, &Change)| {
        let lead = e.tuned_minus_control.is_some_and(|lead| side(lead.ci95) == Side::Above);
        side(e.ci95) == Side::Above && lead
    };
    (ctx.has_control && !trained.iter().any(|t| more_than_control(&t))).then(|| {
        "a trained-on reward that rose by more than in the random control, clear of zero: none did"
            .to_owned()
    })
}

fn rose(name: &str, eval: &Change) -> Option<String> {
    (side(eval.ci95) != Side::Above).then(|| {
        format!(
            "a held-out gain clear of zero on {name}: the 95 % interval has to lie above zero; it is {}",
            interval(eval.ci95)
        )
    })
}

fn led(ctx: &Context<'_>, name: &str, eval: &Change) -> Option<String> {
    let lead = eval.tuned_minus_control.map(|lead| lead.ci95);
    (ctx.has_control && lead.map(side) != Some(Side::Above)).then(|| {
        let found =
            lead.map_or_else(|| "there is none".to_owned(), |ci| format!("it is {}", interval(ci)));
        format!("a lead over the random control clear of zero on {name}: the 95 % interval has to lie above zero; {found}")
    })
}

/// A gain that can be clear of zero and still be nothing that anybody would see, or that few pictures make.
fn size(gain: &Gain) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(d) = gain.deviations.filter(|d| (0.0..LEAST).contains(d)) {
        out.push(format!(
            "a gain of some size on {}: it is {} of the base model's standard deviation, and below {LEAST} is hardly any",
            gain.reward,
            num(d)
        ));
    }
    let [better, _, worse] = gain.shares;
    if better <= worse {
        out.push(format!(
            "more pictures that got better than worse on {}: {} and {} did, so a few large changes make the mean",
            gain.reward,
            percent(better),
            percent(worse)
        ));
    }
    out
}

/// A held-out reward that is a trained-on one under another name.
fn same_as(ctx: &Context<'_>, held: &str) -> Option<String> {
    let paired = |other: &str| {
        let pictures = ctx.pairs.values().flat_map(|pair| {
            ["base", "tuned"]
                .map(|m| (Context::score(pair, m, held), Context::score(pair, m, other)))
        });
        pictures.filter_map(|(a, b)| Some((a?, b?))).unzip::<f64, f64, Vec<f64>, Vec<f64>>()
    };
    let same = ctx.of_role(Role::TrainedOn).into_iter().find(|other| {
        let (a, b) = paired(other);
        a.len() >= 8 && stats::pearson(&a, &b).is_some_and(|r| r > SAME)
    })?;
    Some(format!(
        "an independent held-out reward: {held} gives the same scores as {same}, which was trained on"
    ))
}
