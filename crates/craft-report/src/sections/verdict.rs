//! Verdict at the top: headline, tiles, tables of held-out and trained-on rewards.

use crate::charts;
use crate::funnel::Funnel;
use crate::html::{absent, bytes, duration, esc, interval, opt, percent, signed};
use crate::rewards::{Context, Role, known};
use crate::run::RewardEval;
use crate::stats;
use crate::verdict::{self, Level};

pub(crate) fn render(ctx: &Context<'_>, funnel: &Funnel) -> String {
    let v = verdict::judge(ctx);
    let mut out = format!(
        "<div class=\"hero {0}\"><p class=\"headline\"><i class=\"lamp {0}\" aria-hidden=\"true\"></i>{1}</p>\n",
        v.level.class(),
        esc(&v.headline)
    );
    out += "<dl>\n";
    for (about, text) in &v.sentences {
        out += &format!("<dt>{about}</dt><dd>{}</dd>\n", together(&esc(text)));
    }
    out += "</dl>\n";
    out += &missing(&v.missing);
    out += "</div>\n<div class=\"tiles\">\n";
    out += &reward_tiles(ctx);
    out += &cost_tiles(ctx, funnel);
    out += "</div>\n";
    out += &lamps(ctx);
    out += &tables(ctx);
    out
}

/// The conditions of a green verdict that do not hold.
fn missing(conditions: &[String]) -> String {
    if conditions.is_empty() {
        return String::new();
    }
    let items: String =
        conditions.iter().map(|c| format!("<li>{}</li>", together(&esc(c)))).collect();
    format!(
        "<p class=\"lead\">To say that it worked, this run lacks</p>\n<ul class=\"missing\">{items}</ul>\n"
    )
}

/// Keeps a number and its % sign on one line.
fn together(text: &str) -> String {
    text.replace(" %", "\u{a0}%")
}

fn tile(class: &str, label: &str, value: &str, small: &str, extra: &str) -> String {
    format!(
        "<div class=\"tile {class}\"><span class=\"label\">{}</span><span class=\"value\">{}</span>{extra}<span class=\"small\">{}</span></div>\n",
        esc(label),
        together(&esc(value)),
        together(&esc(small))
    )
}

fn reward_tiles(ctx: &Context<'_>) -> String {
    let mut out = String::new();
    for name in ctx.of_role(Role::HeldOut) {
        let Some(e) = ctx.eval(name) else { continue };
        if let Some(rate) = e.win_rate {
            let ci = verdict::win_interval(e, ctx.eval_prompts());
            let words = ci.map_or_else(String::new, |[a, b]| {
                format!("95 % interval {:.0} to {:.0} %", a * 100.0, b * 100.0)
            });
            let ties = e
                .ties
                .filter(|t| *t > 0.0)
                .map_or_else(String::new, |t| format!("; ties {}", percent(t)));
            let bar = charts::rate_bar(
                "tuned",
                rate,
                ci,
                Some(0.5),
                &format!("win rate {}, {words}", percent(rate)),
            );
            out += &tile(
                "held",
                &format!("held-out win rate, {name}"),
                &percent(rate),
                &format!("tuned against base, {words}{ties}"),
                &bar,
            );
        }
        if let Some(d) = e.tuned_minus_control.as_ref().and_then(|v| v.delta) {
            let v = e.tuned_minus_control.as_ref();
            let ci = v
                .and_then(|v| known(v.ci95))
                .map_or_else(|| "no interval".to_owned(), |ci| format!("95 % {}", interval(ci)));
            let wins = v
                .and_then(|v| v.win_rate)
                .map_or_else(String::new, |w| format!("; wins {}", percent(w)));
            out += &tile(
                "held",
                &format!("CRAFT − control, {name}"),
                &signed(d),
                &format!("{ci}{wins}"),
                "",
            );
        }
    }
    if let Some(e) = ctx.eval("checker")
        && let (Some(b), Some(t)) = (e.base, e.tuned)
    {
        let control =
            e.control.map_or_else(String::new, |c| format!("; control {:.1} %", c * 100.0));
        let text = format!("base {:.1} %{control}", b * 100.0);
        out += &tile(
            "checker",
            "checker: facts shown correctly",
            &format!("{:.1} %", t * 100.0),
            &text,
            "",
        );
    }
    out
}

fn cost_tiles(ctx: &Context<'_>, funnel: &Funnel) -> String {
    let mut out = String::new();
    let summary = ctx.run.summary.as_ref();
    let from_stages: f64 = ctx.run.stages.iter().filter_map(|s| s.seconds).sum();
    let total = summary.and_then(total_seconds).or(if from_stages > 0.0 {
        Some(from_stages)
    } else {
        None
    });
    if let Some(seconds) = total {
        let memory =
            summary.and_then(|s| s.get("peak_rss_bytes")).and_then(serde_json::Value::as_f64);
        let memory = memory.map_or_else(String::new, |b| format!("peak memory {}", bytes(b)));
        out += &tile("", "time spent", &duration(seconds), &memory, "");
    }
    if funnel.candidates > 0 {
        let judged = ctx
            .run
            .samples
            .as_ref()
            .map_or_else(String::new, |s| format!("and {} to evaluate; ", s.len()));
        let selected = if ctx.run.selection.is_some() {
            format!("{} selected to train on", funnel.selected)
        } else {
            String::new()
        };
        out += &tile(
            "",
            "pictures drawn as candidates",
            &funnel.candidates.to_string(),
            &format!("{judged}{selected}"),
            "",
        );
    }
    out
}

/// `seconds` of run.json: a number, or an object with `total`, or the sum of an object's numbers.
pub(crate) fn total_seconds(summary: &serde_json::Value) -> Option<f64> {
    let seconds = summary.get("seconds")?;
    if let Some(total) =
        seconds.as_f64().or_else(|| seconds.get("total").and_then(serde_json::Value::as_f64))
    {
        return Some(total);
    }
    if let Some(total) = summary.get("total_seconds").and_then(serde_json::Value::as_f64) {
        return Some(total);
    }
    let parts: Vec<f64> =
        seconds.as_object()?.values().filter_map(serde_json::Value::as_f64).collect();
    if parts.is_empty() { None } else { Some(parts.iter().sum()) }
}

fn lamps(ctx: &Context<'_>) -> String {
    let mut lamps = verdict::lamps(ctx);
    lamps.sort_by_key(|l| !matches!(l.level, Level::Unclear | Level::Bad));
    if lamps.is_empty() {
        return String::new();
    }
    let lit = lamps.iter().filter(|l| matches!(l.level, Level::Unclear | Level::Bad)).count();
    let mut out = format!(
        "<div class=\"lamps\"><b>Signs of reward hacking: {}</b>",
        if lit == 0 { "none lit".to_owned() } else { format!("{lit} of {} lit", lamps.len()) }
    );
    for l in &lamps {
        out += &format!(
            "<span class=\"chip {0}\"><i class=\"lamp {0}\" aria-hidden=\"true\"></i>{1}: {2} <em>({3})</em></span>",
            l.level.class(),
            esc(&l.name),
            esc(&l.text),
            l.level.word()
        );
    }
    out + "</div>\n"
}

fn tables(ctx: &Context<'_>) -> String {
    if ctx.run.evaluation.is_none() {
        return absent("Evaluation");
    }
    let mut out = String::from("<div class=\"split\">\n");
    out += &table(
        ctx,
        Role::HeldOut,
        "Held-out rewards",
        "Never used to pick or weight a sample. This is the evidence.",
    );
    out += &table(
        ctx,
        Role::TrainedOn,
        "Rewards trained on",
        "Used to pick samples, so a rise is expected and proves little.",
    );
    if ctx.eval("checker").is_some() {
        out += &table(
            ctx,
            Role::Checker,
            "Checker",
            "A program that looks for the prompt's facts in the pixels. Never trained on.",
        );
    }
    out += "</div>\n";
    out += "<p class=\"fine\">Dots are mean changes against base on the evaluation prompts, whiskers 95 % intervals of the paired \
            bootstrap, the vertical line is no change. Scales are in standard deviations of the base model's scores, the same for all \
            rewards of a table. Win rates count pairs of the same prompt and seed; their interval is Wilson's over prompts.</p>\n";
    out
}

fn table(ctx: &Context<'_>, role: Role, title: &str, lead: &str) -> String {
    let rows: Vec<(&str, &RewardEval)> =
        ctx.of_role(role).into_iter().filter_map(|n| Some((n, ctx.eval(n)?))).collect();
    let mut out = format!(
        "<div class=\"card {}\"><h3>{title}</h3><p class=\"lead\">{lead}</p>\n",
        role.class()
    );
    if rows.is_empty() {
        return out + &absent(title) + "</div>\n";
    }
    let scaled: Vec<Vec<ForestRow>> =
        rows.iter().map(|(name, e)| forest_rows(ctx, name, e)).collect();
    let ends = scaled
        .iter()
        .flatten()
        .flat_map(|(_, v, ci)| [*v, ci.map_or(*v, |c| c[0]), ci.map_or(*v, |c| c[1])]);
    let (lo, hi) = ends.fold((0.0f64, 0.0f64), |(lo, hi), v| (lo.min(v), hi.max(v)));
    let room = ((hi - lo) * 0.06).max(1e-9);
    let span = (lo - room, hi + room);
    let control_head = if ctx.has_control { "<th class=\"n\">control</th>" } else { "" };
    out += &format!(
        "<div class=\"scroll\"><table><thead><tr><th>reward</th><th>interval</th><th>change</th><th class=\"n\">wins</th><th class=\"n\">base</th>\
         <th class=\"n\">tuned</th>{control_head}</tr></thead><tbody>\n"
    );
    for ((name, e), forest) in rows.iter().zip(&scaled) {
        out += &row(ctx, name, e, forest, span);
    }
    out += "</tbody></table></div>\n";
    if ctx.has_control {
        out += "<p class=\"legend\"><span><i class=\"key tuned\"></i>CRAFT − base</span><span><i class=\"key control\"></i>control − base</span>\
                <span><i class=\"key versus\"></i>CRAFT − control</span></p>\n";
    }
    out + "</div>\n"
}

type ForestRow = (&'static str, f64, Option<[f64; 2]>);

fn forest_rows(ctx: &Context<'_>, name: &str, e: &RewardEval) -> Vec<ForestRow> {
    let unit = stats::std_dev(&ctx.scores(name, "base")).filter(|s| *s > 0.0).unwrap_or(1.0);
    let scale = |ci: Option<[f64; 2]>| ci.map(|c| [c[0] / unit, c[1] / unit]);
    let mut out = Vec::new();
    out.extend(e.delta.map(|d| ("tuned", d / unit, scale(known(e.ci95)))));
    out.extend(e.control_delta.map(|d| ("control", d / unit, scale(known(e.control_ci95)))));
    if let Some(v) = &e.tuned_minus_control {
        out.extend(v.delta.map(|d| ("versus", d / unit, scale(known(v.ci95)))));
    }
    out
}

fn row(
    ctx: &Context<'_>,
    name: &str,
    e: &RewardEval,
    forest: &[ForestRow],
    span: (f64, f64),
) -> String {
    let ci = known(e.ci95);
    let words = match (e.delta, ci) {
        (Some(d), Some(ci)) => format!("{} <span class=\"ci\">{}</span>", signed(d), interval(ci)),
        (Some(d), None) => signed(d),
        _ => "–".to_owned(),
    };
    let mark = match ci {
        Some([lo, _]) if lo > 0.0 => {
            "<span class=\"mark good\" title=\"interval above zero\">▲</span>"
        }
        Some([_, hi]) if hi < 0.0 => {
            "<span class=\"mark bad\" title=\"interval below zero\">▼</span>"
        }
        _ => "<span class=\"mark\" title=\"interval includes zero\">○</span>",
    };
    let control = if ctx.has_control {
        format!("<td class=\"n\">{}</td>", opt(e.control))
    } else {
        String::new()
    };
    let label = format!("{name}: change {}", e.delta.map_or_else(|| "unknown".to_owned(), signed));
    format!(
        "<tr><th scope=\"row\">{}</th><td>{}</td><td>{mark} {words}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>{control}</tr>\n",
        esc(name),
        charts::forest(forest, span, &label),
        e.win_rate.map_or_else(|| "–".to_owned(), percent),
        opt(e.base),
        opt(e.tuned)
    )
}
