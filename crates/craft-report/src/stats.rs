//! The few statistics that the page computes itself and `craft_core::stats` does not have; win rates and
//! bootstrap intervals come from the run.

use craft_core::stats;

/// Mean of the values; `None` for none.
pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| stats::mean(values))
}

/// Standard deviation over n − 1; `None` for fewer than two values, or where all are equal.
pub(crate) fn deviation(values: &[f64]) -> Option<f64> {
    Some(stats::sample_std(values)).filter(|deviation| *deviation > 0.0)
}

/// Wilson's 95 % score interval of a rate seen over `n` independent trials.
pub(crate) fn wilson(rate: f64, n: f64) -> Option<[f64; 2]> {
    if n < 1.0 || !rate.is_finite() {
        return None;
    }
    let z = 1.959_963_984_540_054_f64;
    let (p, z2) = (rate.clamp(0.0, 1.0), z * z);
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    Some([(centre - half).max(0.0), (centre + half).min(1.0)])
}

/// Smallest and largest finite value of all sets; `None` when there is none.
pub(crate) fn extent<'a>(sets: impl IntoIterator<Item = &'a [f64]>) -> Option<(f64, f64)> {
    sets.into_iter().flatten().copied().filter(|v| v.is_finite()).fold(None, |acc, v| match acc {
        None => Some((v, v)),
        Some((lo, hi)) => Some((lo.min(v), hi.max(v))),
    })
}

/// Counts per bin of equal width between `lo` and `hi`; the last bin holds `hi`.
pub(crate) fn histogram(values: &[f64], lo: f64, hi: f64, bins: usize) -> Vec<usize> {
    let mut counts = vec![0; bins.max(1)];
    let width = (hi - lo).max(f64::MIN_POSITIVE);
    for v in values.iter().filter(|v| v.is_finite() && **v >= lo && **v <= hi) {
        let index = ((v - lo) / width * bins as f64) as usize;
        counts[index.min(bins.max(1) - 1)] += 1;
    }
    counts
}

/// Exponential moving average, corrected for its start; `keep` is the share kept from the past.
pub(crate) fn smooth(values: &[f64], keep: f64) -> Vec<f64> {
    let (mut average, mut mass) = (0.0, 0.0);
    values
        .iter()
        .map(|v| {
            average = keep * average + (1.0 - keep) * v;
            mass = keep * mass + (1.0 - keep);
            average / mass
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn wilson_of_known_values() {
        // 8 of 10: 0.4902 to 0.9433 (Wilson 1927; the same as statsmodels' proportion_confint).
        let [lo, hi] = wilson(0.8, 10.0).unwrap();
        assert!((lo - 0.4902).abs() < 1e-4 && (hi - 0.9433).abs() < 1e-4, "{lo} {hi}");
        assert!(wilson(0.5, 0.0).is_none());
    }

    #[test]
    fn histogram_holds_every_value() {
        assert_eq!(histogram(&[0.0, 0.1, 0.5, 1.0, f64::NAN], 0.0, 1.0, 2), vec![2, 2]);
        assert_eq!(histogram(&[2.0, 2.0], 2.0, 2.0, 3).iter().sum::<usize>(), 2);
    }

    #[test]
    fn smoothing_starts_at_the_first_value() {
        let s = smooth(&[4.0, 4.0, 4.0], 0.9);
        assert!(s.iter().all(|v| (v - 4.0).abs() < 1e-12));
    }
}
