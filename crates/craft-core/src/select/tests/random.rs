//! Selections of random groups keep the invariants.

use super::*;
use crate::rng::{Key, Stream};

/// A score that real and broken reward models might give.
fn wild(stream: &mut Stream) -> f64 {
    match stream.below(12) {
        0 => f64::NAN,
        1 => f64::INFINITY,
        2 => f64::NEG_INFINITY,
        3 => 1e30 * stream.uniform_in(-1.0, 1.0),
        4 => 1e-30 * stream.uniform_in(-1.0, 1.0),
        5 => 0.0,
        6 => 1.0, // equal values
        _ => stream.standard_normal(),
    }
}

/// Options at random, all of them valid.
fn random_options(stream: &mut Stream) -> SelectOptions {
    let mut options = SelectOptions::new(rewards(&["a", "b", "c"]));
    options.rewards[2].filter = stream.chance(0.5);
    options.rewards[1].weight = [0.0, 0.5, 3.0][stream.index(3)];
    options.min_passes = [None, Some(0), Some(1), Some(2)][stream.index(4)];
    options.margin = [0.0, 0.0, 0.3, -0.3][stream.index(4)];
    options.indicator = [Indicator::Candidate, Indicator::Prompt][stream.index(2)];
    options.total = [Total::Zscore, Total::Raw, Total::Gdpo][stream.index(3)];
    options.statistics = [Statistics::Group, Statistics::Survivors][stream.index(2)];
    options.sign = [Sign::Clip, Sign::Signed, Sign::Shifted, Sign::Ones][stream.index(4)];
    options.shift = 0.5;
    options.max_samples = 1 + stream.index(6);
    options.max_per_prompt = [None, Some(1), Some(2)][stream.index(3)];
    options
}

/// Counts of a funnel agree with each other.
fn check_counts(funnel: &Funnel) {
    let dropped: usize = funnel.dropped.values().sum();
    let not_selected: usize = funnel.not_selected.values().sum();
    assert_eq!(funnel.candidates, dropped + funnel.rejected + funnel.passed, "{funnel:?}");
    assert_eq!(funnel.passed, funnel.selected + not_selected, "{funnel:?}");
    assert_eq!(funnel.compared, funnel.passed_count.values().sum::<usize>(), "{funnel:?}");
    let rises: usize = funnel.passed_count.iter().map(|(passes, count)| passes * count).sum();
    assert_eq!(funnel.passed_by.values().sum::<usize>(), rises, "{funnel:?}");
}

/// 10,000 random groups with NaN, infinities, missing and equal scores, duplicate ids and sizes
/// from 1e-30 to 1e30.
#[test]
fn random_groups() {
    let (mut groups, mut selections, mut errors) = (0, 0, 0);
    let mut trial = 0;
    while groups < 10_000 {
        trial += 1;
        let mut stream = Key::new(trial).stage("random groups").stream();
        let options = random_options(&mut stream);
        let mut rows = Vec::new();
        for prompt in 0..1 + stream.index(5) {
            groups += 1;
            for variant in 0..1 + stream.below(5) as u32 {
                for sample in 0..1 + stream.below(2) as u32 {
                    let scores = [wild(&mut stream), wild(&mut stream), wild(&mut stream)];
                    let known = if stream.chance(0.05) { stream.index(3) } else { 3 };
                    rows.push(row(prompt, variant, sample, &scores[..known]));
                    if stream.chance(0.03) {
                        rows.push(row(prompt, variant, sample, &[9.0; 3]));
                    }
                }
            }
        }
        let result = select(&rows, &options);
        let candidates = rows.iter().filter(|r| r.id().variant > 0).count();
        match &result {
            Ok(selection) => {
                selections += 1;
                check_selection(selection, &options);
                assert_eq!(selection.funnel.candidates, candidates);
            }
            Err(SelectError::NothingSelected { funnel, hint }) => {
                errors += 1;
                check_counts(funnel);
                assert!(hint.contains("; try ") && funnel.selected == 0);
                assert_eq!(funnel.candidates, candidates);
            }
            Err(SelectError::NoCandidates { .. }) => assert_eq!(candidates, 0),
            Err(error) => panic!("{error}"),
        }
        // The same as of the clean subset: first rows of their ids that have all three scores.
        let mut clean: Vec<ScoreRow> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for row in &rows {
            if seen.insert(row.id()) && row.scores().len() == 3 {
                clean.push(row.clone());
            }
        }
        stream.shuffle(&mut clean);
        if let (Ok(a), b) = (&result, select(&clean, &options)) {
            let b = b.unwrap();
            let used: Vec<&SelectionRow> =
                a.rows.iter().filter(|r| b.rows.iter().any(|s| s.id == r.id)).collect();
            assert_eq!(used, b.rows.iter().collect::<Vec<_>>(), "trial {trial}");
            assert!(
                a.rows.iter().all(|r| used.contains(&r) || (!r.selected && r.advantage.is_none()))
            );
        } else {
            assert!(select(&clean, &options).is_err(), "trial {trial}");
        }
    }
    assert!(selections > 500 && errors > 100, "{selections} selections, {errors} errors");
}

/// What every selection keeps.
fn check_selection(selection: &Selection, options: &SelectOptions) {
    check_counts(&selection.funnel);
    assert!(selection.rows.windows(2).all(|w| w[0].id < w[1].id));
    let mut per_prompt: BTreeMap<&PromptId, usize> = BTreeMap::new();
    let mut size = 0.0;
    for row in &selection.rows {
        assert!(row.variant >= 1);
        assert!(row.advantage.is_none_or(f64::is_finite), "{row:?}");
        assert!(row.total.is_none_or(f64::is_finite), "{row:?}");
        assert!(row.weight.is_finite(), "{row:?}");
        assert_eq!(row.selected, row.reason.is_none());
        assert_eq!(row.selected, row.weight != 0.0);
        if row.selected {
            assert!(row.passed);
            size += row.weight.abs();
            *per_prompt.entry(&row.prompt_id).or_default() += 1;
            if options.sign != Sign::Signed {
                assert!(row.weight > 0.0);
            }
        }
    }
    let n = selection.selected().count();
    assert_eq!(n, selection.funnel.selected);
    assert_eq!(per_prompt.len(), selection.funnel.selected_prompts);
    assert!(n <= options.max_samples);
    assert!((size / n as f64 - 1.0).abs() < 1e-9, "mean weight {}", size / n as f64);
    if let Some(limit) = options.max_per_prompt {
        assert!(per_prompt.values().all(|count| *count <= limit));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]

    /// Advantages are finite and sum to 0 before clipping, whatever the size of the totals.
    #[test]
    fn advantages_sum_to_zero(
        totals in proptest::collection::vec(-1.0f64..1.0, 0..12),
        exponent in -30i32..=30,
        offset in -10.0f64..10.0,
    ) {
        let totals: Vec<f64> = totals.iter().map(|t| (t + offset) * 10f64.powi(exponent)).collect();
        if let Ok(advantages) = group_advantages(&totals) {
            proptest::prop_assert!(advantages.iter().all(|a| a.is_finite()));
            proptest::prop_assert!(advantages.iter().sum::<f64>().abs() < 1e-9 * 12.0);
            let bound = (totals.len() as f64).sqrt();
            proptest::prop_assert!(advantages.iter().all(|a| a.abs() <= bound));
        }
    }
}
