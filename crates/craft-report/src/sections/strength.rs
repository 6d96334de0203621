//! Rewards at strengths of the tuning between base and tuned weights, and beyond.

use craft_core::records::{Strength, Sweep};
use maud::{Markup, html};

use crate::html::{absent, num, signed};
use crate::stats;
use crate::svg::{Frame, figure, points};

/// Colours of rewards in their order; held-out ones are dashed.
const COLOURS: [&str; 6] = ["#1d63d8", "#c2620a", "#12805c", "#c22f2f", "#7a3fc4", "#0b7c8c"];

pub(crate) fn render(sweep: &Sweep) -> Markup {
    if sweep.rewards.is_empty() || sweep.factors.is_empty() {
        return absent("Strengths");
    }
    html! {
        div.scroll.card {
            table {
                thead {
                    tr {
                        th { "strength" }
                        @for (name, reward) in &sweep.rewards {
                            th.n {
                                (name)
                                @if !reward.trained_on { " " span.badge.held { "held out" } }
                            }
                        }
                    }
                }
                tbody {
                    @for (i, factor) in sweep.factors.iter().enumerate() {
                        tr {
                            td { (num(*factor)) }
                            @for reward in sweep.rewards.values() { td.n { (cell(reward.at.get(i))) } }
                        }
                    }
                }
            }
        }
        div.charts { (chart(sweep)) }
        p.fine {
            "Changes against the base weights with 95 % bootstrap intervals; one picture each of " (sweep.prompts) " prompts."
        }
    }
}

/// A change with its interval; a mean where there is no base to compare with.
fn cell(at: Option<&Strength>) -> Markup {
    let change = at.and_then(|at| at.delta.zip(at.ci95));
    html! {
        @if let Some((delta, [low, high])) = change {
            (signed(delta)) span.ci { (signed(low)) " to " (signed(high)) }
        } @else { (at.map_or_else(|| "–".to_owned(), |at| num(at.mean))) }
    }
}

/// A reward's name, whether it was trained on, and its points.
type Line<'a> = (&'a str, bool, Vec<(f64, f64)>);

fn chart(sweep: &Sweep) -> Markup {
    let lines: Vec<Line<'_>> = sweep
        .rewards
        .iter()
        .map(|(name, reward)| {
            let points = sweep.factors.iter().zip(&reward.at);
            let points = points.filter_map(|(factor, at)| Some((*factor, at.delta?)));
            let mut points: Vec<(f64, f64)> = points.collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            (name.as_str(), reward.trained_on, points)
        })
        .collect();
    let ys: Vec<f64> = lines.iter().flat_map(|l| l.2.iter().map(|p| p.1)).collect();
    let (Some((x0, x1)), Some((y0, y1))) =
        (stats::extent([sweep.factors.as_slice()]), stats::extent([ys.as_slice()]))
    else {
        return html! {};
    };
    let f = Frame::SQUARE;
    let pad = (y1 - y0) * 0.04;
    let (x, y) = (f.x(x0, x1), f.y(y0 - pad, y1 + pad));
    let colour = |i: usize| COLOURS[i % COLOURS.len()];
    let svg = f.svg(
        "Change of each reward by strength",
        html! {
            (f.axes(&x, &y, "strength of the tuning", "change"))
            @for (i, (name, trained_on, line)) in lines.iter().enumerate() {
                @let dash = if *trained_on { "" } else { ";stroke-dasharray:5 3" };
                polyline.line style={ "stroke:" (colour(i)) (dash) } points=(points(line, &x, &y)) {
                    title { (name) }
                }
            }
        },
    );
    html! {
        (figure("Change against the base weights", &[], svg))
        p.fine {
            @for (i, (name, trained_on, _)) in lines.iter().enumerate() {
                @if i > 0 { ", " }
                span style={ "color:" (colour(i)) } { (name) }
                @if !trained_on { " (held out, dashed)" }
            }
        }
    }
}
