//! Changes of rewards along training, a line a method.

use maud::{Markup, html};
use serde_json::{Map, Value};

use super::Methods;
use crate::html::{num, signed};
use crate::stats;
use crate::svg::{Frame, figure, points, px};

/// The mean curve of a method over its seeds: an axis of the looks against the gain on a reward.
fn curve(method: &Value, x: &str, y: &str) -> Vec<(f64, f64)> {
    let seeds = method["seeds"].as_object().into_iter().flat_map(Map::values);
    let seeds: Vec<&Value> = seeds.filter(|s| s["diverged"].is_null()).collect();
    let looks = seeds.iter().filter_map(|s| s["curve"].as_array()).map(Vec::len).min();
    let mean = |i: usize, pick: &dyn Fn(&Value) -> Option<f64>| {
        let all: Vec<f64> = seeds.iter().filter_map(|s| pick(&s["curve"][i])).collect();
        stats::mean(&all)
    };
    let later = (0..looks.unwrap_or(0)).filter_map(|i| {
        Some((mean(i, &|p| p[x].as_f64())?, mean(i, &|p| p["gains"][y].as_f64())?))
    });
    std::iter::once((0.0, 0.0)).chain(later).collect()
}

pub(super) fn render(methods: &Methods<'_>) -> Markup {
    let sets = |reward: &str, x: &str| -> Vec<Line<'_>> {
        let all = methods.all.iter().enumerate();
        let lines = all.map(|(i, (name, method))| (i, *name, curve(method, x, reward)));
        lines.filter(|(_, _, points)| points.len() > 1).collect()
    };
    let charts = [
        (methods.decisive, "sample_passes", "samples through the network"),
        (methods.decisive, "seconds", "seconds of training"),
        ("checker", "sample_passes", "samples through the network"),
    ];
    html! {
        div.charts {
            @for (reward, x, unit) in charts {
                (lines(&format!("Change of {reward}"), unit, &sets(reward, x)))
            }
        }
        p.fine { "Means over seeds, on a part of the evaluation's prompts." }
    }
}

/// Place of the method, its name and its points.
type Line<'a> = (usize, &'a str, Vec<(f64, f64)>);

fn lines(title: &str, x_title: &str, sets: &[Line<'_>]) -> Markup {
    let side = |pick: fn(&(f64, f64)) -> f64| -> Vec<f64> {
        sets.iter().flat_map(|s| s.2.iter().map(pick)).collect()
    };
    let (xs, ys) = (side(|p| p.0), side(|p| p.1));
    let (Some((x0, x1)), Some((y0, y1))) =
        (stats::extent([xs.as_slice()]), stats::extent([ys.as_slice()]))
    else {
        return html! {};
    };
    let f = Frame::SQUARE;
    let pad = (y1 - y0) * 0.04;
    let (x, y) = (f.x(x0, x1), f.y(y0 - pad, y1 + pad));
    let classes: Vec<String> = sets.iter().map(|(i, _, _)| format!("m{}", i % 16)).collect();
    let svg = f.svg(
        &format!("{title} by {x_title}"),
        html! {
            (f.axes(&x, &y, x_title, "change"))
            @for ((_, name, line), class) in sets.iter().zip(&classes) {
                polyline.line.(class) points=(points(line, &x, &y)) { title { (name) } }
                @for (across, up) in line.iter().skip(1) {
                    circle.dot.(class) cx=(px(x.at(*across))) cy=(px(y.at(*up))) r="2.5" {
                        title { (name) ": " (signed(*up)) " at " (num(*across)) }
                    }
                }
            }
        },
    );
    let legend: Vec<(&str, String)> =
        sets.iter().zip(&classes).map(|(set, class)| (class.as_str(), set.1.to_owned())).collect();
    figure(title, &legend, svg)
}
