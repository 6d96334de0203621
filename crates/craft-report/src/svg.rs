//! The few primitives that all charts share.

use maud::{Markup, html};

use crate::html::num;

/// A linear map from values to pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) lo: f64,
    pub(crate) hi: f64,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

impl Scale {
    /// Maps `lo..hi` to `from..to`; a range without width is widened around its value.
    pub(crate) fn new(lo: f64, hi: f64, from: f64, to: f64) -> Self {
        let (lo, hi) = if hi - lo > 1e-12 * lo.abs().max(1e-12) {
            (lo, hi)
        } else {
            let pad = if lo == 0.0 { 1.0 } else { lo.abs() * 0.1 };
            (lo - pad, hi + pad)
        };
        Self { lo, hi, from, to }
    }

    pub(crate) fn at(&self, value: f64) -> f64 {
        self.from + (value - self.lo) / (self.hi - self.lo) * (self.to - self.from)
    }

    /// About `n` round values within the range.
    pub(crate) fn ticks(&self, n: usize) -> Vec<f64> {
        let raw = (self.hi - self.lo) / n.max(1) as f64;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .map(|m| m * power)
            .find(|s| *s >= raw * 0.999)
            .unwrap_or(raw);
        let first = (self.lo / step).ceil() as i64;
        (first..)
            .map(|i| i as f64 * step)
            .take_while(|v| *v <= self.hi + step * 1e-9)
            .take(50)
            .map(|v| if v.abs() < step * 1e-6 { 0.0 } else { v })
            .collect()
    }
}

/// The plotting area of a chart inside its picture, in user units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) left: f64,
    pub(crate) right: f64,
    pub(crate) top: f64,
    pub(crate) bottom: f64,
}

impl Frame {
    pub(crate) const CHART: Self =
        Self { width: 400.0, height: 230.0, left: 64.0, right: 10.0, top: 10.0, bottom: 36.0 };
    pub(crate) const SQUARE: Self =
        Self { width: 400.0, height: 270.0, left: 52.0, right: 10.0, top: 10.0, bottom: 36.0 };

    pub(crate) fn x(&self, lo: f64, hi: f64) -> Scale {
        Scale::new(lo, hi, self.left, self.width - self.right)
    }

    pub(crate) fn y(&self, lo: f64, hi: f64) -> Scale {
        Scale::new(lo, hi, self.height - self.bottom, self.top)
    }

    /// The picture; `label` is what a screen reader says.
    pub(crate) fn svg(&self, label: &str, content: Markup) -> Markup {
        let size = format!("0 0 {} {}", self.width, self.height);
        html! { svg viewBox=(size) role="img" aria-label=(label) { (content) } }
    }

    /// Grid lines, tick labels and axis titles.
    pub(crate) fn axes(&self, x: &Scale, y: &Scale, x_title: &str, y_title: &str) -> Markup {
        let (right, bottom) = (px(self.width - self.right), self.height - self.bottom);
        let left = px(self.left);
        let (x_ticks, y_ticks) = (x.ticks(5), y.ticks(5));
        let middle = px((self.left + self.width - self.right) / 2.0);
        let turned = format!("translate(10 {:.1}) rotate(-90)", (self.top + bottom) / 2.0);
        html! {
            g.axis {
                @for v in &y_ticks {
                    @let at = y.at(*v);
                    line.gridline x1=(left) x2=(right) y1=(px(at)) y2=(px(at)) {}
                    text x=(px(self.left - 6.0)) y=(px(at + 3.5)) text-anchor="end" { (tick(*v, step(&y_ticks))) }
                }
                @for v in &x_ticks {
                    @let at = px(x.at(*v));
                    line.tick x1=(at) x2=(at) y1=(px(bottom)) y2=(px(bottom + 4.0)) {}
                    text x=(at) y=(px(bottom + 16.0)) text-anchor="middle" { (tick(*v, step(&x_ticks))) }
                }
                line.base-line x1=(left) x2=(right) y1=(px(bottom)) y2=(px(bottom)) {}
                text.title x=(middle) y=(px(self.height - 4.0)) text-anchor="middle" { (x_title) }
                text.title transform=(turned) text-anchor="middle" { (y_title) }
            }
        }
    }
}

/// A place in pixels.
pub(crate) fn px(value: f64) -> String {
    format!("{value:.1}")
}

/// The `points` of a line.
pub(crate) fn points(line: &[(f64, f64)], x: &Scale, y: &Scale) -> String {
    let places = line.iter().map(|p| format!("{:.1},{:.1}", x.at(p.0), y.at(p.1)));
    places.collect::<Vec<_>>().join(" ")
}

/// At most about `most` of a list, in equal steps, its ends among them.
pub(crate) fn thinned<T: Copy>(list: &[T], most: usize) -> Vec<T> {
    if list.len() <= most {
        return list.to_vec();
    }
    (0..most).map(|i| list[i * (list.len() - 1) / (most - 1)]).collect()
}

/// A tick label with as many decimals as the step between ticks needs.
fn tick(value: f64, step: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let exact = |d: &usize| {
        let scaled = step * 10f64.powi(*d as i32);
        (scaled - scaled.round()).abs() < 1e-6 * scaled.abs()
    };
    let text = match (0..=4).find(exact) {
        Some(decimals) if value.abs() < 1e6 => format!("{value:.decimals$}"),
        _ => format!("{value:.1e}"),
    };
    text.replace('-', "−")
}

/// The distance between the first two ticks.
fn step(ticks: &[f64]) -> f64 {
    ticks.windows(2).next().map_or(1.0, |w| w[1] - w[0])
}

/// A figure with a caption line and a legend of classes and words.
pub(crate) fn figure(title: &str, legend: &[(&str, String)], svg: Markup) -> Markup {
    html! {
        figure.chart {
            figcaption {
                b { (title) }
                @if !legend.is_empty() {
                    span.legend {
                        @for (class, text) in legend { span { i class={ "key " (class) } {} (text) } }
                    }
                }
            }
            (svg)
        }
    }
}

/// `name mean 0.123` for a legend.
pub(crate) fn with_mean(name: &str, values: &[f64]) -> String {
    crate::stats::mean(values)
        .map_or_else(|| name.to_owned(), |m| format!("{name}, mean {}", num(m)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(
            Scale::new(0.0, 1.0, 0.0, 1.0).ticks(5),
            vec![0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
        );
        assert!(Scale::new(3.0, 3.0, 0.0, 1.0).ticks(4).len() < 12);
        assert_eq!(
            [tick(0.125, 0.025), tick(0.1, 0.025), tick(-20.0, 10.0), tick(2e-5, 1e-5)].join(" "),
            "0.125 0.100 −20 2.0e−5"
        );
        assert!(Scale::new(-1e-9, 1e-9, 0.0, 1.0).at(0.0).is_finite());
    }
}
