//! The page of a comparison of methods, from its `compare.json`.

mod curves;

use std::path::{Path, PathBuf};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::{Map, Value};

use crate::html::{bytes, duration, num, percent, signed};
use crate::{ReportError, write};

const STYLE: &str = include_str!("../../assets/report.css");
/// Colours of methods in their order; the first is CRAFT's. Told apart by hue and, beyond eight, by dashes.
const COLOURS: [&str; 8] =
    ["#1d63d8", "#7d8796", "#c2620a", "#12805c", "#c22f2f", "#7a3fc4", "#0b7c8c", "#b0871b"];

/// Reads `compare.json` of the folder of a comparison and writes `report/index.html` beside it. Returns the
/// path of the page, which needs no network.
///
/// # Errors
/// [`ReportError::BadFile`] when `compare.json` does not parse, [`ReportError::Store`] when reading or writing fails.
pub fn write_comparison(dir: &Path) -> Result<PathBuf, ReportError> {
    let path = dir.join("compare.json");
    let text = craft_store::input::read_text(&path, craft_store::input::MAX_TEXT)?;
    let json: Value = serde_json::from_str(&text)
        .map_err(|e| ReportError::BadFile { path: path.clone(), message: e.to_string() })?;
    let report = dir.join("report");
    write::folder(&report)?;
    let index = report.join("index.html");
    write::file(&index, page(&json).into_string().as_bytes())?;
    Ok(index)
}

struct Methods<'a> {
    all: Vec<(&'a str, &'a Value)>,
    decisive: &'a str,
}

/// A cell of words.
fn words(text: impl Into<String>) -> Markup {
    let text = text.into();
    html! { (text) }
}

/// `+0.182` with its interval below.
fn interval(value: &Value, show: fn(f64) -> String) -> Markup {
    let ends = value["ci95"][0].as_f64().zip(value["ci95"][1].as_f64());
    html! {
        @match value["mean"].as_f64() {
            None => { "–" }
            Some(mean) => {
                (show(mean))
                @if let Some((low, high)) = ends { span.ci { (show(low)) " to " (show(high)) } }
            }
        }
    }
}

fn table(head: &[Markup], rows: impl IntoIterator<Item = Vec<Markup>>) -> Markup {
    let class = |i: usize| (i > 0).then_some("n");
    html! {
        div.scroll.card {
            table {
                thead { tr { @for (i, cell) in head.iter().enumerate() { th class=[class(i)] { (cell) } } } }
                tbody {
                    @for row in rows {
                        tr { @for (i, cell) in row.iter().enumerate() { td class=[class(i)] { (cell) } } }
                    }
                }
            }
        }
    }
}

fn named(head: &[&str]) -> Vec<Markup> {
    head.iter().map(|name| words(*name)).collect()
}

fn page(json: &Value) -> Markup {
    let none = Map::new();
    let all = json["methods"].as_object().unwrap_or(&none).iter();
    let methods = Methods {
        all: all.map(|(n, m)| (n.as_str(), m)).collect(),
        decisive: json["decisive"].as_str().unwrap_or_default(),
    };
    let seeds = json["seeds"].as_array().map_or(0, Vec::len);
    let parts = [
        ("results", "Results", results(json, &methods)),
        ("curves", "Along training", curves::render(&methods)),
        ("convergence", "How soon", convergence(json)),
        ("cost", "Cost", cost(&methods)),
        ("search", "Choice of learning rate and length", search(&methods)),
    ];
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content={ "craft-report " (env!("CARGO_PKG_VERSION")) };
                title { "Comparison of methods" }
                style { "\n" (PreEscaped(STYLE)) (PreEscaped(colours())) }
            }
            body {
                header.top {
                    div.brand { b { "CRAFT" } " comparison" }
                    nav aria-label="Sections" {
                        @for (id, title, _) in &parts { a href={ "#" (id) } { (title) } }
                    }
                }
                main {
                    (conclusion(json))
                    p.lead {
                        (methods.all.len()) " methods on the same base model, prompts, candidates and evaluation; "
                        (seeds) " seeds, " (json["evaluation_prompts"].as_u64().unwrap_or(0)) " prompts. Changes are against the base model. "
                        "Intervals of 95 %: Student’s t over seeds for changes, percentile bootstrap over seeds and prompts for win rates."
                        @if json["matmul_precision"] == "bf16" { " Products in bf16, those of the base model included." }
                    }
                    @for (id, title, content) in &parts { section id=(id) { h2 { (title) } (content) } }
                }
            }
        }
    }
}

/// The style of each method's line, key and dot.
fn colours() -> String {
    let style = |i: usize| {
        let (colour, dash) = (COLOURS[i % 8], if i < 8 { "" } else { "stroke-dasharray: 5 3;" });
        format!(
            ".line.m{i} {{ stroke: {colour}; {dash} }} .key.m{i} {{ background: {colour}; }} .dot.m{i} {{ fill: {colour}; }}\n"
        )
    };
    (0..16).map(style).collect()
}

/// Which differences can be told apart from nothing.
fn conclusion(json: &Value) -> Markup {
    let sentences = json["conclusion"]["sentences"].as_array().into_iter().flatten();
    let lines: Vec<&str> = sentences.filter_map(Value::as_str).collect();
    let shown = json["conclusion"]["told_apart"].as_u64().unwrap_or(0) > 0;
    let class = if shown { "good" } else { "amber" };
    html! {
        @if !lines.is_empty() {
            div.hero.(class) id="conclusion" { @for line in lines { p { (line) } } }
        }
    }
}

fn results(json: &Value, methods: &Methods<'_>) -> Markup {
    let rewards: Vec<(&str, bool)> = json["rewards"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|r| Some((r["name"].as_str()?, r["trained_on"].as_bool()?)))
        .collect();
    let mut head = named(&["method", "trained on"]);
    head.extend(rewards.iter().map(|(name, trained_on)| {
        html! { (name) @if !trained_on { " " span.badge.held { "held out" } } }
    }));
    head.extend(named(&["wins over base", "wins over CRAFT"]));
    let rows = methods.all.iter().map(|(name, method)| {
        let mean = &method["mean"];
        let trained = match mean["pairs"].as_f64().filter(|p| *p > 0.0) {
            Some(pairs) => format!("{pairs:.0} pairs"),
            None => mean["samples"].as_f64().map_or("–".to_owned(), |n| format!("{n:.0}")),
        };
        let mut cells = vec![method_name(name, method), words(trained)];
        let reward = |reward: &str| &method["rewards"][reward];
        cells.extend(rewards.iter().map(|(r, _)| interval(&reward(r)["change"], signed)));
        let own = reward(methods.decisive);
        cells.push(interval(&own["win_rate"], percent));
        cells.push(interval(&own["win_rate_against_craft"], percent));
        cells
    });
    table(&head, rows)
}

/// A method with what it is, and the seeds on which it diverged.
fn method_name(name: &str, method: &Value) -> Markup {
    let lost: Vec<String> =
        method["diverged"].as_array().into_iter().flatten().map(Value::to_string).collect();
    html! {
        b { (name) } span.ci { (method["about"].as_str().unwrap_or_default()) }
        @if !lost.is_empty() { span.ci { "diverged on seed " (lost.join(", ")) } }
    }
}

fn convergence(json: &Value) -> Markup {
    let found = &json["convergence"];
    let Some(methods) = found["methods"].as_object() else {
        return html! { p.absent { "Needs Diffusion-DPO among the methods." } };
    };
    let head = named(&[
        "method",
        "sample passes",
        "training",
        "processor",
        "with preparation",
        "passes to CRAFT’s",
        "training to CRAFT’s",
        "processor to CRAFT’s",
        "all to CRAFT’s",
    ]);
    let rows = methods.iter().map(|(name, m)| {
        let reached = |key: &str, show: fn(f64) -> String| {
            words(m[key].as_f64().map_or_else(|| "never".to_owned(), show))
        };
        let ratio = |key: &str| {
            words(m[key].as_f64().map_or_else(|| "–".to_owned(), |r| format!("{} ×", num(r))))
        };
        vec![
            words(name),
            reached("sample_passes", |v| format!("{v:.0}")),
            reached("seconds_of_training", duration),
            reached("processor_seconds_of_training", duration),
            reached("seconds_with_preparation", duration),
            ratio("ratio_of_passes"),
            ratio("ratio_of_training"),
            ratio("ratio_of_processor_seconds"),
            ratio("ratio_with_preparation"),
        ]
    });
    html! {
        p.lead {
            "Until " (found["reward"].as_str().unwrap_or_default()) " has changed by "
            (signed(found["target"].as_f64().unwrap_or(f64::NAN))) ", the best that "
            (found["of"].as_str().unwrap_or_default()) " reaches, on the prompts of the curves. "
            "Candidates are drawn and scored once for all methods of a seed; the column “with preparation” counts them in full "
            "for each method that uses them."
        }
        (table(&head, rows))
    }
}

fn cost(methods: &Methods<'_>) -> Markup {
    let head = named(&[
        "method",
        "drawn",
        "annotated",
        "learning rate",
        "steps",
        "sample passes",
        "generation",
        "scoring",
        "data",
        "training",
        "evaluation",
        "peak memory",
    ]);
    let rows = methods.all.iter().map(|(name, method)| {
        let mean = &method["mean"];
        let show = |v: &Value, show: fn(f64) -> String| {
            words(v.as_f64().map_or_else(|| "–".to_owned(), show))
        };
        let whole = |key: &str| show(&mean[key], |v| format!("{v:.0}"));
        let seconds = |part: &str| show(&mean["seconds"][part], duration);
        vec![
            words(*name),
            whole("images_generated"),
            whole("images_annotated"),
            show(&mean["learning_rate"], num),
            whole("steps"),
            whole("sample_passes"),
            seconds("generation"),
            seconds("scoring"),
            seconds("data"),
            seconds("training"),
            seconds("evaluation"),
            show(&mean["peak_rss_bytes"], bytes),
        ]
    });
    table(&head, rows)
}

fn search(methods: &Methods<'_>) -> Markup {
    let trials = |(name, method): &(&str, &Value)| -> Vec<Vec<Markup>> {
        let found = &method["search"];
        let trials = found["trials"].as_array().into_iter().flatten();
        trials.map(|trial| trial_row(name, found, trial)).collect()
    };
    let rows: Vec<Vec<Markup>> = methods.all.iter().flat_map(trials).collect();
    let head = named(&["method", "learning rate", "change (after steps)", "chosen"]);
    html! {
        @if rows.is_empty() {
            p.absent { "No search: every method has the recipe's learning rate." }
        } @else {
            p.lead { "On prompts that nothing is reported on, with the candidates of the first seeds; the mean over them." }
            (table(&head, rows))
        }
    }
}

fn trial_row(name: &str, found: &Value, trial: &Value) -> Vec<Markup> {
    let looks: Vec<String> = trial["gains"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|g| Some(format!("{} ({})", signed(g[1].as_f64()?), g[0].as_u64()?)))
        .collect();
    let rate = &trial["learning_rate"];
    let chosen = *rate == found["chosen"]["learning_rate"];
    let steps = found["chosen"]["steps"].as_u64().unwrap_or(0);
    vec![
        words(name),
        words(rate.as_f64().map_or_else(|| "–".to_owned(), num)),
        html! { (looks.join(", ")) @if let Some(why) = trial["stopped"].as_str() { " " (why) } },
        html! { @if chosen { (steps) " steps" } },
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_page_shows_what_is_there_and_cannot_be_broken_by_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let curve = json!([
            {"step": 5, "sample_passes": 40, "seconds": 1.5, "gains": {"ir": 0.1}},
            {"step": 9, "sample_passes": 72, "seconds": 2.5, "gains": {"ir": 0.25}}
        ]);
        let method = json!({
            "about": "a <b>", "rewards": {"ir": {"change": {"mean": 0.2, "ci95": [0.1, 0.3]}}},
            "mean": {"samples": 100.0, "pairs": 0.0}, "seeds": {"1": {"curve": curve}},
        });
        let json = json!({
            "seeds": [1], "decisive": "ir", "rewards": [{"name": "ir", "trained_on": false}],
            "methods": {"craft": method, "<script>": {}},
            "conclusion": {"told_apart": 0, "sentences": ["Nothing can be told apart <"]},
            "convergence": {"of": "dpo", "reward": "ir", "target": 0.1, "methods": {"craft": {"sample_passes": 40.0}}},
        });
        std::fs::write(dir.path().join("compare.json"), json.to_string()).unwrap();
        let page = std::fs::read_to_string(write_comparison(dir.path()).unwrap()).unwrap();
        for part in [
            "+0.200",
            "+0.100 to +0.300",
            "a &lt;b&gt;",
            "polyline",
            "never",
            "held out",
            "hero amber",
            "told apart &lt;",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(
            !page.contains("<script>") && !page.contains("http://") && !page.contains("https://")
        );
        std::fs::write(dir.path().join("compare.json"), "{").unwrap();
        assert!(write_comparison(dir.path()).is_err());
    }
}
