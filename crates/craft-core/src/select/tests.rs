use super::*;
use crate::reward::ScoreRow;

mod random;

fn name(text: &str) -> RewardName {
    RewardName::new(text).unwrap()
}

fn rewards(names: &[&str]) -> Vec<RewardUse> {
    names.iter().map(|n| RewardUse::new(name(n))).collect()
}

/// All rows in a table of the rewards of these options.
fn table(rows: &[ScoreRow], options: &SelectOptions) -> ScoreTable {
    let mut table = ScoreTable::new(options.rewards.iter().map(|reward| reward.name.clone()));
    rows.iter().for_each(|row| table.push(row));
    table
}

/// What to say of a selection from these rows.
fn advice(rows: &[ScoreRow], options: &SelectOptions) -> Option<Shortfall> {
    shortfall(&choose(&table(rows, options), options).unwrap())
}

/// One row: prompt, variant, sample and the scores of `a`, `b`, ….
fn row(prompt: usize, variant: u32, sample: u32, scores: &[f64]) -> ScoreRow {
    let mut row = ScoreRow::new(CandidateId::new(PromptId::from_index(prompt), variant, sample));
    for (letter, score) in "abcdef".chars().zip(scores) {
        row.set(&name(&letter.to_string()), *score);
    }
    row
}

fn raw(names: &[&str]) -> SelectOptions {
    SelectOptions { total: Total::Raw, ..SelectOptions::new(rewards(names)) }
}

fn find<'a>(selection: &'a Selection, id: &str) -> &'a SelectionRow {
    selection.rows.iter().find(|r| r.id.to_string() == id).unwrap()
}

fn ids(selection: &Selection) -> Vec<String> {
    selection.selected().map(|r| r.id.to_string()).collect()
}

#[test]
fn a_group_by_hand() {
    // Totals a + b: 3 (original), 6, 3, 4; mean 4, deviation √1.5.
    let rows = [
        row(0, 0, 0, &[1.0, 2.0]),
        row(0, 1, 0, &[2.0, 4.0]),
        row(0, 2, 0, &[2.0, 1.0]),
        row(0, 3, 0, &[1.5, 2.5]),
    ];
    let selection = select(&rows, &raw(&["a", "b"])).unwrap();
    let std = 1.5f64.sqrt();
    let first = find(&selection, "p00000-v01-s0");
    assert!(first.selected && first.passed && first.reason.is_none());
    assert_eq!(first.total, Some(6.0));
    assert!((first.advantage.unwrap() - 2.0 / (std + EPS)).abs() < 1e-12);
    assert_eq!(first.weight, 1.0); // the only one selected, so the mean itself
    let second = find(&selection, "p00000-v02-s0");
    assert_eq!(second.passed_by, BTreeMap::from([("a".into(), true), ("b".into(), false)]));
    assert_eq!(second.reason.as_deref(), Some("rose on 1 of 2 rewards: 2 needed"));
    // Rises on both, yet stands at the mean of its group: no weight.
    let third = find(&selection, "p00000-v03-s0");
    assert!(third.passed && !third.selected && third.advantage.unwrap().abs() < 1e-12);
    let funnel = &selection.funnel;
    assert_eq!((funnel.prompts, funnel.originals, funnel.candidates), (1, 1, 3));
    assert_eq!((funnel.compared, funnel.passed, funnel.rejected, funnel.selected), (3, 2, 1, 1));
    assert_eq!(funnel.passed_by["a"], 3);
    assert_eq!(funnel.passed_count, BTreeMap::from([(1, 1), (2, 2)]));
    assert_eq!(funnel.not_selected, BTreeMap::from([(NotSelected::NoWeight, 1)]));
}

#[test]
fn zscores_make_the_scale_of_a_reward_irrelevant() {
    let at = |scale: f64| {
        let rows: Vec<ScoreRow> = (0..6)
            .flat_map(|p| (0..4).map(move |v| (p, v)))
            .map(|(p, v)| {
                let x = ((p * 7 + v * 13) % 11) as f64;
                let y = ((p * 5 + v * 3) % 7) as f64;
                row(p, v as u32, 0, &[x, scale * y + 100.0 * scale])
            })
            .collect();
        select(&rows, &SelectOptions::new(rewards(&["a", "b"]))).unwrap()
    };
    let (one, large) = (at(1.0), at(1e6));
    assert_eq!(ids(&one), ids(&large));
    for (a, b) in one.rows.iter().zip(&large.rows) {
        assert!((a.advantage.unwrap() - b.advantage.unwrap()).abs() < 1e-9);
    }
}

#[test]
fn each_sample_is_compared_with_the_original_of_its_noise() {
    let rows = [
        row(0, 0, 0, &[0.0]),
        row(0, 0, 1, &[5.0]),
        row(0, 1, 0, &[3.0]),
        row(0, 1, 1, &[4.0]),
        row(0, 2, 2, &[9.0]), // no original of this noise
    ];
    let mut options = raw(&["a"]);
    options.sign = Sign::Ones;
    let selection = select(&rows, &options).unwrap();
    assert_eq!(ids(&selection), ["p00000-v01-s0"]);
    assert_eq!(selection.funnel.dropped, BTreeMap::from([(DropReason::OriginalMissing, 1)]));
    assert!(find(&selection, "p00000-v02-s2").reason.as_ref().unwrap().contains("p00000-v00-s2"));
}

#[test]
fn k_of_n_margin_filter_off_and_indicator_per_prompt() {
    let rows = [
        row(0, 0, 0, &[0.0, 0.0, 0.0]),
        row(0, 1, 0, &[1.0, 1.0, 1.0]),
        row(0, 2, 0, &[1.0, 1.0, -1.0]),
        row(1, 0, 0, &[0.0, 0.0, 0.0]),
        row(1, 1, 0, &[0.1, 0.1, 0.1]),
        row(1, 2, 0, &[1.0, 1.0, 1.0]),
    ];
    let mut options = raw(&["a", "b", "c"]);
    options.sign = Sign::Ones;
    let pick = |options: &SelectOptions| ids(&select(&rows, options).unwrap());
    assert_eq!(pick(&options), ["p00000-v01-s0", "p00001-v01-s0", "p00001-v02-s0"]);
    let two = SelectOptions { min_passes: Some(2), ..options.clone() };
    assert_eq!(pick(&two).len(), 4);
    let margin = SelectOptions { margin: 0.5, ..options.clone() };
    assert_eq!(pick(&margin), ["p00000-v01-s0", "p00001-v02-s0"]);
    let prompt = SelectOptions { indicator: Indicator::Prompt, ..options.clone() };
    assert_eq!(pick(&prompt), ["p00001-v01-s0", "p00001-v02-s0"]);
    let mut off = options.clone();
    off.rewards[2].filter = false;
    assert_eq!(pick(&off).len(), 4);
    let none = SelectOptions { min_passes: Some(0), ..options.clone() };
    assert_eq!(pick(&none).len(), 4);
}

#[test]
fn budget_limit_per_prompt_and_signs() {
    let rows: Vec<ScoreRow> = (0..4)
        .flat_map(|p| (0..5u32).map(move |v| row(p, v, 0, &[f64::from(v) * (1.0 + p as f64)])))
        .collect();
    let mut options = raw(&["a"]);
    options.max_samples = 6;
    // All groups are alike up to scale: v4 of each (Â = 2/√2), then v3 of the first ids.
    let selection = select(&rows, &options).unwrap();
    let v4 = ["p00000-v04-s0", "p00001-v04-s0", "p00002-v04-s0", "p00003-v04-s0"];
    assert!(v4.iter().all(|id| ids(&selection).contains(&(*id).to_owned())));
    assert_eq!(selection.funnel.selected, 6);
    let mean: f64 = selection.selected().map(|r| r.weight).sum::<f64>() / 6.0;
    assert!((mean - 1.0).abs() < 1e-12);
    let advantage_ratio = find(&selection, v4[0]).advantage.unwrap()
        / selection.selected().find(|r| r.variant == 3).unwrap().advantage.unwrap();
    let weight_ratio = find(&selection, v4[0]).weight
        / selection.selected().find(|r| r.variant == 3).unwrap().weight;
    assert!((advantage_ratio - weight_ratio).abs() < 1e-12);
    let one_each = SelectOptions { max_per_prompt: Some(1), ..options.clone() };
    assert_eq!(ids(&select(&rows, &one_each).unwrap()), v4);
    let all = SelectOptions { max_samples: 100, ..options.clone() };
    let count = |sign, shift| {
        let options = SelectOptions { sign, shift, ..all.clone() };
        select(&rows, &options).unwrap()
    };
    assert_eq!(count(Sign::Clip, 0.0).funnel.selected, 8); // v3 and v4
    assert_eq!(count(Sign::Ones, 0.0).funnel.selected, 16);
    assert_eq!(count(Sign::Shifted, 0.75).funnel.selected, 16);
    let signed = count(Sign::Signed, 0.0);
    assert!(signed.selected().any(|r| r.weight < 0.0));
    let size: f64 = signed.selected().map(|r| r.weight.abs()).sum();
    assert!((size / signed.funnel.selected as f64 - 1.0).abs() < 1e-12);
}

#[test]
fn gdpo_and_survivor_statistics() {
    // b varies a hundred times as much as a; within the group each counts alike.
    let rows = [
        row(0, 0, 0, &[0.0, 0.0, 1.0]),
        row(0, 1, 0, &[2.0, 100.0, 1.0]),
        row(0, 2, 0, &[1.0, 200.0, 1.0]),
    ];
    let mut options = SelectOptions { total: Total::Gdpo, ..raw(&["a", "b", "c"]) };
    options.rewards[2].filter = false; // c does not vary: adds 0
    let selection = select(&rows, &options).unwrap();
    let total = |id: &str| find(&selection, id).total.unwrap();
    assert!((total("p00000-v01-s0") - total("p00000-v02-s0")).abs() < 1e-12);
    let survivors =
        SelectOptions { statistics: Statistics::Survivors, sign: Sign::Ones, ..raw(&["a", "b"]) };
    let selection = select(&rows, &survivors).unwrap();
    let sum: f64 = selection.rows.iter().filter_map(|r| r.advantage).sum();
    assert!(sum.abs() < 1e-12);
    // One survivor: no variance, counted, and the message says what to change.
    let error = select(&rows[..2], &survivors).unwrap_err();
    let SelectError::NothingSelected { funnel, hint } = &error else { panic!("{error}") };
    assert_eq!(funnel.dropped, BTreeMap::from([(DropReason::GroupTooSmall, 1)]));
    assert!(hint.contains("select.statistics"), "{hint}");
}

#[test]
fn unscaled_advantages_rank_large_gains_of_other_groups_first() {
    let rows = [
        row(0, 0, 0, &[0.0]),
        row(0, 1, 0, &[0.1]),
        row(1, 0, 0, &[0.0]),
        row(1, 1, 0, &[1.0]),
        row(1, 2, 0, &[0.9]),
    ];
    let first = |scale| {
        let options = SelectOptions { scale, max_samples: 1, ..raw(&["a"]) };
        let selection = select(&rows, &options).unwrap();
        let row = selection.selected().next().unwrap();
        (row.id.to_string(), row.advantage.unwrap())
    };
    let (id, advantage) = first(AdvantageScale::None);
    assert_eq!(id, "p00001-v01-s0");
    assert!((advantage - (1.0 - 1.9 / 3.0)).abs() < 1e-12);
    // The small gain is one deviation of its group of two, the large one .81 of its group of three.
    assert_eq!(first(AdvantageScale::Group).0, "p00000-v01-s0");
    let tied = [rows[0].clone(), rows[1].clone(), rows[2].clone(), row(1, 1, 0, &[1.0])];
    let count = |scale| {
        let options = SelectOptions { scale, ..raw(&["a"]) };
        let selection = select(&tied, &options).unwrap();
        selection.selected().map(|r| r.weight).collect::<Vec<f64>>()
    };
    assert!((count(AdvantageScale::Group)[0] - count(AdvantageScale::Group)[1]).abs() < 1e-6);
    assert!((count(AdvantageScale::None)[1] / count(AdvantageScale::None)[0] - 10.0).abs() < 1e-9);
}

#[test]
fn nothing_selected_says_what_happened_and_what_to_loosen() {
    let rows = [
        row(0, 0, 0, &[1.0, 1.0]),
        row(0, 1, 0, &[2.0, 0.0]),
        row(0, 2, 0, &[3.0, 0.0]),
        row(0, 3, 0, &[f64::NAN, 0.0]),
    ];
    let error = select(&rows, &SelectOptions { margin: 0.1, ..raw(&["a", "b"]) }).unwrap_err();
    let text = error.to_string();
    for word in [
        "none of 3",
        "1 non-finite",
        "2 on a",
        "0 on b",
        "min_passes = 1 (would pass 2)",
        "select.margin",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let SelectError::NothingSelected { funnel, .. } = error else { panic!() };
    assert_eq!((funnel.rejected, funnel.passed), (2, 0));
    assert!(matches!(
        select(&rows[..1], &raw(&["a"])),
        Err(SelectError::NoCandidates { originals: 1 })
    ));
    assert!(matches!(select(&[], &raw(&["a"])), Err(SelectError::NoCandidates { originals: 0 })));
    let equal = [row(0, 0, 0, &[1.0]), row(0, 1, 0, &[1.0])];
    let SelectError::NothingSelected { funnel, .. } = select(&equal, &raw(&["a"])).unwrap_err()
    else {
        panic!()
    };
    assert_eq!(funnel.dropped, BTreeMap::from([(DropReason::ZeroVarianceGroup, 1)]));
}

#[test]
fn options_are_checked() {
    let rows = [row(0, 0, 0, &[1.0]), row(0, 1, 0, &[2.0])];
    let mut bad = vec![SelectOptions { min_passes: Some(2), ..raw(&["a"]) }];
    bad.push(raw(&[]));
    bad.push(raw(&["a", "a"]));
    bad.push(SelectOptions { max_samples: 0, ..raw(&["a"]) });
    bad.push(SelectOptions { margin: f64::NAN, ..raw(&["a"]) });
    let mut negative = raw(&["a"]);
    negative.rewards[0].weight = -1.0;
    bad.push(negative);
    for options in bad {
        assert!(matches!(select(&rows, &options), Err(SelectError::Options(_))), "{options:?}");
    }
}

#[test]
fn lines_match_the_format_of_the_run_folder() {
    let rows = [row(0, 0, 0, &[1.0]), row(0, 1, 0, &[3.0])];
    let selection = select(&rows, &raw(&["a"])).unwrap();
    let line = serde_json::to_string(&selection.rows[0]).unwrap();
    assert!(line.starts_with(r#"{"id":"p00000-v01-s0","prompt_id":"p00000","variant":1,"sample":0,"passed_by":{"a":true},"passed":true,"reason":null,"total":3.0,"advantage":0.99"#), "{line}");
    assert!(line.ends_with(r#""weight":1.0,"selected":true}"#), "{line}");
    let funnel = serde_json::to_string(&selection.funnel).unwrap();
    assert!(
        funnel.contains(r#""passed_by":{"a":1}"#) && funnel.contains(r#""dropped":{}"#),
        "{funnel}"
    );
}

#[test]
fn too_few_samples_come_with_what_to_loosen() {
    // Prompt 0: one passes all, one fails on b alone; prompt 1: one fails on b alone, one on both.
    let rows = [
        row(0, 0, 0, &[1.0, 1.0]),
        row(0, 1, 0, &[3.0, 3.0]),
        row(0, 2, 0, &[2.5, 0.9]),
        row(1, 0, 0, &[1.0, 1.0]),
        row(1, 1, 0, &[4.0, 0.5]),
        row(1, 2, 0, &[0.5, 0.5]),
    ];
    let options = SelectOptions { max_samples: 3, ..raw(&["a", "b"]) };
    let found = advice(&rows, &options).unwrap();
    assert_eq!((found.asked, found.selected, found.compared), (3, 1, 4));
    assert_eq!(found.strictest, Some(("b".to_owned(), 3)));
    assert_eq!(found.changes.len(), 2);
    for change in &found.changes {
        let mut looser = options.clone();
        match change.change.as_str() {
            "select.min_passes = 1" => looser.min_passes = Some(1),
            "filter = false for b" => looser.rewards[1].filter = false,
            other => panic!("{other}"),
        }
        assert_eq!(select(&rows, &looser).unwrap().funnel.selected, change.selected);
    }
    assert_eq!(found.candidates_needed, Some(12));
    for words in
        ["1 of the 3 samples", "most failed on b (3, 75 %)", "about 12 candidates, 3.0 times"]
    {
        assert!(found.text.contains(words), "{words:?} is not in {}", found.text);
    }
    // A margin that is too high is named.
    let strict = SelectOptions { margin: 0.5, max_samples: 2, ..raw(&["a"]) };
    let strict_rows = [
        row(0, 0, 0, &[1.0]),
        row(0, 1, 0, &[1.1]),
        row(0, 2, 0, &[4.0]),
        row(1, 0, 0, &[1.0]),
        row(1, 1, 0, &[1.2]),
    ];
    let found = advice(&strict_rows, &strict).unwrap();
    assert_eq!(
        found.changes,
        [Change { change: "select.margin = 0 (now 0.5)".into(), selected: 2 }]
    );
    let enough = SelectOptions { max_samples: 1, ..strict };
    assert_eq!(advice(&strict_rows, &enough), None);
}
