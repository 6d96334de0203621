//! Checker accuracy per kind of fact, facts won and lost, drift and diversity.

use std::collections::BTreeMap;

use crate::charts;
use crate::html::{absent, esc, num, opt};
use crate::rewards::Context;
use crate::run::Triple;
use crate::stats;
use crate::verdict::{drift_level, relative};

pub(crate) fn render(ctx: &Context<'_>) -> String {
    let Some(eval) = &ctx.run.evaluation else {
        return absent("Evaluation");
    };
    let mut out = String::from(
        "<div class=\"columns\"><div class=\"card checker\"><h3>Checker, per kind of fact</h3>\n",
    );
    match &eval.checker_by_kind {
        Some(kinds) if !kinds.is_empty() => out += &kind_table(ctx, kinds),
        _ => out += &absent("Checker"),
    }
    out += "</div>\n<div class=\"card\"><h3>Drift and diversity</h3>\n";
    out += &drift_table(ctx, eval.drift.as_ref(), eval.diversity.as_ref());
    out + "</div></div>\n"
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

fn kind_table(ctx: &Context<'_>, kinds: &BTreeMap<String, Triple>) -> String {
    let turned = turned(ctx);
    let rate = |v: Option<f64>| v.map_or_else(|| "–".to_owned(), |v| format!("{:.1} %", v * 100.0));
    let control_head = if ctx.has_control { "<th class=\"n\">control</th>" } else { "" };
    let mut out = format!(
        "<div class=\"scroll\"><table><thead><tr><th>kind</th><th class=\"n\">base</th><th class=\"n\">tuned</th>{control_head}<th>0 to 100 %</th>\
         <th class=\"n\">mended</th><th class=\"n\">broken</th><th class=\"n\">n</th></tr></thead><tbody>\n"
    );
    for (kind, t) in kinds {
        let n = t.n.unwrap_or(0);
        let mut bars = String::new();
        for (class, value) in [("base", t.base), ("control", t.control), ("tuned", t.tuned)] {
            if let Some(v) = value {
                bars += &charts::rate_bar(
                    class,
                    v,
                    stats::wilson(v, n as f64),
                    None,
                    &format!("{class} {:.1} %", v * 100.0),
                );
            }
        }
        let control = if ctx.has_control {
            format!("<td class=\"n\">{}</td>", rate(t.control))
        } else {
            String::new()
        };
        let (won, lost) = turned
            .get(kind)
            .map_or(("–".to_owned(), "–".to_owned()), |(a, b)| (a.to_string(), b.to_string()));
        out += &format!(
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td class=\"n\">{}</td>{control}<td class=\"stack\">{bars}</td>\
             <td class=\"n\">{won}</td><td class=\"n\">{lost}</td><td class=\"n\">{n}</td></tr>\n",
            esc(kind),
            rate(t.base),
            rate(t.tuned)
        );
    }
    out + "</tbody></table></div>\n<p class=\"fine\">Whiskers are Wilson's 95 % intervals over the n facts. Mended: wrong in the base picture, \
           right in the tuned one of the same seed; broken: the other way round.</p>\n"
}

fn drift_table(
    ctx: &Context<'_>,
    drift: Option<&BTreeMap<String, Triple>>,
    diversity: Option<&Triple>,
) -> String {
    if drift.is_none_or(BTreeMap::is_empty) && diversity.is_none() {
        return absent("Drift and diversity");
    }
    let control_head = if ctx.has_control { "<th class=\"n\">control</th>" } else { "" };
    let mut out = format!(
        "<div class=\"scroll\"><table><thead><tr><th>statistic</th><th class=\"n\">base</th><th class=\"n\">tuned</th>{control_head}<th class=\"n\">change</th>\
         <th>lamp</th></tr></thead><tbody>\n"
    );
    let rows = drift.into_iter().flatten().map(|(n, t)| (n.replace('_', " "), t));
    for (name, t) in rows.chain(diversity.map(|t| ("diversity".to_owned(), t))) {
        let change = relative(t);
        let level = drift_level(change);
        let words = change
            .map_or_else(|| "–".to_owned(), |c| format!("{:+.1} %", c * 100.0).replace('-', "−"));
        let control = if ctx.has_control {
            format!("<td class=\"n\">{}</td>", opt(t.control))
        } else {
            String::new()
        };
        out += &format!(
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td class=\"n\">{}</td>{control}<td class=\"n\">{words}</td>\
             <td><span class=\"chip {class}\"><i class=\"lamp {class}\" aria-hidden=\"true\"></i>{}</span></td></tr>\n",
            esc(&name),
            opt(t.base),
            opt(t.tuned),
            level.word(),
            class = level.class()
        );
    }
    out + "</tbody></table></div>\n<p class=\"fine\">A change above 15 % is amber, above 30 % red. Diversity is the mean pixel distance between \
           samples of one prompt; when it falls the model draws the same picture again and again. A lamp is a reason to look at \
           pictures, not a proof: a base model that draws too pale must gain saturation to become better.</p>\n"
}

/// Notes where evaluation.json and the samples it was made from do not say the same.
pub(crate) fn disagreements(ctx: &Context<'_>) -> Vec<String> {
    let mut out = Vec::new();
    if ctx.pairs.is_empty() {
        return out;
    }
    for r in &ctx.rewards {
        let Some(e) = ctx.eval(&r.name) else { continue };
        for (model, said) in [("base", e.base), ("tuned", e.tuned), ("control", e.control)] {
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
