//! The few primitives that all charts share.

use crate::html::{esc, num};

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

    /// Opens the picture; `label` is what a screen reader says.
    pub(crate) fn open(&self, label: &str) -> String {
        format!(
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">",
            self.width,
            self.height,
            esc(label)
        )
    }

    /// Grid lines, tick labels and axis titles.
    pub(crate) fn axes(&self, x: &Scale, y: &Scale, x_title: &str, y_title: &str) -> String {
        let (right, bottom) = (self.width - self.right, self.height - self.bottom);
        let mut out = String::from("<g class=\"axis\">");
        let (x_ticks, y_ticks) = (x.ticks(5), y.ticks(5));
        for v in y_ticks.iter().copied() {
            let at = y.at(v);
            out += &format!(
                "<line class=\"gridline\" x1=\"{:.1}\" x2=\"{right:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
                self.left
            );
            out += &format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                self.left - 6.0,
                at + 3.5,
                tick(v, step(&y_ticks))
            );
        }
        for v in x_ticks.iter().copied() {
            let at = x.at(v);
            out += &format!(
                "<line class=\"tick\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom:.1}\" y2=\"{:.1}\"/>",
                bottom + 4.0
            );
            out += &format!(
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                tick(v, step(&x_ticks))
            );
        }
        out += &format!(
            "<line class=\"base-line\" x1=\"{:.1}\" x2=\"{right:.1}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>",
            self.left
        );
        let middle = (self.left + right) / 2.0;
        out += &format!(
            "<text class=\"title\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            self.height - 4.0,
            esc(x_title)
        );
        let centre = (self.top + bottom) / 2.0;
        out += &format!(
            "<text class=\"title\" transform=\"translate(10 {centre:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text></g>",
            esc(y_title)
        );
        out
    }
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

/// A figure with a caption line and a legend.
pub(crate) fn figure(title: &str, badge: &str, legend: &[(&str, String)], svg: &str) -> String {
    let mut out = format!("<figure class=\"chart\"><figcaption><b>{}</b>{badge}", esc(title));
    if !legend.is_empty() {
        out += "<span class=\"legend\">";
        for (class, text) in legend {
            out += &format!("<span><i class=\"key {class}\"></i>{}</span>", esc(text));
        }
        out += "</span>";
    }
    out + "</figcaption>" + svg + "</figure>\n"
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
