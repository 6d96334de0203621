//! The end of a run in a few lines.

use std::path::Path;

use craft_pipeline::run::Summary;
use serde_json::Value;

use super::App;
use crate::console;
use crate::progress::span;
use crate::system;

/// Prints what `run.json` says: a table of rewards, and where the report lies.
/// `base` is the folder that the recipe's paths start from.
pub(super) fn print(app: &App, out: &Path, base: &Path, summary: &Summary) -> anyhow::Result<()> {
    let mut run = summary.json.clone();
    let report = &summary.report;
    if app.json {
        run["run_dir"] = out.display().to_string().into();
        run["report"] = report.display().to_string().into();
        return console::result(&run.to_string());
    }
    if let Some(rewards) = run["evaluation"].as_object() {
        let header = ["", "base", "tuned", "control", "win rate", "95 % interval of the change"];
        console::result(&row(&header.map(str::to_owned)))?;
        for (name, entry) in rewards.iter().filter(|(_, entry)| entry["base"].is_number()) {
            let trained = entry["trained_on"].as_bool() == Some(true);
            let held_out = if trained { "" } else { " (held out)" };
            let interval =
                match (number(&entry["ci95"][0], 4, true), number(&entry["ci95"][1], 4, true)) {
                    (Some(low), Some(high)) => format!("{low} to {high}"),
                    _ => "-".to_owned(),
                };
            console::result(&row(&[
                format!("{name}{held_out}"),
                number(&entry["base"], 4, false).unwrap_or_else(|| "-".to_owned()),
                number(&entry["tuned"], 4, false).unwrap_or_else(|| "-".to_owned()),
                number(&entry["control"], 4, false).unwrap_or_else(|| "-".to_owned()),
                entry["win_rate"]
                    .as_f64()
                    .map_or("-".to_owned(), |w| format!("{:.0} %", 100.0 * w)),
                interval,
            ]))?;
        }
    }
    let mut took = Vec::new();
    if let Some(seconds) = run["seconds"]["total"].as_f64() {
        took.push(span(seconds));
    }
    if let Some(bytes) = run["peak_rss_bytes"].as_u64() {
        took.push(format!("{} of memory at most", system::gibibytes(bytes)));
    }
    if !took.is_empty() {
        console::result(&took.join(", "))?;
    }
    for line in verdict(&run) {
        console::result(&line)?;
    }
    console::result(&format!("report: {}", report.display()))?;
    for line in next(&run, out, base) {
        console::result(&line)?;
    }
    Ok(())
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The report's headline, the size of the change, and what is missing for more.
fn verdict(run: &Value) -> Vec<String> {
    let verdict = &run["verdict"];
    let mut lines: Vec<String> =
        texts(&run["warnings"]).map(|text| format!("warning: {text}")).collect();
    if let Some(headline) = verdict["headline"].as_str() {
        lines.push(format!("verdict: {headline}"));
    }
    let gains = verdict["gains"].as_array().into_iter().flatten();
    lines.extend(gains.filter_map(|gain| Some(format!("  {}", gain["text"].as_str()?))));
    let missing: Vec<&str> = texts(&verdict["missing"]).collect();
    if !missing.is_empty() {
        lines.push("  to say that it worked, this run lacks".to_owned());
        lines.extend(missing.iter().map(|text| format!("  - {text}")));
    }
    lines
}

/// What one does next with a tuned model.
fn next(run: &Value, out: &Path, base: &Path) -> Vec<String> {
    let quoted = |text: String| match text.contains(char::is_whitespace) {
        true => format!("\"{text}\""),
        false => text,
    };
    let folder = out.display().to_string();
    let path = |name: &str| quoted(out.join(name).display().to_string());
    let lora = run["train_mode"] == "lora";
    let (format, target) =
        if lora { ("lora-kohya", "-lora.safetensors") } else { ("single-file", ".safetensors") };
    let model = match run["model"]["path"].as_str().filter(|_| lora) {
        Some(model) => {
            let local = base.join(model);
            let model = if local.exists() { local.display().to_string() } else { model.to_owned() };
            format!("--model {} --lora {}", quoted(model), path("aligned/lora.safetensors"))
        }
        None => format!("--model {}", path("aligned")),
    };
    let folder = folder.trim_end_matches('/');
    vec![
        format!("next: craft sample {model} --prompt \"…\""),
        format!(
            "      craft export {} --format {format} --out {}",
            quoted(folder.to_owned()),
            quoted(format!("{folder}{target}"))
        ),
    ]
}

fn number(value: &Value, digits: usize, sign: bool) -> Option<String> {
    let value = value.as_f64()?;
    Some(if sign { format!("{value:+.digits$}") } else { format!("{value:.digits$}") })
}

fn row(cells: &[String; 6]) -> String {
    let [name, base, tuned, control, wins, interval] = cells;
    format!("{name:<24} {base:>9} {tuned:>9} {control:>9} {wins:>9}  {interval}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_have_signs_where_they_are_changes() {
        assert_eq!(number(&json!(0.25), 4, true).as_deref(), Some("+0.2500"));
        assert_eq!(number(&json!(-0.25), 2, false).as_deref(), Some("-0.25"));
        assert_eq!(number(&Value::Null, 2, false), None);
    }

    #[test]
    fn the_end_says_what_is_missing_and_what_comes_next() {
        let run = json!({
            "warnings": ["4 of the 20 samples"],
            "train_mode": "lora",
            "model": {"path": "owner/name"},
            "verdict": {
                "headline": "Not shown",
                "gains": [{"text": "On ir: 60 %"}],
                "missing": ["a random control"],
            },
        });
        let lines = verdict(&run).join("\n");
        for words in ["warning: 4 of", "verdict: Not shown", "  On ir", "  - a random control"] {
            assert!(lines.contains(words), "{lines}");
        }
        let lines = next(&run, Path::new("runs/a b"), Path::new(".")).join("\n");
        assert!(lines.contains("--model owner/name --lora \"runs/a b/aligned/lora.safetensors\""));
        assert!(lines.contains("craft export \"runs/a b\" --format lora-kohya"), "{lines}");
        let full =
            next(&json!({"train_mode": "full"}), Path::new("runs/a"), Path::new(".")).join("\n");
        assert!(full.contains("craft sample --model runs/a/aligned "), "{full}");
    }
}
