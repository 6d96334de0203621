//! The comparison as Markdown tables, from `compare.json`.

use std::fmt::Write;

use serde_json::{Map, Value};

/// `+0.182 (+0.165 to +0.200)` of a mean with its interval.
fn interval(value: &Value, percent: bool) -> String {
    let show = |v: f64| {
        if percent { format!("{:.0}", 100.0 * v) } else { format!("{v:+.3}") }
    };
    let Some(mean) = value["mean"].as_f64() else { return "-".to_owned() };
    let unit = if percent { " %" } else { "" };
    match (value["ci95"][0].as_f64(), value["ci95"][1].as_f64()) {
        (Some(low), Some(high)) => {
            format!("{}{unit} ({} to {})", show(mean), show(low), show(high))
        }
        _ => format!("{}{unit}", show(mean)),
    }
}

fn number(value: &Value, digits: usize) -> String {
    value.as_f64().map_or("-".to_owned(), |v| format!("{v:.digits$}"))
}

fn row(out: &mut String, cells: impl IntoIterator<Item = String>) {
    let _ = writeln!(out, "| {} |", cells.into_iter().collect::<Vec<_>>().join(" | "));
}

/// A heading row and its line.
fn head(out: &mut String, cells: &[String]) {
    row(out, cells.iter().cloned());
    row(out, cells.iter().map(|_| "---".to_owned()));
}

/// All tables.
pub(super) fn markdown(json: &Value) -> String {
    let mut out = String::new();
    let none = Map::new();
    let methods = json["methods"].as_object().unwrap_or(&none);
    for sentence in json["conclusion"]["sentences"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "{}\n", sentence.as_str().unwrap_or_default());
    }
    changes(&mut out, json, methods);
    diverged(&mut out, methods);
    costs(&mut out, methods);
    convergence(&mut out, &json["convergence"]);
    out
}

/// How each method changes the rewards.
fn changes(out: &mut String, json: &Value, methods: &Map<String, Value>) {
    let rewards: Vec<&Value> = json["rewards"].as_array().into_iter().flatten().collect();
    let seeds = json["seeds"].as_array().map_or(0, Vec::len);
    let decisive = json["decisive"].as_str().unwrap_or_default();
    let _ = writeln!(
        out,
        "Change against the base model over {seeds} seeds, {} prompts; 95 % intervals: Student's t over seeds for changes, percentile bootstrap over seeds and prompts for win rates.{}\n",
        number(&json["evaluation_prompts"], 0),
        match json["matmul_precision"].as_str() {
            Some("bf16") => " Products in bf16 (`--matmul-precision bf16`), base model included.",
            _ => "",
        }
    );
    let mut cells = vec!["method".to_owned(), "samples".to_owned()];
    cells.extend(rewards.iter().map(|r| {
        let held_out = if r["trained_on"].as_bool() == Some(true) { "" } else { ", held out" };
        format!("{}{held_out}", r["name"].as_str().unwrap_or_default())
    }));
    cells.extend([format!("wins over base on {decisive}"), "wins over CRAFT".to_owned()]);
    head(out, &cells);
    for (name, method) in methods {
        let lost = method["diverged"].as_array().map_or(0, Vec::len);
        let note =
            if lost > 0 { format!(" (diverged on {lost} of {seeds})") } else { String::new() };
        let mut cells = vec![format!("{name}{note}"), samples(method)];
        for reward in &rewards {
            let reward = reward["name"].as_str().unwrap_or_default();
            cells.push(interval(&method["rewards"][reward]["change"], false));
        }
        let own = &method["rewards"][decisive];
        cells.push(interval(&own["win_rate"], true));
        cells.push(interval(&own["win_rate_against_craft"], true));
        row(out, cells);
    }
}

/// What each method cost.
fn costs(out: &mut String, methods: &Map<String, Value>) {
    let _ = writeln!(out, "\nWhat it cost, mean of a seed.\n");
    let names = [
        "method",
        "drawn",
        "annotated",
        "learning rate",
        "steps",
        "sample passes",
        "generation s",
        "scoring s",
        "data s",
        "training s",
        "evaluation s",
        "peak MiB",
    ];
    head(out, &names.map(str::to_owned));
    for (name, method) in methods {
        let mean = &method["mean"];
        let seconds = |part: &str| number(&mean["seconds"][part], 1);
        let rate = mean["learning_rate"].as_f64().filter(|v| *v > 0.0);
        let peak = mean["peak_rss_bytes"].as_f64();
        let cells = [
            name.clone(),
            number(&mean["images_generated"], 0),
            number(&mean["images_annotated"], 0),
            rate.map_or("-".to_owned(), |v| format!("{v:.1e}")),
            number(&mean["steps"], 0),
            number(&mean["sample_passes"], 0),
            seconds("generation"),
            seconds("scoring"),
            seconds("data"),
            seconds("training"),
            seconds("evaluation"),
            peak.map_or("-".to_owned(), |v| format!("{:.0}", v / f64::from(1 << 20))),
        ];
        row(out, cells);
    }
}

/// One line for each method and learning rate that diverged.
fn diverged(out: &mut String, methods: &Map<String, Value>) {
    let mut lines = Vec::new();
    for (name, method) in methods {
        let mut line = |place: String, result: &Value, why: &str| {
            let Some(why) = result[why].as_str() else { return };
            let rate = result["learning_rate"].as_f64().unwrap_or(f64::NAN);
            lines.push(format!("- {name}, {place}, learning rate {rate:.1e}: {why}"));
        };
        for trial in method["search"]["trials"].as_array().into_iter().flatten() {
            line("search".to_owned(), trial, "stopped");
        }
        for (seed, result) in method["seeds"].as_object().into_iter().flatten() {
            line(format!("seed {seed}"), result, "diverged");
        }
    }
    if !lines.is_empty() {
        let _ = writeln!(
            out,
            "\nTrainings that diverged (stopped by the NaN guard). Seeds among them are not in the means above.\n\n{}",
            lines.join("\n")
        );
    }
}

/// `100`, or `4000 pairs`.
fn samples(method: &Value) -> String {
    let mean = &method["mean"];
    match mean["pairs"].as_f64() {
        Some(pairs) if pairs > 0.0 => format!("{pairs:.0} pairs"),
        _ => number(&mean["samples"], 0),
    }
}

fn convergence(out: &mut String, json: &Value) {
    let Some(methods) = json["methods"].as_object() else { return };
    let _ = writeln!(
        out,
        "\nUntil {} has changed by {:+.3}, the best that {} reaches; on the prompts of the curves.\n",
        json["reward"].as_str().unwrap_or_default(),
        json["target"].as_f64().unwrap_or(f64::NAN),
        json["of"].as_str().unwrap_or_default()
    );
    let names = [
        "method",
        "sample passes",
        "training s",
        "processor s",
        "with drawing, scoring and data s",
        "passes to CRAFT's",
        "training to CRAFT's",
        "processor to CRAFT's",
        "all to CRAFT's",
    ];
    head(out, &names.map(str::to_owned));
    for (name, method) in methods {
        let ratio =
            |key: &str| method[key].as_f64().map_or("-".to_owned(), |v| format!("{v:.2} ×"));
        let reached = |key: &str, digits| match method[key].as_f64() {
            Some(v) => format!("{v:.digits$}"),
            None => "never".to_owned(),
        };
        row(
            out,
            [
                name.clone(),
                reached("sample_passes", 0),
                reached("seconds_of_training", 1),
                reached("processor_seconds_of_training", 1),
                reached("seconds_with_preparation", 1),
                ratio("ratio_of_passes"),
                ratio("ratio_of_training"),
                ratio("ratio_of_processor_seconds"),
                ratio("ratio_with_preparation"),
            ],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_is_a_dash() {
        assert_eq!(interval(&json!({"mean": 0.5, "ci95": [0.25, 0.75]}), true), "50 % (25 to 75)");
        assert_eq!(interval(&json!({"mean": -0.5, "ci95": null}), false), "-0.500");
        assert_eq!(interval(&Value::Null, false), "-");
        let table = markdown(&json!({"methods": {"craft": {}}, "rewards": [], "seeds": [1]}));
        assert!(table.contains("| craft | - |"), "{table}");
    }
}
