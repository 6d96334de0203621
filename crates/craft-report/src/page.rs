//! The page: head, sections in order, data, script.

use crate::ReportError;
use crate::data;
use crate::funnel;
use crate::html::{esc, script_json};
use crate::images::Pictures;
use crate::rewards::Context;
use crate::run::Run;
use crate::sections;

const STYLE: &str = include_str!("../assets/report.css");
const SCRIPT: &str = include_str!("../assets/report.js");

/// Anchor, heading, and what the heading says below it.
type Section = (&'static str, &'static str, &'static str, String);

pub(crate) fn render(run: &Run, pictures: &mut Pictures) -> Result<String, ReportError> {
    let ctx = Context::new(run);
    let funnel = funnel::count(run);
    let data = data::build(&ctx, pictures)?;
    let mut notes = run.notes.clone();
    notes.extend(pictures.notes());
    notes.extend(sections::checks::disagreements(&ctx));
    let mut parts: Vec<Section> = vec![
        ("verdict", "Verdict", "", sections::verdict::render(&ctx, &funnel)),
        (
            "gallery",
            "Gallery",
            "The same prompt and the same seed, drawn by each model; none of these prompts was trained on.",
            sections::gallery::pairs(&ctx),
        ),
        (
            "distributions",
            "Score by score",
            "How the scores of the evaluation pictures moved. A mean can hide a few deep losses; these do not.",
            sections::distributions::render(&ctx),
        ),
        (
            "checks",
            "Faithfulness and drift",
            "What the rewards may have traded away: facts of the prompt, and statistics that move when a reward is being hacked.",
            sections::checks::render(&ctx),
        ),
        (
            "funnel",
            "Selection",
            "From candidates to training samples. A candidate passes a reward when it beats the picture of its own original prompt.",
            sections::funnel::render(&ctx, &funnel),
        ),
        ("training", "Training", "", sections::training::render(&ctx)),
        (
            "prompts",
            "Every candidate",
            "Each training prompt with all its candidates, their rewards, and why they were kept or not.",
            sections::gallery::drill(&ctx),
        ),
        (
            "provenance",
            "Provenance",
            "What this run was made from, and how to make it again.",
            sections::provenance::render(&ctx),
        ),
    ];
    if let Some(sweep) = &run.sweep {
        let place = parts.iter().position(|(id, ..)| *id == "funnel").unwrap_or(parts.len());
        let lead = "Weights on the way from the base model (0) to the tuned one (1), and beyond: whether less or more of the tuning would have been better.";
        parts.insert(place, ("strength", "Strength", lead, sections::strength::render(sweep)));
    }
    let mut nav = String::new();
    let mut body = String::new();
    for (id, title, lead, content) in &parts {
        nav += &format!("<a href=\"#{id}\">{title}</a>");
        let lead =
            if lead.is_empty() { String::new() } else { format!("<p class=\"lead\">{lead}</p>\n") };
        body += &format!(
            "<section id=\"{id}\" aria-labelledby=\"h-{id}\">\n<h2 id=\"h-{id}\">{title}</h2>\n{lead}{content}</section>\n"
        );
        if *id == "verdict" {
            body += &notes_box(&notes);
        }
    }
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"generator\" content=\"craft-report {version}\">\n<title>CRAFT report: {name}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#verdict\">Skip to the verdict</a>\n\
         <header class=\"top\"><div class=\"brand\"><b>CRAFT</b> report <span class=\"run\">{name}</span></div>\
         <nav aria-label=\"Sections\">{nav}</nav>\
         <button id=\"theme\" type=\"button\" title=\"Colours: automatic, light or dark\">Colours: auto</button></header>\n\
         <main>\n{body}</main>\n\
         <dialog id=\"viewer\" tabindex=\"-1\" aria-label=\"Pictures in large\"></dialog>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        version = env!("CARGO_PKG_VERSION"),
        name = esc(&run.name),
        data = script_json(&data),
    ))
}

fn notes_box(notes: &[String]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let items: String = notes.iter().map(|n| format!("<li>{}</li>", esc(n))).collect();
    format!(
        "<aside class=\"notes\" aria-label=\"Notes\"><b>Notes on this run folder</b><ul>{items}</ul></aside>\n"
    )
}
