//! The page of a comparison of methods, from its `compare.json`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::html::{bytes, duration, esc, num, percent, signed};
use crate::stats;
use crate::svg::{Frame, figure};
use crate::{ReportError, write};

const STYLE: &str = include_str!("../assets/report.css");
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
    write::file(&index, page(&json).as_bytes())?;
    Ok(index)
}

struct Methods<'a> {
    all: Vec<(&'a str, &'a Value)>,
    decisive: &'a str,
}

/// `+0.182` with its interval below.
fn interval(value: &Value, show: fn(f64) -> String) -> String {
    let Some(mean) = value["mean"].as_f64() else { return "–".to_owned() };
    match (value["ci95"][0].as_f64(), value["ci95"][1].as_f64()) {
        (Some(low), Some(high)) => {
            format!("{}<span class=\"ci\">{} to {}</span>", show(mean), show(low), show(high))
        }
        _ => show(mean),
    }
}

fn table(head: &[String], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut out = String::from("<div class=\"scroll card\"><table><thead><tr>");
    for (i, cell) in head.iter().enumerate() {
        out += &format!("<th{}>{cell}</th>", if i == 0 { "" } else { " class=\"n\"" });
    }
    out += "</tr></thead><tbody>";
    for row in rows {
        out += "<tr>";
        for (i, cell) in row.iter().enumerate() {
            out += &format!("<td{}>{cell}</td>", if i == 0 { "" } else { " class=\"n\"" });
        }
        out += "</tr>";
    }
    out + "</tbody></table></div>\n"
}

fn page(json: &Value) -> String {
    let none = Map::new();
    let methods = Methods {
        all: json["methods"]
            .as_object()
            .unwrap_or(&none)
            .iter()
            .map(|(n, m)| (n.as_str(), m))
            .collect(),
        decisive: json["decisive"].as_str().unwrap_or_default(),
    };
    let seeds = json["seeds"].as_array().map_or(0, Vec::len);
    let lead = format!(
        "{} methods on the same base model, prompts, candidates and evaluation; {seeds} seeds, {} prompts. Changes are against the base model. Intervals of 95 %: Student’s t over seeds for changes, percentile bootstrap over seeds and prompts for win rates.{}",
        methods.all.len(),
        json["evaluation_prompts"].as_u64().unwrap_or(0),
        if json["matmul_precision"] == "bf16" {
            " Products in bf16, those of the base model included."
        } else {
            ""
        }
    );
    let parts = [
        ("results", "Results", results(json, &methods)),
        ("curves", "Along training", curves(&methods)),
        ("convergence", "How soon", convergence(json)),
        ("cost", "Cost", cost(&methods)),
        ("search", "Choice of learning rate and length", search(&methods)),
    ];
    let nav: String =
        parts.iter().map(|(id, title, _)| format!("<a href=\"#{id}\">{title}</a>")).collect();
    let body: String = parts
        .iter()
        .map(|(id, title, content)| {
            format!("<section id=\"{id}\">\n<h2>{title}</h2>\n{content}</section>\n")
        })
        .collect();
    let colours: String = (0..16)
        .map(|i| {
            let (colour, dash) = (COLOURS[i % 8], if i < 8 { "" } else { "stroke-dasharray: 5 3;" });
            format!(".line.m{i} {{ stroke: {colour}; {dash} }} .key.m{i} {{ background: {colour}; }} .dot.m{i} {{ fill: {colour}; }}\n")
        })
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"generator\" content=\"craft-report {version}\">\n<title>Comparison of methods</title>\n\
         <style>\n{STYLE}{colours}</style>\n</head>\n<body>\n\
         <header class=\"top\"><div class=\"brand\"><b>CRAFT</b> comparison</div>\
         <nav aria-label=\"Sections\">{nav}</nav></header>\n<main>\n{conclusion}<p class=\"lead\">{lead}</p>\n{body}</main>\n</body>\n</html>\n",
        version = env!("CARGO_PKG_VERSION"),
        lead = esc(&lead),
        conclusion = conclusion(json),
    )
}

/// Which differences can be told apart from nothing.
fn conclusion(json: &Value) -> String {
    let sentences = json["conclusion"]["sentences"].as_array().into_iter().flatten();
    let lines: String = sentences
        .filter_map(Value::as_str)
        .map(|sentence| format!("<p>{}</p>\n", esc(sentence)))
        .collect();
    match lines.is_empty() {
        true => lines,
        false => {
            let shown = json["conclusion"]["told_apart"].as_u64().unwrap_or(0) > 0;
            let class = if shown { "good" } else { "amber" };
            format!("<div class=\"hero {class}\" id=\"conclusion\">\n{lines}</div>\n")
        }
    }
}

fn results(json: &Value, methods: &Methods<'_>) -> String {
    let rewards: Vec<(&str, bool)> = json["rewards"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|r| Some((r["name"].as_str()?, r["trained_on"].as_bool()?)))
        .collect();
    let mut head = vec!["method".to_owned(), "trained on".to_owned()];
    head.extend(rewards.iter().map(|(name, trained_on)| {
        let badge = if *trained_on { "" } else { " <span class=\"badge held\">held out</span>" };
        format!("{}{badge}", esc(name))
    }));
    head.extend(["wins over base".to_owned(), "wins over CRAFT".to_owned()]);
    let rows = methods.all.iter().map(|(name, method)| {
        let about = method["about"].as_str().unwrap_or_default();
        let mean = &method["mean"];
        let trained = match mean["pairs"].as_f64().filter(|p| *p > 0.0) {
            Some(pairs) => format!("{pairs:.0} pairs"),
            None => mean["samples"].as_f64().map_or("–".to_owned(), |n| format!("{n:.0}")),
        };
        let lost: Vec<String> =
            method["diverged"].as_array().into_iter().flatten().map(Value::to_string).collect();
        let lost = match lost.is_empty() {
            true => String::new(),
            false => format!("<span class=\"ci\">diverged on seed {}</span>", lost.join(", ")),
        };
        let name = format!("<b>{}</b><span class=\"ci\">{}</span>{lost}", esc(name), esc(about));
        let mut cells = vec![name, trained];
        let reward = |reward: &str| &method["rewards"][reward];
        cells.extend(rewards.iter().map(|(r, _)| interval(&reward(r)["change"], signed)));
        let own = reward(methods.decisive);
        cells.push(interval(&own["win_rate"], percent));
        cells.push(interval(&own["win_rate_against_craft"], percent));
        cells
    });
    table(&head, rows)
}

fn curves(methods: &Methods<'_>) -> String {
    let points = |method: &Value, x: &str, y: &str| -> Vec<(f64, f64)> {
        let seeds: Vec<&Value> =
            method["seeds"].as_object().into_iter().flat_map(Map::values).collect();
        let seeds: Vec<&Value> = seeds.into_iter().filter(|s| s["diverged"].is_null()).collect();
        let looks = seeds.iter().filter_map(|s| s["curve"].as_array()).map(Vec::len).min();
        let mean = |i: usize, pick: &dyn Fn(&Value) -> Option<f64>| {
            let all: Vec<f64> = seeds.iter().filter_map(|s| pick(&s["curve"][i])).collect();
            stats::mean(&all)
        };
        let later = (0..looks.unwrap_or(0)).filter_map(|i| {
            Some((mean(i, &|p| p[x].as_f64())?, mean(i, &|p| p["gains"][y].as_f64())?))
        });
        std::iter::once((0.0, 0.0)).chain(later).collect()
    };
    let mut out = String::from("<div class=\"charts\">\n");
    for (reward, x, unit) in [
        (methods.decisive, "sample_passes", "samples through the network"),
        (methods.decisive, "seconds", "seconds of training"),
        ("checker", "sample_passes", "samples through the network"),
    ] {
        let sets: Vec<Line<'_>> = methods
            .all
            .iter()
            .enumerate()
            .map(|(i, (name, method))| (i, *name, points(method, x, reward)))
            .filter(|(_, _, points)| points.len() > 1)
            .collect();
        out += &lines(&format!("Change of {reward}"), unit, &sets);
    }
    out + "</div>\n<p class=\"fine\">Means over seeds, on a part of the evaluation's prompts.</p>\n"
}

/// Place of the method, its name and its points.
type Line<'a> = (usize, &'a str, Vec<(f64, f64)>);

fn lines(title: &str, x_title: &str, sets: &[Line<'_>]) -> String {
    let side = |pick: fn(&(f64, f64)) -> f64| -> Vec<f64> {
        sets.iter().flat_map(|s| s.2.iter().map(pick)).collect()
    };
    let (xs, ys) = (side(|p| p.0), side(|p| p.1));
    let (Some((x0, x1)), Some((y0, y1))) =
        (stats::extent([xs.as_slice()]), stats::extent([ys.as_slice()]))
    else {
        return String::new();
    };
    let f = Frame::SQUARE;
    let pad = (y1 - y0) * 0.04;
    let (x, y) = (f.x(x0, x1), f.y(y0 - pad, y1 + pad));
    let mut svg = f.open(&format!("{title} by {x_title}")) + &f.axes(&x, &y, x_title, "change");
    let mut legend = Vec::new();
    let classes: Vec<String> = sets.iter().map(|(i, _, _)| format!("m{}", i % 16)).collect();
    for ((_, name, points), class) in sets.iter().zip(&classes) {
        let path: Vec<String> =
            points.iter().map(|p| format!("{:.1},{:.1}", x.at(p.0), y.at(p.1))).collect();
        svg += &format!(
            "<polyline class=\"line {class}\" points=\"{}\"><title>{}</title></polyline>",
            path.join(" "),
            esc(name)
        );
        for (px, py) in points.iter().skip(1) {
            svg += &format!(
                "<circle class=\"dot {class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"><title>{}: {} at {}</title></circle>",
                x.at(*px),
                y.at(*py),
                esc(name),
                signed(*py),
                num(*px)
            );
        }
        legend.push((class.as_str(), (*name).to_owned()));
    }
    figure(title, "", &legend, &(svg + "</svg>"))
}

fn convergence(json: &Value) -> String {
    let found = &json["convergence"];
    let Some(methods) = found["methods"].as_object() else {
        return "<p class=\"absent\">Needs Diffusion-DPO among the methods.</p>\n".to_owned();
    };
    let lead = format!(
        "Until {} has changed by {}, the best that {} reaches, on the prompts of the curves. Candidates are drawn and scored once for all methods of a seed; the column “with preparation” counts them in full for each method that uses them.",
        found["reward"].as_str().unwrap_or_default(),
        signed(found["target"].as_f64().unwrap_or(f64::NAN)),
        found["of"].as_str().unwrap_or_default()
    );
    let head = [
        "method",
        "sample passes",
        "training",
        "processor",
        "with preparation",
        "passes to CRAFT’s",
        "training to CRAFT’s",
        "processor to CRAFT’s",
        "all to CRAFT’s",
    ];
    let rows = methods.iter().map(|(name, m)| {
        let reached = |key: &str, show: fn(f64) -> String| {
            m[key].as_f64().map_or_else(|| "never".to_owned(), show)
        };
        let ratio =
            |key: &str| m[key].as_f64().map_or_else(|| "–".to_owned(), |r| format!("{} ×", num(r)));
        vec![
            esc(name),
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
    format!("<p class=\"lead\">{}</p>\n", esc(&lead)) + &table(&head.map(str::to_owned), rows)
}

fn cost(methods: &Methods<'_>) -> String {
    let head = [
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
    ];
    let rows = methods.all.iter().map(|(name, method)| {
        let mean = &method["mean"];
        let show = |v: &Value, show: fn(f64) -> String| v.as_f64().map_or("–".to_owned(), show);
        let whole = |key: &str| show(&mean[key], |v| format!("{v:.0}"));
        let seconds = |part: &str| show(&mean["seconds"][part], duration);
        vec![
            esc(name),
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
    table(&head.map(str::to_owned), rows)
}

fn search(methods: &Methods<'_>) -> String {
    let mut rows = Vec::new();
    for (name, method) in &methods.all {
        let found = &method["search"];
        for trial in found["trials"].as_array().into_iter().flatten() {
            let looks: Vec<String> = trial["gains"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|g| Some(format!("{} ({})", signed(g[1].as_f64()?), g[0].as_u64()?)))
                .collect();
            let rate = &trial["learning_rate"];
            let stopped =
                trial["stopped"].as_str().map_or(String::new(), |why| format!(" {}", esc(why)));
            let chosen = *rate == found["chosen"]["learning_rate"];
            let steps = found["chosen"]["steps"].as_u64().unwrap_or(0);
            rows.push(vec![
                esc(name),
                rate.as_f64().map_or("–".to_owned(), num),
                esc(&looks.join(", ")) + &stopped,
                if chosen { format!("{steps} steps") } else { String::new() },
            ]);
        }
    }
    if rows.is_empty() {
        return "<p class=\"absent\">No search: every method has the recipe's learning rate.</p>\n"
            .to_owned();
    }
    let head = ["method", "learning rate", "change (after steps)", "chosen"];
    "<p class=\"lead\">On prompts that nothing is reported on, with the candidates of the first seeds; the mean over them.</p>\n"
        .to_owned()
        + &table(&head.map(str::to_owned), rows)
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
