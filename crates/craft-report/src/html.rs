//! Words for the page: numbers, and what stands in the place of a missing part.

use maud::{Markup, html};
use serde_json::Value;

/// JSON that is safe inside a `<script>` element: no `</`, no `<!--`, no line separators of old script parsers.
pub(crate) fn script_json(value: &Value) -> String {
    value
        .to_string()
        .replace('<', "\\u003c")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// A number with about three significant digits and a real minus sign; what is left by rounding alone reads 0.
pub(crate) fn num(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    let text = match size {
        _ if size < 1e-12 => "0".to_owned(),
        _ if size >= 1000.0 => format!("{value:.0}"),
        _ if size >= 100.0 => format!("{value:.1}"),
        _ if size >= 1.0 => format!("{value:.2}"),
        _ if size >= 0.01 => format!("{value:.3}"),
        _ if size >= 0.001 => format!("{value:.4}"),
        _ if size >= 0.0001 => format!("{value:.5}"),
        _ => format!("{value:.1e}"),
    };
    text.replace('-', "−")
}

/// As [`num`], with a sign in front of positive numbers.
pub(crate) fn signed(value: f64) -> String {
    if value > 0.0 { format!("+{}", num(value)) } else { num(value) }
}

/// A number, or a dash.
pub(crate) fn opt(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), num)
}

/// A rate as a whole percentage.
pub(crate) fn percent(rate: f64) -> String {
    format!("{:.0} %", rate * 100.0)
}

/// `a to b`, signed.
pub(crate) fn interval([lo, hi]: [f64; 2]) -> String {
    format!("{} to {}", signed(lo), signed(hi))
}

/// Seconds as `12.3 s`, `2 min 05 s` or `3 h 10 min`.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
    }
}

/// Bytes as KiB, MiB or GiB.
pub(crate) fn bytes(count: f64) -> String {
    let mib = count / (1024.0 * 1024.0);
    match mib {
        _ if mib >= 1024.0 => format!("{:.2} GiB", mib / 1024.0),
        _ if mib >= 1.0 => format!("{mib:.1} MiB"),
        _ => format!("{:.1} KiB", count / 1024.0),
    }
}

/// `1 prompt`, `2 prompts`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// The box that stands in the place of a part the run does not have.
pub(crate) fn absent(what: &str) -> Markup {
    html! { p.absent { (what) ": not in this run." } }
}

/// What heads a column of numbers of the control, where there is one.
pub(crate) fn control_head(has_control: bool) -> Markup {
    html! { @if has_control { th.n { "control" } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [num(0.0), num(-0.1234), num(12.345), num(0.00123), num(5e-5)].join(" "),
            "0 −0.123 12.35 0.0012 5.0e−5"
        );
        assert_eq!(signed(0.5), "+0.500");
        assert_eq!(duration(125.0), "2 min 05 s");
        assert_eq!(num(f64::NAN), "–");
    }

    #[test]
    fn script_cannot_be_closed_by_a_prompt() {
        let text = script_json(&serde_json::json!({"t": "</script><b>"}));
        assert!(!text.contains('<'));
    }
}
