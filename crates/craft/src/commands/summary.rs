//! The end of a run in a few lines.

use std::path::Path;

use craft_pipeline::run::Summary;
use serde_json::Value;

use super::App;
use crate::console;
use crate::progress::span;
use crate::system;

/// Prints what `run.json` says: a table of rewards, and where the report lies.
pub(super) fn print(app: &App, out: &Path, summary: &Summary) -> anyhow::Result<()> {
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
    console::result(&format!("report: {}", report.display()))
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
}
