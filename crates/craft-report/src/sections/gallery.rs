//! Shells of the gallery and the drill-down; the script fills them.

use maud::{Markup, html};

use crate::html::absent;
use crate::rewards::Context;

pub(crate) fn pairs(ctx: &Context<'_>) -> Markup {
    if ctx.pairs.is_empty() {
        return absent("Evaluation pictures");
    }
    html! {
        div.tools role="group" aria-label="Order and filter" {
            label {
                "change of "
                select #g-reward {
                    @for r in &ctx.rewards {
                        option value=(r.name) { (r.name) " (" (r.role.words()) ")" }
                    }
                }
            }
            span.segments #g-order role="group" aria-label="Order" {
                button type="button" data-order="worst" aria-pressed="true" { "worst first" }
                button type="button" data-order="best" aria-pressed="false" { "best first" }
                button type="button" data-order="random" aria-pressed="false" { "random" }
                button type="button" data-order="prompt" aria-pressed="false" { "in order" }
            }
            label { "prompt has " input #g-text type="search" placeholder="words"; }
            span.fine #g-count role="status" {}
        }
        @if !ctx.has_control { p.absent { "Random control: not in this run." } }
        @if let Some(shown) = ctx.run.evaluated.words() {
            p.fine {
                "Pictures are shown of " (shown) ", evenly spread. Every number on this page is over all of them."
            }
        }
        p.fine {
            "The pairs that lost most come first, so that nothing bad stays hidden; they are the exceptions, "
            "not the average. “Best first” and “random” show the others."
        }
        div.pairs #g-grid {}
        p.more { button type="button" #g-more { "Show more" } }
        p.fine {
            "Arrow keys move between pairs, Enter opens one in large; there, arrows step on and F flips base and tuned in place."
        }
        noscript { p.absent { "The gallery needs JavaScript." } }
    }
}

pub(crate) fn drill(ctx: &Context<'_>) -> Markup {
    let candidates = &ctx.run.candidates;
    if !candidates.are_drawn() {
        return absent("Candidates");
    }
    html! {
        @if candidates.scored.is_none() { (absent("Rewards of candidates")) }
        @if !candidates.are_judged() { (absent("Selection")) }
        @if let Some(shown) = candidates.part.words() {
            p.fine {
                "Candidates are shown of " (shown) ": those with selected samples first, then others evenly spread. "
                "Every number on this page is over all " (candidates.funnel.candidates) " candidates. "
                "report.max_prompts in the recipe sets how many are shown, as far as the page has room."
            }
        }
        div.drill {
            div.side {
                div.tools {
                    label { "prompt has " input #d-text type="search" placeholder="words"; }
                    label {
                        "show "
                        select #d-show {
                            option value="all" { "all" }
                            option value="selected" { "with a selected one" }
                            option value="passed" { "with one that passed" }
                            option value="none" { "none passed" }
                        }
                    }
                }
                p.fine #d-count role="status" {}
                ul #d-list aria-label="Training prompts" {}
            }
            div.detail #d-detail aria-live="polite" {}
        }
        noscript { p.absent { "The drill-down needs JavaScript." } }
    }
}
