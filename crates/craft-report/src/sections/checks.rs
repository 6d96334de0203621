//! Checker accuracy per kind of fact, facts won and lost, drift and diversity.

use std::collections::BTreeMap;

use craft_core::records::{Evaluation, Three};
use maud::{Markup, html};

use super::verdict::lamp;
use crate::charts;
use crate::html::{absent, control_head, num, opt};
use crate::rewards::Context;
use crate::stats;
use crate::verdict::{drift_level, relative};

pub(crate) fn render(ctx: &Context<'_>) -> Markup {
    let Some(eval) = &ctx.run.evaluation else {
        return absent("Evaluation");
    };
    html! {
        div.columns {
            div.card.checker {
                h3 { "Checker, per kind of fact" }
                @if eval.checker_by_kind.is_empty() { (absent("Checker")) }
                @else { (kind_table(ctx, &eval.checker_by_kind)) }
            }
            div.card {
                h3 { "Drift and diversity" }
                (drift_table(ctx, eval))
            }
        }
    }
}

/// Facts that base had wrong and tuned has right, and the other way round, per kind.
fn turned(ctx: &Context<'_>) -> BTreeMap<String, (usize, usize)> {
    let mut out: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for pair in ctx.pairs.values() {
        let (Some(base), Some(tuned)) = (pair.get("base"), pair.get("tuned")) else {
            continue;
        };
        let before: BTreeMap<(&str, &str), bool> =
            base.facts.iter().map(|f| ((f.kind.as_str(), f.fact.as_str()), f.passed)).collect();
        for f in &tuned.facts {
            let entry = out.entry(f.kind.clone()).or_default();
            match (before.get(&(f.kind.as_str(), f.fact.as_str())), f.passed) {
                (Some(false), true) => entry.0 += 1,
                (Some(true), false) => entry.1 += 1,
                _ => {}
            }
        }
    }
    out
}

fn kind_table(ctx: &Context<'_>, kinds: &BTreeMap<String, Three>) -> Markup {
    let turned = turned(ctx);
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th { "kind" } th.n { "base" } th.n { "tuned" } (control_head(ctx.has_control))
                        th { "0 to 100 %" } th.n { "mended" } th.n { "broken" } th.n { "n" }
                    }
                }
                tbody {
                    @for (kind, rates) in kinds { (kind_row(ctx, kind, rates, turned.get(kind))) }
                }
            }
        }
        p.fine {
            "Whiskers are Wilson's 95 % intervals over the n facts. Mended: wrong in the base picture, "
            "right in the tuned one of the same seed; broken: the other way round."
        }
    }
}

fn kind_row(
    ctx: &Context<'_>,
    kind: &str,
    rates: &Three,
    turned: Option<&(usize, usize)>,
) -> Markup {
    let n = rates.n.unwrap_or(0);
    let rate = |v: Option<f64>| v.map_or_else(|| "–".to_owned(), |v| format!("{:.1} %", v * 100.0));
    let count = |n: Option<usize>| n.map_or_else(|| "–".to_owned(), |n| n.to_string());
    let bars = [("base", rates.base), ("control", rates.control), ("tuned", rates.tuned)];
    html! {
        tr {
            th scope="row" { (kind) }
            td.n { (rate(rates.base)) }
            td.n { (rate(rates.tuned)) }
            @if ctx.has_control { td.n { (rate(rates.control)) } }
            td.stack {
                @for (class, value) in bars {
                    @if let Some(v) = value {
                        @let label = format!("{class} {:.1} %", v * 100.0);
                        (charts::rate_bar(class, v, stats::wilson(v, n as f64), None, &label))
                    }
                }
            }
            td.n { (count(turned.map(|t| t.0))) }
            td.n { (count(turned.map(|t| t.1))) }
            td.n { (n) }
        }
    }
}

fn drift_table(ctx: &Context<'_>, eval: &Evaluation) -> Markup {
    let rows = eval.drift.iter().map(|(name, three)| (name.replace('_', " "), three));
    let rows = rows.chain(std::iter::once(("diversity".to_owned(), &eval.diversity)));
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th { "statistic" } th.n { "base" } th.n { "tuned" } (control_head(ctx.has_control))
                        th.n { "change" } th { "lamp" }
                    }
                }
                tbody {
                    @for (name, three) in rows { (drift_row(ctx, &name, three)) }
                }
            }
        }
        p.fine {
            "A change above 15 % is amber, above 30 % red. Diversity is the mean pixel distance between "
            "samples of one prompt; when it falls the model draws the same picture again and again. A lamp is a reason to look at "
            "pictures, not a proof: a base model that draws too pale must gain saturation to become better."
        }
    }
}

fn drift_row(ctx: &Context<'_>, name: &str, three: &Three) -> Markup {
    let change = relative(three);
    let level = drift_level(change);
    let words =
        change.map_or_else(|| "–".to_owned(), |c| format!("{:+.1} %", c * 100.0).replace('-', "−"));
    html! {
        tr {
            th scope="row" { (name) }
            td.n { (opt(three.base)) }
            td.n { (opt(three.tuned)) }
            @if ctx.has_control { td.n { (opt(three.control)) } }
            td.n { (words) }
            td { span.chip.(level.class()) { (lamp(level)) (level.word()) } }
        }
    }
}

/// Notes where evaluation.json and the samples it was made from do not say the same.
pub(crate) fn disagreements(ctx: &Context<'_>) -> Vec<String> {
    let mut out = Vec::new();
    if ctx.pairs.is_empty() {
        return out;
    }
    for r in &ctx.rewards {
        let Some(e) = ctx.eval(&r.name) else { continue };
        let means = [("base", Some(e.base)), ("tuned", Some(e.tuned)), ("control", e.control)];
        for (model, said) in means {
            let seen = stats::mean(&ctx.scores(&r.name, model));
            if let (Some(a), Some(b)) = (said, seen)
                && (a - b).abs() > 1e-3 * (a.abs().max(b.abs())).max(1e-3)
            {
                out.push(format!(
                    "evaluation.json says that the mean {} of {model} is {}, but samples.jsonl gives {}",
                    r.name, num(a), num(b)
                ));
            }
        }
    }
    out
}
