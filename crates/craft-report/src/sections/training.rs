//! Training curves of CRAFT and the control.

use crate::charts;
use crate::html::{absent, count, duration};
use crate::rewards::Context;
use crate::run::Metric;

/// Share of the past in the smoothed loss.
const SMOOTHING: f64 = 0.9;

pub(crate) fn render(ctx: &Context<'_>) -> String {
    if ctx.run.metrics.is_empty() {
        return absent("Training metrics");
    }
    let series = |pick: fn(&Metric) -> Option<f64>| -> Vec<(&str, Vec<(f64, f64)>)> {
        let mut names: Vec<&str> = ctx.run.metrics.keys().map(String::as_str).collect();
        names.sort_by_key(|n| (*n == "craft", *n));
        names
            .into_iter()
            .map(|n| {
                (
                    n,
                    ctx.run.metrics[n]
                        .values()
                        .filter_map(|m| Some((m.step as f64, pick(m)?)))
                        .collect(),
                )
            })
            .collect()
    };
    let mut out = String::from("<ul class=\"fine\">");
    for (run, steps) in ctx.run.metrics.iter().rev() {
        let nimg = steps.values().filter_map(|m| m.nimg).max();
        let seconds: f64 = steps.values().filter_map(|m| m.seconds).sum();
        let seen = nimg.map_or_else(String::new, |n| format!(", {n} pictures seen"));
        out += &format!(
            "<li>{}: {}{seen}, {} in steps</li>",
            crate::html::esc(run),
            count(steps.len(), "step"),
            duration(seconds)
        );
    }
    if !ctx.run.metrics.contains_key("control") {
        out += "<li>random control: not in this run</li>";
    }
    out += "</ul>\n<div class=\"charts three\">\n";
    out += &charts::curves(
        "Loss (smoothed over about 10 steps)",
        "loss",
        &series(|m| m.loss),
        Some(SMOOTHING),
    );
    out += &charts::curves(
        "Gradient norm",
        "norm before clipping",
        &series(|m| m.grad_norm),
        Some(SMOOTHING),
    );
    out += &charts::curves("Learning rate", "lr", &series(|m| m.lr), None);
    out += "</div>\n";
    out + "<p class=\"fine\">The loss of a diffusion model says little about its pictures: it is the error of noise prediction on the \
           samples picked, weighted, at random noise levels. Look for spikes and for a run that never settles.</p>\n"
}
