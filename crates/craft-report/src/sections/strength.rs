//! Rewards at strengths of the tuning between base and tuned weights, and beyond.

use serde_json::{Map, Value};

use crate::html::{absent, esc, num, signed};
use crate::stats;
use crate::svg::{Frame, figure};

/// Colours of rewards in their order; held-out ones are dashed.
const COLOURS: [&str; 6] = ["#1d63d8", "#c2620a", "#12805c", "#c22f2f", "#7a3fc4", "#0b7c8c"];

pub(crate) fn render(sweep: &Value) -> String {
    let none = Map::new();
    let rewards = sweep["rewards"].as_object().unwrap_or(&none);
    let factors: Vec<f64> =
        sweep["factors"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    if rewards.is_empty() || factors.is_empty() {
        return absent("Strengths");
    }
    let mut out = String::from("<div class=\"scroll card\"><table><thead><tr><th>strength</th>");
    for (name, reward) in rewards {
        let badge = if reward["trained_on"].as_bool() == Some(true) {
            ""
        } else {
            " <span class=\"badge held\">held out</span>"
        };
        out += &format!("<th class=\"n\">{}{badge}</th>", esc(name));
    }
    out += "</tr></thead><tbody>";
    for (i, factor) in factors.iter().enumerate() {
        out += &format!("<tr><td>{}</td>", num(*factor));
        for reward in rewards.values() {
            out += &format!("<td class=\"n\">{}</td>", cell(&reward["at"][i]));
        }
        out += "</tr>";
    }
    out += "</tbody></table></div>\n<div class=\"charts\">\n";
    out += &chart(rewards, &factors);
    out + &format!(
        "</div>\n<p class=\"fine\">Changes against the base weights with 95 % bootstrap intervals; one picture each of {} prompts.</p>\n",
        sweep["prompts"].as_u64().unwrap_or(0)
    )
}

/// A change with its interval; a mean where there is no base to compare with.
fn cell(at: &Value) -> String {
    match (at["delta"].as_f64(), at["ci95"][0].as_f64(), at["ci95"][1].as_f64()) {
        (Some(delta), Some(low), Some(high)) => format!(
            "{}<span class=\"ci\">{} to {}</span>",
            signed(delta),
            signed(low),
            signed(high)
        ),
        _ => at["mean"].as_f64().map_or("–".to_owned(), num),
    }
}

/// A reward's name, whether it was trained on, and its points.
type Line<'a> = (&'a str, bool, Vec<(f64, f64)>);

fn chart(rewards: &Map<String, Value>, factors: &[f64]) -> String {
    let lines: Vec<Line<'_>> = rewards
        .iter()
        .map(|(name, reward)| {
            let points = factors.iter().enumerate();
            let points = points.filter_map(|(i, f)| Some((*f, reward["at"][i]["delta"].as_f64()?)));
            let mut points: Vec<(f64, f64)> = points.collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            (name.as_str(), reward["trained_on"].as_bool() == Some(true), points)
        })
        .collect();
    let ys: Vec<f64> = lines.iter().flat_map(|l| l.2.iter().map(|p| p.1)).collect();
    let (Some((x0, x1)), Some((y0, y1))) =
        (stats::extent([factors]), stats::extent([ys.as_slice()]))
    else {
        return String::new();
    };
    let f = Frame::SQUARE;
    let pad = (y1 - y0) * 0.04;
    let (x, y) = (f.x(x0, x1), f.y(y0 - pad, y1 + pad));
    let mut svg = f.open("Change of each reward by strength")
        + &f.axes(&x, &y, "strength of the tuning", "change");
    let mut names = Vec::new();
    for (i, (name, trained_on, points)) in lines.iter().enumerate() {
        let held = !trained_on;
        let dash = if held { ";stroke-dasharray:5 3" } else { "" };
        let colour = COLOURS[i % COLOURS.len()];
        let path: Vec<String> =
            points.iter().map(|p| format!("{:.1},{:.1}", x.at(p.0), y.at(p.1))).collect();
        svg += &format!(
            "<polyline class=\"line\" style=\"stroke:{colour}{dash}\" points=\"{}\"><title>{}</title></polyline>",
            path.join(" "),
            esc(name)
        );
        names.push(format!(
            "<span style=\"color:{colour}\">{}</span>{}",
            esc(name),
            if held { " (held out, dashed)" } else { "" }
        ));
    }
    figure("Change against the base weights", "", &[], &(svg + "</svg>"))
        + &format!("<p class=\"fine\">{}</p>\n", names.join(", "))
}
