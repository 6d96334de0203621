//! The choice of a method's learning rate and length among what a search tried. Nothing here reads or trains.

use serde::{Deserialize, Serialize};

/// The settings that a method trains with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) learning_rate: f64,
    pub(super) steps: usize,
}

/// One learning rate that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    pub(super) learning_rate: f64,
    /// (steps, mean change of the decisive reward against base).
    pub(super) gains: Vec<(usize, f64)>,
    /// (steps, change of the share of facts that the checker finds against base), if there is a checker.
    #[serde(default)]
    pub(super) facts: Vec<(usize, f64)>,
    /// Why it ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stopped: Option<String>,
}

/// What was tried with the candidates of one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SeedSearch {
    pub(super) seed: u64,
    pub(super) trials: Vec<Trial>,
    pub(super) seconds: f64,
}

/// The change at point `i` of a curve, with half of those before and after it: a setting that is good at one
/// length only is not to be trusted on another seed.
fn steady(curve: &[(usize, f64)], i: usize) -> f64 {
    let beside = [i.checked_sub(1).and_then(|i| curve.get(i)), curve.get(i + 1)];
    let (mut sum, mut weight) = (2.0 * curve[i].1, 2.0);
    for (_, gain) in beside.into_iter().flatten() {
        sum += gain;
        weight += 1.0;
    }
    sum / weight
}

/// Learning rate, steps and change at the best point, by its [`steady`] change, that loses at most
/// `fact_loss` of the facts; if all lose more, at the one that loses least. A rate that diverged is taken
/// only if all did, and then as far as it went; of equals the first, which is less training.
pub(super) fn best(trials: &[Trial], fact_loss: f64) -> Option<(f64, usize, f64)> {
    let best_of = |diverged: bool| {
        let trials = trials.iter().filter(move |t| t.stopped.is_some() == diverged);
        let points = trials.flat_map(|t| {
            t.gains.iter().enumerate().map(move |(i, &(steps, gain))| {
                let facts = t.facts.iter().find(|(at, _)| *at == steps).map_or(0.0, |f| f.1);
                // Whether the loss is allowed, then the smaller loss, then the larger gain.
                let allowed = facts >= -fact_loss;
                let rank = (allowed, if allowed { 0.0 } else { facts }, steady(&t.gains, i));
                (rank, (t.learning_rate, steps, gain))
            })
        });
        let best = points.fold(None, |best: Option<(_, _)>, new| match best {
            Some(old) if old.0 >= new.0 => Some(old),
            _ => Some(new),
        });
        best.map(|(_, point)| point)
    };
    best_of(false).or_else(|| best_of(true))
}

/// The mean of each point over the seeds that all came as far; stopped if one of them stopped.
pub(super) fn mean_of(seeds: &[SeedSearch]) -> Vec<Trial> {
    let Some(first) = seeds.first() else { return Vec::new() };
    let trial = |i: usize, trial: &Trial| {
        let same: Vec<&Trial> = seeds.iter().filter_map(|s| s.trials.get(i)).collect();
        Trial {
            learning_rate: trial.learning_rate,
            gains: mean_curve(&trial.gains, same.iter().map(|t| t.gains.as_slice())),
            facts: mean_curve(&trial.facts, same.iter().map(|t| t.facts.as_slice())),
            stopped: same.iter().find_map(|t| t.stopped.clone()),
        }
    };
    first.trials.iter().enumerate().map(|(i, t)| trial(i, t)).collect()
}

/// The mean of curves at each of the steps of `first` that all of them have.
fn mean_curve<'a>(
    first: &[(usize, f64)],
    all: impl Iterator<Item = &'a [(usize, f64)]> + Clone,
) -> Vec<(usize, f64)> {
    let at = |steps: usize| {
        let change =
            |curve: &[(usize, f64)]| curve.iter().find(|(at, _)| *at == steps).map(|c| c.1);
        let changes: Vec<f64> = all.clone().map(change).collect::<Option<_>>()?;
        Some((steps, changes.iter().sum::<f64>() / changes.len() as f64))
    };
    first.iter().filter_map(|(steps, _)| at(*steps)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(learning_rate: f64, gains: &[(usize, f64)], stopped: Option<&str>) -> Trial {
        let stopped = stopped.map(str::to_owned);
        Trial { learning_rate, gains: gains.to_vec(), facts: Vec::new(), stopped }
    }

    fn best_rate(trials: &[Trial]) -> Option<f64> {
        best(trials, 0.01).map(|(rate, ..)| rate)
    }

    fn seed(seed: u64, trials: Vec<Trial>) -> SeedSearch {
        SeedSearch { seed, trials, seconds: 1.0 }
    }

    #[test]
    fn the_mean_over_seeds_chooses_and_not_the_best_single_point() {
        let seeds = [
            seed(
                1,
                vec![trial(1e-5, &[(5, 0.2), (10, 0.3)], None), trial(1e-4, &[(5, 0.9)], None)],
            ),
            seed(
                2,
                vec![trial(1e-5, &[(5, 0.3), (10, 0.4)], None), trial(1e-4, &[(5, -0.8)], None)],
            ),
        ];
        let (rate, steps, gain) = best(&mean_of(&seeds), 0.01).expect("points");
        assert_eq!((rate, steps), (1e-5, 10));
        assert!((gain - 0.35).abs() < 1e-12, "{gain}");
        assert_eq!(best_rate(&seeds[0].trials), Some(1e-4));
    }

    #[test]
    fn a_point_that_stands_alone_is_not_trusted() {
        let trials = [
            trial(1e-4, &[(5, 0.028), (10, 0.027), (20, 0.041), (30, 0.032)], None),
            trial(4e-4, &[(5, 0.044), (10, -0.002), (20, 0.012), (30, -0.016)], None),
        ];
        assert_eq!(best(&trials, 0.01), Some((1e-4, 20, 0.041)));
        // Beside nothing it stands for itself, and the end of a curve that rises is its best.
        assert_eq!(steady(&[(5, 0.3)], 0), 0.3);
        let rising = trial(1e-4, &[(5, 0.1), (10, 0.2)], None);
        assert_eq!(best(&[rising], 0.01), Some((1e-4, 10, 0.2)));
    }

    #[test]
    fn a_rate_that_diverged_on_one_seed_is_taken_last_and_no_further_than_it_went() {
        let seeds = [
            seed(
                1,
                vec![trial(1e-5, &[(5, 0.1)], None), trial(1e-3, &[(5, 0.9), (10, 1.0)], None)],
            ),
            seed(2, vec![trial(1e-5, &[(5, 0.1)], None), trial(1e-3, &[(5, 0.9)], Some("at 7"))]),
        ];
        let trials = mean_of(&seeds);
        assert_eq!(trials[1].gains, [(5, 0.9)]);
        assert_eq!(best_rate(&trials), Some(1e-5));
        assert_eq!(best_rate(&trials[1..]), Some(1e-3));
        assert_eq!(best_rate(&[trial(1e-3, &[], Some("at 1"))]), None);
    }

    #[test]
    fn the_largest_gain_is_taken_among_points_that_keep_the_facts() {
        let with = |rate, gains: &[(usize, f64)], facts: &[(usize, f64)]| Trial {
            facts: facts.to_vec(),
            ..trial(rate, gains, None)
        };
        let trials = [
            with(1e-5, &[(5, 0.1), (10, 0.2)], &[(5, 0.0), (10, -0.01)]),
            with(1e-4, &[(5, 0.5), (10, 0.9)], &[(5, -0.02), (10, -0.05)]),
        ];
        assert_eq!(best(&trials, 0.01), Some((1e-5, 10, 0.2)));
        assert_eq!(best(&trials, 0.03), Some((1e-4, 5, 0.5)));
        assert_eq!(best(&trials, f64::INFINITY), Some((1e-4, 10, 0.9)));
        // All of them lose more: the one that loses least.
        assert_eq!(best(&trials[1..], 0.01), Some((1e-4, 5, 0.5)));
        let seeds = [seed(1, trials.to_vec()), seed(2, trials.to_vec())];
        assert_eq!(mean_of(&seeds), trials);
    }
}
