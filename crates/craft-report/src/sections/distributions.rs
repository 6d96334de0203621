//! Per reward: distribution, sorted changes, base against tuned.

use maud::{Markup, html};

use crate::charts;
use crate::html::absent;
use crate::rewards::{Context, Reward};

pub(crate) fn render(ctx: &Context<'_>) -> Markup {
    if ctx.pairs.is_empty() {
        return absent("Evaluation pictures");
    }
    html! {
        p.fine {
            "Left: all pictures of each model. Middle: mean change per prompt, sorted. Right: one point per prompt and seed; "
            "above the diagonal is better. Click a bar or a point to see its pictures."
        }
        @if let Some(shown) = ctx.run.evaluated.words() {
            p.fine { "Bars and points are those of " (shown) "; histograms and all numbers are over all of them." }
        }
        @for reward in &ctx.rewards {
            @if let Some(charts) = row(ctx, reward) {
                h3.reward { (reward.name) " " span.badge.(reward.role.class()) { (reward.role.words()) } }
                div.charts.three { (charts) }
            }
        }
    }
}

/// The charts of a reward; none where no picture has a score of it.
fn row(ctx: &Context<'_>, reward: &Reward) -> Option<Markup> {
    let name = reward.name.as_str();
    let sets: Vec<(&str, Vec<f64>)> = ["base", "control", "tuned"]
        .into_iter()
        .map(|m| (m, ctx.scores(name, m)))
        .filter(|(_, v)| !v.is_empty())
        .collect();
    if sets.is_empty() {
        return None;
    }
    let shown = &ctx.run.evaluated.shown;
    let rows: Vec<charts::Fall<'_>> = ctx
        .deltas(name, "tuned")
        .into_iter()
        .map(|(prompt, change)| charts::Fall {
            prompt: prompt.as_str(),
            text: ctx.eval_text(prompt),
            change,
            shown: shown.contains(prompt),
        })
        .collect();
    let control: Vec<f64> = ctx.deltas(name, "control").into_values().collect();
    let mut place = 0;
    let mut points = Vec::new();
    for ((prompt, _), pair) in &ctx.pairs {
        let at = shown.contains(*prompt).then_some(place);
        place += usize::from(at.is_some());
        let scores = (Context::score(pair, "base", name), Context::score(pair, "tuned", name));
        if let (Some(base), Some(tuned)) = scores {
            points.push(charts::Point { at, text: ctx.eval_text(prompt), base, tuned });
        }
    }
    Some(html! {
        (charts::distribution(name, &sets))
        (charts::waterfall(name, &rows, &control))
        (charts::scatter(name, &points))
    })
}
