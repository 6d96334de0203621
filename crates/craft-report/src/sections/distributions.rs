//! Per reward: distribution, sorted changes, base against tuned.

use crate::charts;
use crate::html::{absent, esc};
use crate::rewards::{Context, Reward};

pub(crate) fn render(ctx: &Context<'_>) -> String {
    if ctx.pairs.is_empty() {
        return absent("Evaluation pictures");
    }
    let mut out = String::from(
        "<p class=\"fine\">Left: all pictures of each model. Middle: mean change per prompt, sorted. Right: one point per prompt and seed; \
         above the diagonal is better. Click a bar or a point to see its pictures.</p>\n",
    );
    for reward in &ctx.rewards {
        let charts = row(ctx, reward);
        if !charts.is_empty() {
            out += &format!(
                "<h3 class=\"reward\">{} <span class=\"badge {}\">{}</span></h3>\n<div class=\"charts three\">{charts}</div>\n",
                esc(&reward.name),
                reward.role.class(),
                reward.role.words()
            );
        }
    }
    out
}

fn row(ctx: &Context<'_>, reward: &Reward) -> String {
    let name = reward.name.as_str();
    let sets: Vec<(&str, Vec<f64>)> = ["base", "control", "tuned"]
        .into_iter()
        .map(|m| (m, ctx.scores(name, m)))
        .filter(|(_, v)| !v.is_empty())
        .collect();
    if sets.is_empty() {
        return String::new();
    }
    let rows: Vec<(&str, &str, f64)> =
        ctx.deltas(name, "tuned").into_iter().map(|(p, d)| (p, ctx.eval_text(p), d)).collect();
    let control: Vec<f64> = ctx.deltas(name, "control").into_values().collect();
    let points: Vec<(usize, &str, f64, f64)> = ctx
        .pairs
        .iter()
        .enumerate()
        .filter_map(|(i, ((prompt, _), pair))| {
            Some((
                i,
                ctx.eval_text(prompt),
                Context::score(pair, "base", name)?,
                Context::score(pair, "tuned", name)?,
            ))
        })
        .collect();
    charts::distribution(name, &sets)
        + &charts::waterfall(name, &rows, &control)
        + &charts::scatter(name, &points)
}
