//! Statistics of an evaluation, in f64.

use serde::{Deserialize, Serialize};

use crate::rng::Stream;

/// Mean; 0 of nothing. Values up to the largest f64 do not overflow.
pub fn mean(values: &[f64]) -> f64 {
    mean_std(values).0
}

/// Mean and population standard deviation (divided by n); zeros of nothing.
///
/// Values are scaled by their largest size first, so that squares of very large or very small
/// values neither overflow nor vanish, and the deviation of equal values is exactly 0.
pub fn mean_std(values: &[f64]) -> (f64, f64) {
    let scale = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let Some(&first) = values.first() else {
        return (0.0, 0.0);
    };
    if scale == 0.0 || values.iter().all(|&v| v == first) {
        return (first, 0.0);
    }
    let n = values.len() as f64;
    let mean = values.iter().map(|v| v / scale).sum::<f64>() / n;
    let variance = values.iter().map(|v| (v / scale - mean).powi(2)).sum::<f64>() / n;
    (mean * scale, variance.sqrt() * scale)
}

/// Sample standard deviation (divided by n − 1); 0 of fewer than two values.
pub fn sample_std(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if n < 2.0 {
        return 0.0;
    }
    mean_std(values).1 * (n / (n - 1.0)).sqrt()
}

/// The q-quantile (0 ≤ q ≤ 1) of sorted values with linear interpolation; 0 of nothing.
pub fn quantile_of_sorted(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = q.clamp(0.0, 1.0) * last as f64;
    let low = place.floor() as usize;
    let high = (low + 1).min(last);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

/// Mean difference of paired values and its 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// Mean of b − a.
    pub delta: f64,
    /// 2.5 and 97.5 percentile of the mean difference over resamples of the pairs.
    pub ci95: [f64; 2],
}

/// Mean of `b − a` over pairs with a 95 % percentile bootstrap interval of `resamples` resamples.
///
/// Give one pair per prompt (average the samples of a prompt first): pairs are resampled as
/// independent units. `None` if the slices are empty or differ in length.
pub fn paired_bootstrap(
    a: &[f64],
    b: &[f64],
    resamples: usize,
    stream: &mut Stream,
) -> Option<PairedDifference> {
    if a.is_empty() || a.len() != b.len() {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    let n = differences.len();
    let delta = mean(&differences);
    let mut means: Vec<f64> = (0..resamples)
        .map(|_| (0..n).map(|_| differences[stream.index(n)]).sum::<f64>() / n as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    let ci95 = if means.is_empty() {
        [delta, delta]
    } else {
        [quantile_of_sorted(&means, 0.025), quantile_of_sorted(&means, 0.975)]
    };
    Some(PairedDifference { delta, ci95 })
}

/// Mean over independent repetitions, such as seeds, and Student's 95 % interval of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeanInterval {
    /// The mean.
    pub mean: f64,
    /// Its interval; `None` of one repetition, which says nothing about spread.
    pub ci95: Option<[f64; 2]>,
    /// Repetitions.
    pub n: usize,
}

/// Mean and 95 % t interval; `None` of nothing.
pub fn mean_interval(values: &[f64]) -> Option<MeanInterval> {
    // 97.5 % quantiles of Student's t with 1 to 30 degrees of freedom.
    const T: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    let n = values.len();
    let mean = if n == 0 { return None } else { mean(values) };
    let ci95 = (n > 1).then(|| {
        let half = T.get(n - 2).copied().unwrap_or(1.96) * sample_std(values) / (n as f64).sqrt();
        [mean - half, mean + half]
    });
    Some(MeanInterval { mean, ci95, n })
}

/// How often one of two paired values is larger.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WinRate {
    /// (wins of b + half of the ties) / pairs, 0..1.
    pub win_rate: f64,
    /// Share of exact ties, 0..1.
    pub ties: f64,
}

/// Win rate of `b` over `a`, a tie counting one half. `None` if empty or of unequal length.
pub fn win_rate(a: &[f64], b: &[f64]) -> Option<WinRate> {
    if a.is_empty() || a.len() != b.len() {
        return None;
    }
    let n = a.len() as f64;
    let wins = a.iter().zip(b).filter(|(a, b)| b > a).count() as f64;
    let ties = a.iter().zip(b).filter(|(a, b)| b == a).count() as f64;
    Some(WinRate { win_rate: (wins + 0.5 * ties) / n, ties: ties / n })
}

/// Mean win rate over repetitions of one comparison, and its 95 % percentile bootstrap interval, which lies
/// in 0..1 like the rate itself.
///
/// `wins[r][p]` is 1, ½ or 0: a win, a tie or a loss in repetition `r` (a seed) on prompt `p`. All repetitions
/// have the same prompts, so a resample draws repetitions and, for all of them, prompts, both with
/// replacement. `None` of nothing, or of repetitions of unequal length.
pub fn win_rate_interval(
    wins: &[Vec<f64>],
    resamples: usize,
    stream: &mut Stream,
) -> Option<MeanInterval> {
    let (repetitions, prompts) = (wins.len(), wins.first()?.len());
    if prompts == 0 || wins.iter().any(|row| row.len() != prompts) {
        return None;
    }
    let rate = mean(&wins.iter().map(|row| mean(row)).collect::<Vec<_>>());
    let mut rates: Vec<f64> = (0..resamples)
        .map(|_| {
            let mut times = vec![0.0; repetitions];
            (0..repetitions).for_each(|_| times[stream.index(repetitions)] += 1.0);
            let sum: f64 = (0..prompts)
                .map(|_| {
                    let prompt = stream.index(prompts);
                    wins.iter().zip(&times).map(|(row, times)| times * row[prompt]).sum::<f64>()
                })
                .sum();
            sum / (repetitions * prompts) as f64
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let ci95 = (!rates.is_empty())
        .then(|| [quantile_of_sorted(&rates, 0.025), quantile_of_sorted(&rates, 0.975)]);
    Some(MeanInterval { mean: rate, ci95, n: repetitions })
}

/// Pearson's correlation; `None` if empty, of unequal length, or one side does not vary.
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.is_empty() || a.len() != b.len() {
        return None;
    }
    let ((mean_a, std_a), (mean_b, std_b)) = (mean_std(a), mean_std(b));
    if std_a == 0.0 || std_b == 0.0 {
        return None;
    }
    let product: f64 =
        a.iter().zip(b).map(|(x, y)| (x - mean_a) / std_a * ((y - mean_b) / std_b)).sum();
    Some((product / a.len() as f64).clamp(-1.0, 1.0))
}

/// Spearman's rank correlation: Pearson's of the ranks, ties sharing their mean rank.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&ranks(a), &ranks(b))
}

/// Ranks from 1, equal values sharing the mean of their ranks.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let equal = order[start..]
            .iter()
            .take_while(|&&i| values[i] == values[order[start]])
            .count()
            .max(1);
        for &i in &order[start..start + equal] {
            ranks[i] = start as f64 + (equal as f64 + 1.0) / 2.0;
        }
        start += equal;
    }
    ranks
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rng::Key;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-12 * b.abs().max(1.0), "{a} is not {b}");
    }

    #[test]
    fn mean_and_std_survive_extremes() {
        assert_eq!(mean_std(&[]), (0.0, 0.0));
        assert_eq!(mean_std(&[0.1, 0.1, 0.1]), (0.1, 0.0));
        let (m, s) = mean_std(&[1.0, 2.0, 3.0, 4.0]);
        close(m, 2.5);
        close(s, 1.25f64.sqrt());
        close(sample_std(&[1.0, 2.0, 3.0, 4.0]), (5.0f64 / 3.0).sqrt());
        let (m, s) = mean_std(&[f64::MAX, -f64::MAX, f64::MAX, -f64::MAX]);
        assert_eq!((m, s), (0.0, f64::MAX));
        let (m, s) = mean_std(&[1e-300, 3e-300]);
        assert!((m / 2e-300 - 1.0).abs() < 1e-12 && (s / 1e-300 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn bootstrap_interval_covers_about_95_percent() {
        let mut covered = 0;
        for trial in 0..200 {
            let noise = Key::new(trial).stage("test").standard_normals(60);
            let b: Vec<f64> = noise.iter().map(|&x| 0.3 + f64::from(x)).collect();
            let mut stream = Key::new(trial).stage("bootstrap").stream();
            let result = paired_bootstrap(&[0.0; 60], &b, 400, &mut stream).unwrap();
            close(result.delta, mean(&b));
            covered += u32::from(result.ci95[0] <= 0.3 && 0.3 <= result.ci95[1]);
        }
        assert!((178..=200).contains(&covered), "{covered} of 200");
        let mut stream = Key::new(0).stream();
        assert_eq!(paired_bootstrap(&[], &[], 10, &mut stream), None);
        assert_eq!(paired_bootstrap(&[1.0], &[], 10, &mut stream), None);
        let one = paired_bootstrap(&[1.0], &[3.0], 0, &mut stream).unwrap();
        assert_eq!((one.delta, one.ci95), (2.0, [2.0, 2.0]));
    }

    #[test]
    fn intervals_over_seeds_are_student_s() {
        let found = mean_interval(&[0.185, 0.177, 0.201, 0.186, 0.163]).unwrap();
        let [low, high] = found.ci95.unwrap();
        close(found.mean, 0.1824);
        assert!((low - 0.1652).abs() < 1e-4 && (high - 0.1996).abs() < 1e-4, "{low}, {high}");
        assert_eq!(mean_interval(&[2.0]).unwrap(), MeanInterval { mean: 2.0, ci95: None, n: 1 });
        assert_eq!(mean_interval(&[]), None);
    }

    #[test]
    fn ties_count_half() {
        let rate = win_rate(&[0.0, 0.0, 0.0, 0.0], &[1.0, 0.0, 0.0, -1.0]).unwrap();
        assert_eq!((rate.win_rate, rate.ties), (0.5, 0.5));
    }

    #[test]
    fn intervals_of_win_rates_lie_between_none_and_all() {
        let of = |wins: &[Vec<f64>]| {
            win_rate_interval(wins, 2000, &mut Key::new(1).stage("bootstrap").stream())
        };
        // 97 % and 75 % over two seeds: Student's interval would reach from −54 to 226 %.
        let seed = |won: usize| (0..100).map(|p| f64::from(p < won)).collect::<Vec<f64>>();
        let found = of(&[seed(97), seed(75)]).unwrap();
        let [low, high] = found.ci95.unwrap();
        close(found.mean, 0.86);
        assert!((0.6..0.76).contains(&low) && (0.97..=1.0).contains(&high), "{low}, {high}");
        let all = of(&[seed(100), seed(100)]).unwrap();
        assert_eq!((all.mean, all.ci95), (1.0, Some([1.0, 1.0])));
        // One seed: the binomial spread, √(.25 / 100) · 1.96.
        let [low, high] = of(&[seed(50)]).unwrap().ci95.unwrap();
        assert!((low - 0.402).abs() < 0.02 && (high - 0.598).abs() < 0.02, "{low}, {high}");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[vec![]]), None);
        assert_eq!(of(&[vec![1.0], vec![1.0, 0.0]]), None);
    }

    #[test]
    fn correlations_of_known_cases() {
        close(pearson(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]).unwrap(), 1.0);
        close(pearson(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]).unwrap(), -1.0);
        close(pearson(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0]).unwrap(), 0.8);
        assert_eq!(pearson(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(ranks(&[10.0, 20.0, 10.0, 5.0]), [2.5, 4.0, 2.5, 1.0]);
        close(spearman(&[1.0, 2.0, 3.0], &[1.0, 100.0, 1000.0]).unwrap(), 1.0);
    }
}
