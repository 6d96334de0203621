//! The charts: distributions, waterfalls, scatters, curves, forests. All are inline SVG coloured by the style sheet.

use std::collections::BTreeMap;

use crate::html::{esc, num, signed};
use crate::stats;
use crate::svg::{Frame, Scale, figure, with_mean};

/// Bins of a histogram of `n` values: few values get wide bins.
fn bin_count(n: usize) -> usize {
    ((n as f64).sqrt() * 1.6).round().clamp(8.0, 32.0) as usize
}

/// A range widened by 4 % on both sides, so that marks do not sit on the frame.
fn padded((lo, hi): (f64, f64)) -> (f64, f64) {
    let pad = (hi - lo) * 0.04;
    (lo - pad, hi + pad)
}

/// `up`, `down` or `same`.
fn direction(change: f64) -> &'static str {
    match change {
        c if c > 0.0 => "up",
        c if c < 0.0 => "down",
        _ => "same",
    }
}

/// Legend of ups and downs; `same` is left out where there is none.
fn tally(changes: impl Iterator<Item = f64>, words: [&str; 3]) -> Vec<(&'static str, String)> {
    let mut counts = [0usize; 3];
    for c in changes {
        counts[["up", "same", "down"].iter().position(|d| *d == direction(c)).unwrap_or(1)] += 1;
    }
    let rows =
        [("up", counts[0], words[0]), ("same", counts[1], words[1]), ("down", counts[2], words[2])];
    rows.into_iter()
        .filter(|r| r.0 != "same" || r.1 > 0)
        .map(|(class, n, word)| (class, format!("{n} {word}")))
        .collect()
}

/// Overlaid histograms, as shares of each model's pictures.
pub(crate) fn distribution(name: &str, sets: &[(&str, Vec<f64>)]) -> String {
    let Some((lo, hi)) = stats::extent(sets.iter().map(|(_, v)| v.as_slice())) else {
        return String::new();
    };
    let f = Frame::CHART;
    let bins = bin_count(sets.iter().map(|(_, v)| v.len()).max().unwrap_or(0));
    let x = f.x(lo, hi);
    let shares: Vec<Vec<f64>> = sets
        .iter()
        .map(|(_, v)| {
            stats::histogram(v, x.lo, x.hi, bins)
                .into_iter()
                .map(|c| c as f64 / v.len().max(1) as f64 * 100.0)
                .collect()
        })
        .collect();
    let top = shares.iter().flatten().copied().fold(0.0, f64::max);
    let y = f.y(0.0, top * 1.05);
    let mut svg = f.open(&format!("Distribution of {name} by model"));
    svg += &f.axes(&x, &y, name, "% of pictures");
    for ((model, values), share) in sets.iter().zip(&shares) {
        let mut path = format!("M{:.1} {:.1}", x.from, y.at(0.0));
        for (bin, s) in share.iter().enumerate() {
            let edge = |i: usize| x.from + (x.to - x.from) * i as f64 / bins as f64;
            path +=
                &format!("L{:.1} {:.1}L{:.1} {:.1}", edge(bin), y.at(*s), edge(bin + 1), y.at(*s));
        }
        path += &format!("L{:.1} {:.1}Z", x.to, y.at(0.0));
        svg += &format!("<path class=\"area {model}\" d=\"{path}\"/>");
        if let Some(m) = stats::mean(values) {
            svg += &format!(
                "<line class=\"mean {model}\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\"><title>{model}: mean {3}</title></line>",
                x.at(m),
                f.top,
                f.height - f.bottom,
                num(m)
            );
        }
    }
    let mut legend: Vec<(&str, String)> = sets.iter().map(|(m, v)| (*m, with_mean(m, v))).collect();
    legend.sort_by_key(|(m, _)| ["base", "tuned", "control"].iter().position(|o| o == m));
    figure("Scores", "", &legend, &(svg + "</svg>"))
}

/// Sorted changes of the tuned model per prompt; the control's own sorted changes as a line.
pub(crate) fn waterfall(name: &str, rows: &[(&str, &str, f64)], control: &[f64]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut rows = rows.to_vec();
    rows.sort_by(|a, b| b.2.total_cmp(&a.2).then_with(|| a.0.cmp(b.0)));
    let mut line = control.to_vec();
    line.sort_by(|a, b| b.total_cmp(a));
    let values: Vec<f64> = rows.iter().map(|r| r.2).collect();
    let (lo, hi) =
        padded(stats::extent([values.as_slice(), line.as_slice(), &[0.0]]).unwrap_or((0.0, 1.0)));
    let f = Frame::CHART;
    let x = f.x(0.0, rows.len() as f64);
    let y = f.y(lo, hi);
    let up = rows.iter().filter(|r| r.2 > 0.0).count();
    let mut svg =
        f.open(&format!("Change of {name} per prompt, sorted; {up} of {} rose", rows.len()));
    svg += &f.axes(&x, &y, "prompts, best change to worst", "tuned − base");
    let gap = if rows.len() > 150 { 0.0 } else { 0.8 };
    for (i, (id, text, d)) in rows.iter().enumerate() {
        let (a, b) = (x.at(i as f64), x.at(i as f64 + 1.0));
        let (top, bottom) = (y.at(d.max(0.0)), y.at(d.min(0.0)));
        svg += &format!(
            "<rect class=\"bar {}\" data-prompt=\"{}\" x=\"{a:.2}\" y=\"{top:.1}\" width=\"{:.2}\" height=\"{:.1}\"><title>{}: {}</title></rect>",
            direction(*d),
            esc(id),
            (b - a - gap).max(0.3),
            (bottom - top).max(0.6),
            esc(text),
            signed(*d)
        );
    }
    if !line.is_empty() {
        let xc = f.x(0.0, line.len() as f64);
        let points: Vec<String> = line
            .iter()
            .enumerate()
            .map(|(i, d)| format!("{:.1},{:.1}", xc.at(i as f64 + 0.5), y.at(*d)))
            .collect();
        svg += &format!("<polyline class=\"line control\" points=\"{}\"/>", points.join(" "));
    }
    svg += &format!(
        "<line class=\"base-line\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{2:.1}\" y2=\"{2:.1}\"/></svg>",
        x.from,
        x.to,
        y.at(0.0)
    );
    let mut legend = tally(rows.iter().map(|r| r.2), ["rose", "the same", "fell"]);
    if !line.is_empty() {
        let control_up = line.iter().filter(|d| **d > 0.0).count();
        legend.push(("control", format!("control: {control_up} of {} rose", line.len())));
    }
    figure("Change per prompt", "", &legend, &svg)
}

/// (index in the gallery, text, base score, tuned score).
pub(crate) type Point<'a> = (usize, &'a str, f64, f64);

/// Base score against tuned score, one point a pair.
pub(crate) fn scatter(name: &str, points: &[Point<'_>]) -> String {
    let all: Vec<f64> = points.iter().flat_map(|p| [p.2, p.3]).collect();
    let Some((lo, hi)) = stats::extent([all.as_slice()]).map(padded) else {
        return String::new();
    };
    let f = Frame::SQUARE;
    let (x, y) = (f.x(lo, hi), f.y(lo, hi));
    let above = points.iter().filter(|p| p.3 > p.2).count();
    let mut svg = f.open(&format!(
        "{name}: base score against tuned score; {above} of {} pairs lie above the diagonal",
        points.len()
    ));
    svg += &f.axes(&x, &y, "base", "tuned");
    svg += &format!(
        "<line class=\"diagonal\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        x.from, y.from, x.to, y.to
    );
    // Pairs at the same place (a checker has few values) become one larger point.
    let mut places: BTreeMap<(i64, i64), Vec<&Point<'_>>> = BTreeMap::new();
    for p in points {
        places.entry(((x.at(p.2) * 10.0) as i64, (y.at(p.3) * 10.0) as i64)).or_default().push(p);
    }
    let most = places.values().map(Vec::len).max().unwrap_or(1) as f64;
    for group in places.values() {
        let (index, text, b, t) = group[0];
        let radius =
            3.2 + if group.len() > 1 { 10.0 * (group.len() as f64 / most).sqrt() } else { 0.0 };
        let more =
            if group.len() > 1 { format!(" and {} more", group.len() - 1) } else { String::new() };
        svg += &format!(
            "<circle class=\"point {}\" data-pair=\"{index}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\"><title>{}{more}: {} to {}</title></circle>",
            direction(t - b),
            x.at(*b),
            y.at(*t),
            esc(text),
            num(*b),
            num(*t)
        );
    }
    let legend = tally(points.iter().map(|p| p.3 - p.2), ["better", "the same", "worse"]);
    figure("Base against tuned", "", &legend, &(svg + "</svg>"))
}

/// Curves over steps, one per run; with `smoothing` the raw values stay visible behind the average.
pub(crate) fn curves(
    title: &str,
    unit: &str,
    runs: &[(&str, Vec<(f64, f64)>)],
    smoothing: Option<f64>,
) -> String {
    let xs: Vec<f64> = runs.iter().flat_map(|r| r.1.iter().map(|p| p.0)).collect();
    let ys: Vec<f64> = runs.iter().flat_map(|r| r.1.iter().map(|p| p.1)).collect();
    let (Some((x0, x1)), Some((y0, y1))) =
        (stats::extent([xs.as_slice()]), stats::extent([ys.as_slice()]))
    else {
        return String::new();
    };
    let f = Frame::CHART;
    let low = if y0 >= 0.0 && y0 < 0.5 * y1 { 0.0 } else { y0 - (y1 - y0) * 0.04 };
    let (x, y) = (f.x(x0, x1), f.y(low, y1 + (y1 - y0) * 0.04));
    let mut svg = f.open(&format!("{title} by training step"));
    svg += &f.axes(&x, &y, "step", unit);
    let mut legend = Vec::new();
    for (run, points) in runs.iter().filter(|r| !r.1.is_empty()) {
        let values: Vec<f64> = points.iter().map(|p| p.1).collect();
        let path = |values: &[f64]| {
            points
                .iter()
                .zip(values)
                .map(|(p, v)| format!("{:.1},{:.1}", x.at(p.0), y.at(*v)))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let shown = smoothing.map_or_else(|| values.clone(), |keep| stats::smooth(&values, keep));
        if smoothing.is_some() {
            svg += &format!("<polyline class=\"line raw {run}\" points=\"{}\"/>", path(&values));
        }
        svg += &format!(
            "<polyline class=\"line {run}\" points=\"{}\"><title>{run}</title></polyline>",
            path(&shown)
        );
        let ends = (shown.first().copied().unwrap_or(0.0), shown.last().copied().unwrap_or(0.0));
        legend.push((*run, format!("{run}: {} to {}", num(ends.0), num(ends.1))));
    }
    legend.reverse();
    figure(title, "", &legend, &(svg + "</svg>"))
}

/// One row of a forest: dots with whiskers beside a zero line, between the two ends of `span`.
pub(crate) fn forest(
    rows: &[(&str, f64, Option<[f64; 2]>)],
    span: (f64, f64),
    label: &str,
) -> String {
    let (width, step) = (220.0, 14.0);
    let height = step * rows.len() as f64 + 4.0;
    let x = Scale::new(span.0, span.1, 6.0, width - 6.0);
    let zero = x.at(0.0);
    let mut svg = format!(
        "<svg class=\"forest\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">",
        esc(label)
    );
    svg += &format!(
        "<line class=\"zero\" x1=\"{zero:.1}\" x2=\"{zero:.1}\" y1=\"0\" y2=\"{height}\"/>"
    );
    for (i, (class, value, ci)) in rows.iter().enumerate() {
        let y = step * (i as f64 + 0.5) + 2.0;
        if let Some([lo, hi]) = ci {
            svg += &format!(
                "<line class=\"whisker {class}\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                x.at(*lo),
                x.at(*hi)
            );
        }
        svg += &format!(
            "<circle class=\"dot {class}\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\"/>",
            x.at(*value)
        );
    }
    svg + "</svg>"
}

/// A rate with its interval on a 0 to 100 % bar, the middle marked.
pub(crate) fn rate_bar(
    class: &str,
    rate: f64,
    ci: Option<[f64; 2]>,
    middle: Option<f64>,
    label: &str,
) -> String {
    let x = Scale::new(0.0, 1.0, 2.0, 198.0);
    let mut svg = format!(
        "<svg class=\"rate\" viewBox=\"0 0 200 16\" role=\"img\" aria-label=\"{}\">",
        esc(label)
    );
    svg += "<rect class=\"track\" x=\"2\" y=\"6\" width=\"196\" height=\"4\" rx=\"2\"/>";
    if let Some(m) = middle {
        svg += &format!(
            "<line class=\"zero\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"1\" y2=\"15\"/>",
            x.at(m)
        );
    }
    if let Some([lo, hi]) = ci {
        svg += &format!(
            "<line class=\"whisker {class}\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"8\" y2=\"8\"/>",
            x.at(lo),
            x.at(hi)
        );
    }
    svg + &format!(
        "<circle class=\"dot {class}\" cx=\"{:.1}\" cy=\"8\" r=\"4.5\"/></svg>",
        x.at(rate.clamp(0.0, 1.0))
    )
}

/// A plain histogram of one set.
pub(crate) fn bars(title: &str, x_title: &str, values: &[f64], bins: usize) -> String {
    let Some((lo, hi)) = stats::extent([values]) else {
        return String::new();
    };
    let f = Frame::CHART;
    let x = f.x(lo.min(0.0), hi);
    let counts = stats::histogram(values, x.lo, x.hi, bins);
    let y = f.y(0.0, counts.iter().copied().max().unwrap_or(1) as f64 * 1.05);
    let mut svg = f.open(&format!("{title}: histogram of {} values", values.len()))
        + &f.axes(&x, &y, x_title, "samples");
    let width = (x.to - x.from) / bins as f64;
    for (i, c) in counts.iter().enumerate().filter(|(_, c)| **c > 0) {
        let top = y.at(*c as f64);
        svg += &format!(
            "<rect class=\"bar craft\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{c}</title></rect>",
            x.from + width * i as f64 + 0.5,
            (width - 1.0).max(0.5),
            y.at(0.0) - top
        );
    }
    figure(title, "", &[], &(svg + "</svg>"))
}
