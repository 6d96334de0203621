//! Training curves of CRAFT and the control.

use craft_core::records::{Look, Metric};
use maud::{Markup, html};

use crate::charts;
use crate::html::{absent, count, duration, num};
use crate::rewards::Context;
use crate::run::training_seconds;

/// Share of the past in the smoothed loss.
const SMOOTHING: f64 = 0.9;

pub(crate) fn render(ctx: &Context<'_>) -> Markup {
    let metrics = &ctx.run.metrics;
    if metrics.is_empty() {
        return absent("Training metrics");
    }
    let series = |pick: fn(&Metric) -> Option<f64>| -> Vec<(&str, Vec<(f64, f64)>)> {
        let mut names: Vec<&str> = metrics.keys().map(String::as_str).collect();
        names.sort_by_key(|n| (*n == "craft", *n));
        let points = |name: &str| {
            let steps = metrics[name].values();
            steps.filter_map(|m| Some((m.step as f64, pick(m)?))).collect()
        };
        names.into_iter().map(|name| (name, points(name))).collect()
    };
    html! {
        ul.fine {
            @for (run, steps) in metrics.iter().rev() {
                li {
                    (run) ": " (count(steps.len(), "step"))
                    @if let Some(seen) = steps.values().map(|m| m.nimg).max() { ", " (seen) " pictures seen" }
                    ", in " (duration(training_seconds(steps.values())))
                }
            }
            @if !metrics.contains_key("control") { li { "random control: not in this run" } }
        }
        (looks(ctx.run.looks.as_deref().unwrap_or_default()))
        div.charts.three {
            (charts::curves(
                "Loss (smoothed over about 10 steps)",
                "loss",
                &series(|m| m.loss),
                Some(SMOOTHING),
            ))
            (charts::curves(
                "Gradient norm",
                "norm before clipping",
                &series(|m| m.grad_norm),
                Some(SMOOTHING),
            ))
            (charts::curves("Learning rate", "lr", &series(|m| Some(m.lr)), None))
        }
        p.fine {
            "The loss of a diffusion model says little about its pictures: it is the error of noise prediction on the "
            "samples picked, weighted, at random noise levels. Look for spikes and for a run that never settles."
        }
    }
}

/// Evaluations during training, if the recipe asked for any.
fn looks(looks: &[Look]) -> Markup {
    let Some(first) = looks.first() else { return html! {} };
    html! {
        div.scroll.card {
            table {
                thead {
                    tr {
                        th { "looked at after step" } th.n { "held-out reward" }
                        @for (name, _) in first.statistics.named() { th.n { (name.replace('_', " ")) } }
                    }
                }
                tbody {
                    @for look in looks {
                        tr {
                            td { (num(look.step as f64)) }
                            td.n { (look.held_out.map_or_else(|| "–".to_owned(), num)) }
                            @for (_, value) in look.statistics.named() { td.n { (num(value)) } }
                        }
                    }
                }
            }
        }
    }
}
