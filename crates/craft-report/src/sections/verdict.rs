//! Verdict at the top: headline, tiles, tables of held-out and trained-on rewards.

use maud::{Markup, html};

use super::tables;
use crate::charts;
use crate::html::{bytes, duration, interval, percent, signed};
use crate::rewards::{Context, Role};
use crate::verdict::{self, Level};

pub(crate) fn render(ctx: &Context<'_>) -> Markup {
    let v = verdict::judge(ctx);
    html! {
        div.hero.(v.level.class()) {
            p.headline { (lamp(v.level)) (v.headline) }
            dl {
                @for (about, text) in &v.sentences { dt { (about) } dd { (together(text)) } }
            }
            @if !v.missing.is_empty() {
                p.lead { "To say that it worked, this run lacks" }
                ul.missing { @for condition in &v.missing { li { (together(condition)) } } }
            }
        }
        div.tiles { (reward_tiles(ctx)) (cost_tiles(ctx)) }
        (lamps(ctx))
        (tables::render(ctx))
    }
}

/// A coloured dot; the page says its level in words, too.
pub(super) fn lamp(level: Level) -> Markup {
    html! { i.lamp.(level.class()) aria-hidden="true" {} }
}

/// Keeps a number and its % sign on one line.
fn together(text: &str) -> String {
    text.replace(" %", "\u{a0}%")
}

fn tile(class: &str, label: &str, value: &str, small: &str, extra: Markup) -> Markup {
    html! {
        div class={ "tile " (class) } {
            span.label { (label) }
            span.value { (together(value)) }
            (extra)
            span.small { (together(small)) }
        }
    }
}

fn reward_tiles(ctx: &Context<'_>) -> Markup {
    html! {
        @for name in ctx.of_role(Role::HeldOut) { (held_out_tiles(ctx, name)) }
        @if let Some(e) = ctx.eval("checker") {
            @let control = e.control.map_or_else(String::new, |c| format!("; control {:.1} %", c * 100.0));
            (tile(
                "checker",
                "checker: facts shown correctly",
                &format!("{:.1} %", e.tuned * 100.0),
                &format!("base {:.1} %{control}", e.base * 100.0),
                html! {},
            ))
        }
    }
}

fn held_out_tiles(ctx: &Context<'_>, name: &str) -> Markup {
    let Some(e) = ctx.eval(name) else { return html! {} };
    let ci = verdict::win_interval(e, ctx.eval_prompts());
    let words = ci.map_or_else(String::new, |[a, b]| {
        format!("95 % interval {:.0} to {:.0} %", a * 100.0, b * 100.0)
    });
    let ties = match e.ties > 0.0 {
        true => format!("; ties {}", percent(e.ties)),
        false => String::new(),
    };
    let label = format!("win rate {}, {words}", percent(e.win_rate));
    html! {
        (tile(
            "held",
            &format!("held-out win rate, {name}"),
            &percent(e.win_rate),
            &format!("tuned against base, {words}{ties}"),
            charts::rate_bar("tuned", e.win_rate, ci, Some(0.5), &label),
        ))
        @if let Some(lead) = &e.tuned_minus_control {
            (tile(
                "held",
                &format!("CRAFT − control, {name}"),
                &signed(lead.delta),
                &format!("95 % {}; wins {}", interval(lead.ci95), percent(lead.win_rate)),
                html! {},
            ))
        }
    }
}

fn cost_tiles(ctx: &Context<'_>) -> Markup {
    let run = ctx.run;
    let from_stages: f64 = run.stages.iter().map(|s| s.manifest.seconds).sum();
    let said = run.totals.as_ref().map(|totals| totals.total_seconds());
    let total = said.or((from_stages > 0.0).then_some(from_stages));
    let memory = run.totals.as_ref().map_or_else(String::new, |totals| {
        format!("peak memory {}", bytes(totals.peak_rss_bytes as f64))
    });
    let funnel = &run.candidates.funnel;
    let judged =
        run.samples.as_ref().map_or_else(String::new, |s| format!("and {} to evaluate; ", s.len()));
    let selected = match run.candidates.are_judged() {
        true => format!("{} selected to train on", funnel.selected),
        false => String::new(),
    };
    html! {
        @if let Some(seconds) = total {
            (tile("", "time spent", &duration(seconds), &memory, html! {}))
        }
        @if funnel.candidates > 0 {
            (tile(
                "",
                "pictures drawn as candidates",
                &funnel.candidates.to_string(),
                &format!("{judged}{selected}"),
                html! {},
            ))
        }
    }
}

fn lamps(ctx: &Context<'_>) -> Markup {
    let mut lamps = verdict::lamps(ctx);
    let is_lit = |level: Level| matches!(level, Level::Unclear | Level::Bad);
    lamps.sort_by_key(|l| !is_lit(l.level));
    let lit = lamps.iter().filter(|l| is_lit(l.level)).count();
    html! {
        @if !lamps.is_empty() {
            div.lamps {
                b {
                    "Signs of reward hacking: "
                    @if lit == 0 { "none lit" } @else { (lit) " of " (lamps.len()) " lit" }
                }
                @for l in &lamps {
                    span.chip.(l.level.class()) {
                        (lamp(l.level)) (l.name) ": " (l.text) " " em { "(" (l.level.word()) ")" }
                    }
                }
            }
        }
    }
}
