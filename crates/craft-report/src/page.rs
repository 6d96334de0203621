//! The page: head, sections in order, data, script.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::ReportError;
use crate::data;
use crate::html::script_json;
use crate::images::Pictures;
use crate::rewards::Context;
use crate::run::Run;
use crate::sections;

const STYLE: &str = include_str!("../assets/report.css");
const SCRIPT: &str = include_str!("../assets/report.js");

struct Section {
    /// Anchor.
    id: &'static str,
    title: &'static str,
    /// What stands below the heading.
    lead: &'static str,
    content: Markup,
}

impl Section {
    fn new(id: &'static str, title: &'static str, lead: &'static str, content: Markup) -> Self {
        Self { id, title, lead, content }
    }
}

pub(crate) fn render(run: &Run, pictures: &mut Pictures) -> Result<String, ReportError> {
    let ctx = Context::new(run);
    let data = script_json(&data::build(&ctx, pictures)?);
    let mut notes = run.notes.clone();
    notes.extend(pictures.notes());
    notes.extend(sections::checks::disagreements(&ctx));
    let parts = sections(&ctx);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content={ "craft-report " (env!("CARGO_PKG_VERSION")) };
                title { "CRAFT report: " (run.name) }
                style { "\n" (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#verdict" { "Skip to the verdict" }
                header.top {
                    div.brand { b { "CRAFT" } " report " span.run { (run.name) } }
                    nav aria-label="Sections" {
                        @for part in &parts { a href={ "#" (part.id) } { (part.title) } }
                    }
                    button #theme type="button" title="Colours: automatic, light or dark" { "Colours: auto" }
                }
                main {
                    @for part in &parts {
                        section id=(part.id) aria-labelledby={ "h-" (part.id) } {
                            h2 id={ "h-" (part.id) } { (part.title) }
                            @if !part.lead.is_empty() { p.lead { (part.lead) } }
                            (part.content)
                        }
                        @if part.id == "verdict" { (notes_box(&notes)) }
                    }
                }
                dialog #viewer tabindex="-1" aria-label="Pictures in large" {}
                script type="application/json" id="data" { (PreEscaped(&data)) }
                script { "\n" (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string() + "\n")
}

/// The sections in their order.
fn sections(ctx: &Context<'_>) -> Vec<Section> {
    let mut parts = vec![
        Section::new("verdict", "Verdict", "", sections::verdict::render(ctx)),
        Section::new(
            "gallery",
            "Gallery",
            "The same prompt and the same seed, drawn by each model; none of these prompts was trained on.",
            sections::gallery::pairs(ctx),
        ),
        Section::new(
            "distributions",
            "Score by score",
            "How the scores of the evaluation pictures moved. A mean can hide a few deep losses; these do not.",
            sections::distributions::render(ctx),
        ),
        Section::new(
            "checks",
            "Faithfulness and drift",
            "What the rewards may have traded away: facts of the prompt, and statistics that move when a reward is being hacked.",
            sections::checks::render(ctx),
        ),
    ];
    if let Some(sweep) = &ctx.run.sweep {
        parts.push(Section::new(
            "strength",
            "Strength",
            "Weights on the way from the base model (0) to the tuned one (1), and beyond: whether less or more of the tuning would have been better.",
            sections::strength::render(sweep),
        ));
    }
    parts.extend([
        Section::new(
            "funnel",
            "Selection",
            "From candidates to training samples. A candidate passes a reward when it beats the picture of its own original prompt.",
            sections::funnel::render(ctx),
        ),
        Section::new("training", "Training", "", sections::training::render(ctx)),
        Section::new(
            "prompts",
            "Every candidate",
            "Each training prompt with all its candidates, their rewards, and why they were kept or not.",
            sections::gallery::drill(ctx),
        ),
    ]);
    if let Some(plan) = &ctx.run.plan {
        parts.push(Section::new(
            "planned",
            "Planned and taken",
            "What each stage was expected to take before the run began, beside what it took.",
            sections::planned::render(ctx.run, plan),
        ));
    }
    parts.push(Section::new(
        "provenance",
        "Provenance",
        "What this run was made from, and how to make it again.",
        sections::provenance::render(ctx),
    ));
    parts
}

fn notes_box(notes: &[String]) -> Markup {
    html! {
        @if !notes.is_empty() {
            aside.notes aria-label="Notes" {
                b { "Notes on this run folder" }
                ul { @for note in notes { li { (note) } } }
            }
        }
    }
}
