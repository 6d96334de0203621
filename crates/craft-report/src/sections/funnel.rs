//! Selection: the funnel, reasons, dropped candidates, weights, how rewards agree.

use maud::{Markup, html};

use crate::charts;
use crate::funnel::{Funnel, dropped};
use crate::html::absent;
use crate::rewards::Context;

/// Rows of a list of reasons.
const REASONS: usize = 12;

pub(crate) fn render(ctx: &Context<'_>) -> Markup {
    let candidates = &ctx.run.candidates;
    if !candidates.are_drawn() && !candidates.are_judged() {
        return absent("Candidates and selection");
    }
    let funnel = &candidates.funnel;
    html! {
        div.columns {
            div.card { h3 { "Funnel" } (bars(ctx, funnel)) }
            div.card {
                h3 { "Why candidates fell" }
                @if funnel.reasons.is_empty() { p.absent { "No reasons recorded." } }
                @else { (list(&funnel.reasons)) }
                h3 { "Dropped by stages" }
                (dropped_by_stages(ctx))
            }
        }
        div.charts {
            (charts::bars("Weights of the selected samples", "weight in the loss", &funnel.weights, 20))
            (agreement(ctx))
        }
    }
}

/// A bar of the funnel: `n` of `of`, drawn as a share of `whole`.
struct Bar<'a> {
    label: &'a str,
    class: &'a str,
    n: usize,
    of: usize,
    what: &'a str,
}

impl Bar<'_> {
    fn render(&self, whole: usize) -> Markup {
        let share = self.n as f64 / self.of.max(1) as f64 * 100.0;
        let width = self.n as f64 / whole as f64 * 100.0;
        html! {
            li class=(self.class) {
                span.name { (self.label) }
                span.track { span style=(format!("width:{width:.1}%")) {} }
                span.n { (self.n) }
                span.share { (format!("{share:.0} % of ")) (self.what) }
            }
        }
    }
}

fn bars(ctx: &Context<'_>, f: &Funnel) -> Markup {
    let candidates = &ctx.run.candidates;
    let whole = f.candidates.max(f.judged).max(1);
    let bar = |label: &str, class: &str, n: usize, of: usize, what: &str| {
        Bar { label, class, n, of, what }.render(whole)
    };
    let all = format!("all, over {} prompts", f.prompts);
    html! {
        ol.funnel {
            @if f.candidates > 0 {
                (bar("candidates drawn", "", f.candidates, f.candidates, &all))
            }
            @if let Some(scored) = candidates.scored {
                (bar("scored by every reward", "", scored, whole, "candidates"))
            }
            @if candidates.are_judged() {
                (bar("other wordings, judged", "", f.judged, whole, "candidates"))
                @for (reward, n) in &f.passed_by {
                    (bar(&format!("passed {reward}"), "single", *n, f.judged, "judged"))
                }
                (bar("passed the filter", "", f.passed, f.judged, "judged"))
                (bar("selected to train on", "final", f.selected, f.passed, "passed"))
            }
        }
        @if candidates.are_judged() {
            p.fine {
                (f.prompts_passed) " of " (f.prompts) " prompts have a candidate that passed, " (f.prompts_selected)
                " a selected one. The bars of single rewards are independent of each other."
                @if let Some(control) = candidates.control {
                    " The random control trains on " (control) " candidates."
                }
            }
        } @else { (absent("Selection")) }
    }
}

fn dropped_by_stages(ctx: &Context<'_>) -> Markup {
    let rows: Vec<(String, usize)> = dropped(ctx.run)
        .into_iter()
        .map(|(stage, reason, n, id)| (format!("{stage}: {reason} (first: {id})"), n))
        .collect();
    match rows.is_empty() {
        true => html! { p.absent { "Nothing was dropped for an error or a missing score." } },
        false => list(&rows),
    }
}

fn list(rows: &[(String, usize)]) -> Markup {
    html! {
        table.reasons {
            tbody {
                @for (text, n) in rows.iter().take(REASONS) { tr { td.n { (n) } td { (text) } } }
            }
        }
    }
}

/// Rank correlation of rewards over candidates, each against the mean of its prompt.
fn agreement(ctx: &Context<'_>) -> Markup {
    let Some(found) = &ctx.run.candidates.agreement else {
        return html! {};
    };
    // In the order of the page.
    let place = |name: &str| found.rewards.iter().position(|reward| reward == name);
    let places: Vec<usize> = ctx.rewards.iter().filter_map(|r| place(&r.name)).collect();
    html! {
        figure.chart {
            figcaption { b { "How rewards agree within a prompt" } }
            div.scroll {
                table.matrix {
                    thead { tr { th {} @for i in &places { th { (found.rewards[*i]) } } } }
                    tbody {
                        @for i in &places {
                            tr {
                                th scope="row" { (found.rewards[*i]) }
                                @for j in &places { (correlation(found.correlations[*i][*j])) }
                            }
                        }
                    }
                }
            }
            p.fine {
                "Spearman's rank correlation over candidates, centred on each prompt. Rewards that agree fully "
                "filter no more than one of them would."
            }
        }
    }
}

fn correlation(r: Option<f64>) -> Markup {
    html! {
        @if let Some(r) = r {
            td style=(format!("--r:{:.0}%", r.abs() * 60.0)) { (format!("{r:.2}").replace('-', "−")) }
        } @else { td { "–" } }
    }
}
