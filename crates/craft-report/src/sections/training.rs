//! Training curves of CRAFT and the control.

use serde_json::Value;

use crate::charts;
use crate::html::{absent, count, duration, num};
use crate::rewards::Context;
use crate::run::{Metric, training_seconds};

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
        let seconds = training_seconds(steps.values());
        let seen = nimg.map_or_else(String::new, |n| format!(", {n} pictures seen"));
        out += &format!(
            "<li>{}: {}{seen}, in {}</li>",
            crate::html::esc(run),
            count(steps.len(), "step"),
            duration(seconds)
        );
    }
    if !ctx.run.metrics.contains_key("control") {
        out += "<li>random control: not in this run</li>";
    }
    out += "</ul>\n";
    out += &looks(ctx.run.looks.as_deref().unwrap_or_default());
    out += "<div class=\"charts three\">\n";
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

/// Looks at the model in training, where the recipe asked for some.
fn looks(looks: &[Value]) -> String {
    const STATISTICS: [&str; 5] =
        ["saturation", "brightness", "contrast", "sharpness", "high_frequency"];
    if looks.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "<div class=\"scroll card\"><table><thead><tr><th>looked at after step</th><th class=\"n\">held-out reward</th>",
    );
    for name in STATISTICS {
        out += &format!("<th class=\"n\">{}</th>", name.replace('_', " "));
    }
    out += "</tr></thead><tbody>";
    let show = |value: &Value| value.as_f64().map_or("–".to_owned(), num);
    for look in looks {
        out += &format!(
            "<tr><td>{}</td><td class=\"n\">{}</td>",
            show(&look["step"]),
            show(&look["held_out"])
        );
        for name in STATISTICS {
            out += &format!("<td class=\"n\">{}</td>", show(&look["statistics"][name]));
        }
        out += "</tr>";
    }
    out + "</tbody></table></div>\n"
}
