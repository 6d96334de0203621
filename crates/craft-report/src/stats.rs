//! The few statistics that the page computes itself; means, win rates and bootstrap intervals come from the run.

/// Mean of the values; `None` for none.
pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() { None } else { Some(values.iter().sum::<f64>() / values.len() as f64) }
}

/// Standard deviation over n − 1; `None` for fewer than two values.
pub(crate) fn std_dev(values: &[f64]) -> Option<f64> {
    let m = mean(values)?;
    if values.len() < 2 {
        return None;
    }
    Some((values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt())
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

/// Pearson's correlation; `None` for fewer than three pairs or a constant side.
pub(crate) fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 3 {
        return None;
    }
    let (ma, mb) = (mean(a)?, mean(b)?);
    let (mut top, mut sa, mut sb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        top += (x - ma) * (y - mb);
        sa += (x - ma).powi(2);
        sb += (y - mb).powi(2);
    }
    if sa > 0.0 && sb > 0.0 { Some(top / (sa * sb).sqrt()) } else { None }
}

/// Spearman's rank correlation (ties share their mean rank); `None` for fewer than three pairs or a constant side.
pub(crate) fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 3 {
        return None;
    }
    correlation(&ranks(a), &ranks(b))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|i, j| values[*i].total_cmp(&values[*j]));
    let mut out = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let mut end = start;
        while end + 1 < order.len() && values[order[end + 1]] == values[order[start]] {
            end += 1;
        }
        for place in &order[start..=end] {
            out[*place] = (start + end) as f64 / 2.0;
        }
        start = end + 1;
    }
    out
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
    fn rank_correlation() {
        assert!((spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 90.0]).unwrap() - 1.0).abs() < 1e-12);
        assert!(
            (spearman(&[1.0, 2.0, 3.0, 4.0], &[4.0, 3.0, 2.0, 1.0]).unwrap() + 1.0).abs() < 1e-12
        );
        assert!(spearman(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]).is_none());
    }

    #[test]
    fn smoothing_starts_at_the_first_value() {
        let s = smooth(&[4.0, 4.0, 4.0], 0.9);
        assert!(s.iter().all(|v| (v - 4.0).abs() < 1e-12));
    }
}
