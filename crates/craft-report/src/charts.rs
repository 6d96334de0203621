//! The charts: distributions, waterfalls, scatters, curves, forests. All are inline SVG coloured by the style sheet.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::html::{num, signed};
use crate::stats;
use crate::svg::{Frame, Scale, figure, points, px, thinned, with_mean};

/// Points of a drawn line, at most: more cannot be told apart.
const POINTS: usize = 1000;

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
pub(crate) fn distribution(name: &str, sets: &[(&str, Vec<f64>)]) -> Markup {
    let Some((lo, hi)) = stats::extent(sets.iter().map(|(_, v)| v.as_slice())) else {
        return html! {};
    };
    let f = Frame::CHART;
    let bins = bin_count(sets.iter().map(|(_, v)| v.len()).max().unwrap_or(0));
    let x = f.x(lo, hi);
    let shares: Vec<Vec<f64>> = sets
        .iter()
        .map(|(_, v)| {
            let counts = stats::histogram(v, x.lo, x.hi, bins).into_iter();
            counts.map(|c| c as f64 / v.len().max(1) as f64 * 100.0).collect()
        })
        .collect();
    let top = shares.iter().flatten().copied().fold(0.0, f64::max);
    let y = f.y(0.0, top * 1.05);
    let svg = f.svg(&format!("Distribution of {name} by model"), html! {
        (f.axes(&x, &y, name, "% of pictures"))
        @for ((model, values), share) in sets.iter().zip(&shares) {
            path class={ "area " (model) } d=(steps(share, &x, &y)) {}
            @if let Some(m) = stats::mean(values) {
                @let at = px(x.at(m));
                line class={ "mean " (model) } x1=(at) x2=(at) y1=(px(f.top)) y2=(px(f.height - f.bottom)) {
                    title { (model) ": mean " (num(m)) }
                }
            }
        }
    });
    let mut legend: Vec<(&str, String)> = sets.iter().map(|(m, v)| (*m, with_mean(m, v))).collect();
    legend.sort_by_key(|(m, _)| ["base", "tuned", "control"].iter().position(|o| o == m));
    figure("Scores", &legend, svg)
}

/// The outline of a histogram.
fn steps(share: &[f64], x: &Scale, y: &Scale) -> String {
    let edge = |i: usize| x.from + (x.to - x.from) * i as f64 / share.len() as f64;
    let mut path = format!("M{:.1} {:.1}", x.from, y.at(0.0));
    for (bin, s) in share.iter().enumerate() {
        path += &format!("L{:.1} {:.1}L{:.1} {:.1}", edge(bin), y.at(*s), edge(bin + 1), y.at(*s));
    }
    path + &format!("L{:.1} {:.1}Z", x.to, y.at(0.0))
}

/// The mean change on a prompt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fall<'a> {
    pub(crate) prompt: &'a str,
    pub(crate) text: &'a str,
    pub(crate) change: f64,
    /// Whether it has a bar; all are counted.
    pub(crate) shown: bool,
}

/// Sorted changes of the tuned model per prompt; the control's own sorted changes as a line.
pub(crate) fn waterfall(name: &str, rows: &[Fall<'_>], control: &[f64]) -> Markup {
    if rows.is_empty() {
        return html! {};
    }
    let mut rows = rows.to_vec();
    rows.sort_by(|a, b| b.change.total_cmp(&a.change).then_with(|| a.prompt.cmp(b.prompt)));
    let mut line = control.to_vec();
    line.sort_by(|a, b| b.total_cmp(a));
    let values: Vec<f64> = rows.iter().map(|r| r.change).collect();
    let (lo, hi) =
        padded(stats::extent([values.as_slice(), line.as_slice(), &[0.0]]).unwrap_or((0.0, 1.0)));
    let f = Frame::CHART;
    let drawn: Vec<Fall<'_>> = rows.iter().filter(|r| r.shown).copied().collect();
    let x = f.x(0.0, drawn.len() as f64);
    let y = f.y(lo, hi);
    let up = rows.iter().filter(|r| r.change > 0.0).count();
    let label = format!("Change of {name} per prompt, sorted; {up} of {} rose", rows.len());
    let zero = px(y.at(0.0));
    let svg = f.svg(
        &label,
        html! {
            (f.axes(&x, &y, "prompts, best change to worst", "tuned − base"))
            @for (i, row) in drawn.iter().enumerate() { (bar(row, (i, drawn.len()), &x, &y)) }
            @if !line.is_empty() {
                polyline.line.control points=(sorted_line(&line, &f, &y)) {}
            }
            line.base-line x1=(px(x.from)) x2=(px(x.to)) y1=(zero) y2=(zero) {}
        },
    );
    let mut legend = tally(rows.iter().map(|r| r.change), ["rose", "the same", "fell"]);
    if !line.is_empty() {
        let control_up = line.iter().filter(|d| **d > 0.0).count();
        legend.push(("control", format!("control: {control_up} of {} rose", line.len())));
    }
    figure("Change per prompt", &legend, svg)
}

/// One bar of a waterfall, the `i`-th of `n`.
fn bar(row: &Fall<'_>, (i, n): (usize, usize), x: &Scale, y: &Scale) -> Markup {
    let gap = if n > 150 { 0.0 } else { 0.8 };
    let (a, b) = (x.at(i as f64), x.at(i as f64 + 1.0));
    let (top, bottom) = (y.at(row.change.max(0.0)), y.at(row.change.min(0.0)));
    html! {
        rect class={ "bar " (direction(row.change)) } data-prompt=(row.prompt) x=(format!("{a:.2}")) y=(px(top))
            width=(format!("{:.2}", (b - a - gap).max(0.3))) height=(px((bottom - top).max(0.6))) {
            title { (row.text) ": " (signed(row.change)) }
        }
    }
}

/// The control's sorted changes over the whole width.
fn sorted_line(line: &[f64], f: &Frame, y: &Scale) -> String {
    let x = f.x(0.0, line.len() as f64);
    let line: Vec<(f64, f64)> =
        line.iter().enumerate().map(|(i, change)| (i as f64 + 0.5, *change)).collect();
    points(&thinned(&line, POINTS), &x, y)
}

/// The scores of a pair of pictures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point<'a> {
    /// Its place in the gallery, if it is shown there; all are counted.
    pub(crate) at: Option<usize>,
    pub(crate) text: &'a str,
    pub(crate) base: f64,
    pub(crate) tuned: f64,
}

/// Base score against tuned score, one point a pair.
pub(crate) fn scatter(name: &str, pairs: &[Point<'_>]) -> Markup {
    let all: Vec<f64> = pairs.iter().flat_map(|p| [p.base, p.tuned]).collect();
    let Some((lo, hi)) = stats::extent([all.as_slice()]).map(padded) else {
        return html! {};
    };
    let f = Frame::SQUARE;
    let (x, y) = (f.x(lo, hi), f.y(lo, hi));
    let above = pairs.iter().filter(|p| p.tuned > p.base).count();
    // Pairs at the same place (a checker has few values) become one larger point.
    let mut places: BTreeMap<(i64, i64), (usize, Option<&Point<'_>>)> = BTreeMap::new();
    for p in pairs {
        let place = ((x.at(p.base) * 10.0) as i64, (y.at(p.tuned) * 10.0) as i64);
        let (count, first) = places.entry(place).or_default();
        *count += 1;
        *first = first.or(p.at.is_some().then_some(p));
    }
    let most = places.values().map(|(n, _)| *n).max().unwrap_or(1) as f64;
    let label = format!(
        "{name}: base score against tuned score; {above} of {} pairs lie above the diagonal",
        pairs.len()
    );
    let svg = f.svg(
        &label,
        html! {
            (f.axes(&x, &y, "base", "tuned"))
            line.diagonal x1=(px(x.from)) y1=(px(y.from)) x2=(px(x.to)) y2=(px(y.to)) {}
            @for (count, first) in places.values() {
                @if let Some(p) = first { (dot(p, (*count, most), &x, &y)) }
            }
        },
    );
    let changes = pairs.iter().map(|p| p.tuned - p.base);
    let legend = tally(changes, ["better", "the same", "worse"]);
    figure("Base against tuned", &legend, svg)
}

/// A point that stands for `count` pairs, where no other stands for more than `most`.
fn dot(p: &Point<'_>, (count, most): (usize, f64), x: &Scale, y: &Scale) -> Markup {
    let radius = 3.2 + if count > 1 { 10.0 * (count as f64 / most).sqrt() } else { 0.0 };
    let class = direction(p.tuned - p.base);
    html! {
        circle class={ "point " (class) } data-pair=(p.at.unwrap_or(0)) cx=(px(x.at(p.base))) cy=(px(y.at(p.tuned)))
            r=(px(radius)) {
            title {
                (p.text)
                @if count > 1 { " and " (count - 1) " more" }
                ": " (num(p.base)) " to " (num(p.tuned))
            }
        }
    }
}

/// Curves over steps, one per run; with `smoothing` the raw values stay visible behind the average.
pub(crate) fn curves(
    title: &str,
    unit: &str,
    runs: &[(&str, Vec<(f64, f64)>)],
    smoothing: Option<f64>,
) -> Markup {
    let xs: Vec<f64> = runs.iter().flat_map(|r| r.1.iter().map(|p| p.0)).collect();
    let ys: Vec<f64> = runs.iter().flat_map(|r| r.1.iter().map(|p| p.1)).collect();
    let (Some((x0, x1)), Some((y0, y1))) =
        (stats::extent([xs.as_slice()]), stats::extent([ys.as_slice()]))
    else {
        return html! {};
    };
    let f = Frame::CHART;
    let low = if y0 >= 0.0 && y0 < 0.5 * y1 { 0.0 } else { y0 - (y1 - y0) * 0.04 };
    let (x, y) = (f.x(x0, x1), f.y(low, y1 + (y1 - y0) * 0.04));
    let mut legend = Vec::new();
    let mut lines = Vec::new();
    for (run, raw) in runs.iter().filter(|r| !r.1.is_empty()) {
        let values: Vec<f64> = raw.iter().map(|p| p.1).collect();
        let shown = smoothing.map_or_else(|| values.clone(), |keep| stats::smooth(&values, keep));
        let ends = (shown.first().copied().unwrap_or(0.0), shown.last().copied().unwrap_or(0.0));
        legend.push((*run, format!("{run}: {} to {}", num(ends.0), num(ends.1))));
        let smooth: Vec<(f64, f64)> = raw.iter().map(|p| p.0).zip(shown).collect();
        let path = |line: &[(f64, f64)]| points(&thinned(line, POINTS), &x, &y);
        lines.push((run, smoothing.map(|_| path(raw)), path(&smooth)));
    }
    let svg = f.svg(
        &format!("{title} by training step"),
        html! {
            (f.axes(&x, &y, "step", unit))
            @for (run, raw, line) in &lines {
                @if let Some(raw) = raw { polyline class={ "line raw " (run) } points=(raw) {} }
                polyline class={ "line " (run) } points=(line) { title { (run) } }
            }
        },
    );
    legend.reverse();
    figure(title, &legend, svg)
}

/// Class, value and interval of a dot of a forest.
pub(crate) type ForestRow = (&'static str, f64, Option<[f64; 2]>);

/// One row of a forest: dots with whiskers beside a zero line, between the two ends of `span`.
pub(crate) fn forest(rows: &[ForestRow], span: (f64, f64), label: &str) -> Markup {
    let (width, step) = (220.0, 14.0);
    let height = step * rows.len() as f64 + 4.0;
    let x = Scale::new(span.0, span.1, 6.0, width - 6.0);
    let zero = px(x.at(0.0));
    html! {
        svg.forest viewBox=(format!("0 0 {width} {height}")) role="img" aria-label=(label) {
            line.zero x1=(zero) x2=(zero) y1="0" y2=(height) {}
            @for (i, (class, value, ci)) in rows.iter().enumerate() {
                @let y = px(step * (i as f64 + 0.5) + 2.0);
                @if let Some([lo, hi]) = ci {
                    line class={ "whisker " (class) } x1=(px(x.at(*lo))) x2=(px(x.at(*hi))) y1=(y) y2=(y) {}
                }
                circle class={ "dot " (class) } cx=(px(x.at(*value))) cy=(y) r="4" {}
            }
        }
    }
}

/// A rate with its interval on a 0 to 100 % bar, the middle marked.
pub(crate) fn rate_bar(
    class: &str,
    rate: f64,
    ci: Option<[f64; 2]>,
    middle: Option<f64>,
    label: &str,
) -> Markup {
    let x = Scale::new(0.0, 1.0, 2.0, 198.0);
    html! {
        svg.rate viewBox="0 0 200 16" role="img" aria-label=(label) {
            rect.track x="2" y="6" width="196" height="4" rx="2" {}
            @if let Some(at) = middle.map(|m| px(x.at(m))) {
                line.zero x1=(at) x2=(at) y1="1" y2="15" {}
            }
            @if let Some([lo, hi]) = ci {
                line class={ "whisker " (class) } x1=(px(x.at(lo))) x2=(px(x.at(hi))) y1="8" y2="8" {}
            }
            circle class={ "dot " (class) } cx=(px(x.at(rate.clamp(0.0, 1.0)))) cy="8" r="4.5" {}
        }
    }
}

/// A plain histogram of one set.
pub(crate) fn bars(title: &str, x_title: &str, values: &[f64], bins: usize) -> Markup {
    let Some((lo, hi)) = stats::extent([values]) else {
        return html! {};
    };
    let f = Frame::CHART;
    let x = f.x(lo.min(0.0), hi);
    let counts = stats::histogram(values, x.lo, x.hi, bins);
    let y = f.y(0.0, counts.iter().copied().max().unwrap_or(1) as f64 * 1.05);
    let step = (x.to - x.from) / bins as f64;
    let width = px((step - 1.0).max(0.5));
    let svg = f.svg(
        &format!("{title}: histogram of {} values", values.len()),
        html! {
            (f.axes(&x, &y, x_title, "samples"))
            @for (i, c) in counts.iter().enumerate().filter(|(_, c)| **c > 0) {
                @let top = y.at(*c as f64);
                rect.bar.craft x=(px(x.from + step * i as f64 + 0.5)) y=(px(top)) width=(width)
                    height=(px(y.at(0.0) - top)) { title { (c) } }
            }
        },
    );
    figure(title, &[], svg)
}
