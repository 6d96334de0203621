//! Tables of rewards below the verdict: changes with their intervals.

use craft_core::records::Change;
use maud::{Markup, html};

use crate::charts;
use crate::html::{absent, control_head, interval, num, opt, percent, signed};
use crate::rewards::{Context, Role};
use crate::stats;

pub(crate) fn render(ctx: &Context<'_>) -> Markup {
    if ctx.run.evaluation.is_none() {
        return absent("Evaluation");
    }
    html! {
        div.split {
            (table(
                ctx,
                Role::HeldOut,
                "Held-out rewards",
                "Never used to pick or weight a sample. This is the evidence.",
            ))
            (table(
                ctx,
                Role::TrainedOn,
                "Rewards trained on",
                "Used to pick samples, so a rise is expected and proves little.",
            ))
            @if ctx.eval("checker").is_some() {
                (table(
                    ctx,
                    Role::Checker,
                    "Checker",
                    "A program that looks for the prompt's facts in the pixels. Never trained on.",
                ))
            }
        }
        p.fine {
            "Dots are mean changes against base on the evaluation prompts, whiskers 95 % intervals of the paired "
            "bootstrap, the vertical line is no change. Scales are in standard deviations of the base model's scores, the same for all "
            "rewards of a table. Win rates count pairs of the same prompt and seed; their interval is Wilson's over prompts."
        }
    }
}

fn table(ctx: &Context<'_>, role: Role, title: &str, lead: &str) -> Markup {
    let rows: Vec<(&str, &Change)> =
        ctx.of_role(role).into_iter().filter_map(|n| Some((n, ctx.eval(n)?))).collect();
    let scaled: Vec<Vec<charts::ForestRow>> =
        rows.iter().map(|(name, e)| forest_rows(ctx, name, e)).collect();
    let ends = scaled
        .iter()
        .flatten()
        .flat_map(|(_, v, ci)| [*v, ci.map_or(*v, |c| c[0]), ci.map_or(*v, |c| c[1])]);
    let (lo, hi) = ends.fold((0.0f64, 0.0f64), |(lo, hi), v| (lo.min(v), hi.max(v)));
    let room = ((hi - lo) * 0.06).max(1e-9);
    let span = (lo - room, hi + room);
    html! {
        div.card.(role.class()) {
            h3 { (title) }
            p.lead { (lead) }
            @if rows.is_empty() { (absent(title)) }
            @else {
                div.scroll {
                    table {
                        thead {
                            tr {
                                th { "reward" } th { "interval" } th { "change" } th.n { "wins" } th.n { "base" }
                                th.n { "tuned" } (control_head(ctx.has_control))
                            }
                        }
                        tbody {
                            @for ((name, e), forest) in rows.iter().zip(&scaled) {
                                (row(ctx, name, e, forest, span))
                            }
                        }
                    }
                }
                @if ctx.has_control {
                    p.legend {
                        span { i.key.tuned {} "CRAFT − base" }
                        span { i.key.control {} "control − base" }
                        span { i.key.versus {} "CRAFT − control" }
                    }
                }
            }
        }
    }
}

fn forest_rows(ctx: &Context<'_>, name: &str, e: &Change) -> Vec<charts::ForestRow> {
    let unit = stats::deviation(&ctx.scores(name, "base")).unwrap_or(1.0);
    let scale = |ci: [f64; 2]| ci.map(|end| end / unit);
    let mut out = vec![("tuned", e.delta / unit, Some(scale(e.ci95)))];
    out.extend(e.control_delta.map(|d| ("control", d / unit, e.control_ci95.map(scale))));
    out.extend(e.tuned_minus_control.map(|v| ("versus", v.delta / unit, Some(scale(v.ci95)))));
    out
}

fn row(
    ctx: &Context<'_>,
    name: &str,
    e: &Change,
    forest: &[charts::ForestRow],
    span: (f64, f64),
) -> Markup {
    let [lo, hi] = e.ci95;
    let label = format!("{name}: change {}", signed(e.delta));
    html! {
        tr {
            th scope="row" { (name) }
            td { (charts::forest(forest, span, &label)) }
            td {
                @if lo > 0.0 { span.mark.good title="interval above zero" { "▲" } }
                @else if hi < 0.0 { span.mark.bad title="interval below zero" { "▼" } }
                @else { span.mark title="interval includes zero" { "○" } }
                " " (signed(e.delta)) " " span.ci { (interval(e.ci95)) }
            }
            td.n { (percent(e.win_rate)) }
            td.n { (num(e.base)) }
            td.n { (num(e.tuned)) }
            @if ctx.has_control { td.n { (opt(e.control)) } }
        }
    }
}
