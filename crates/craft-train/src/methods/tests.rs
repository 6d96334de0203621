#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use craft_core::{CandidateId, PromptId, Recipe, RewardName, ScoreRow};

use super::*;
use crate::pool::{Chosen, Source, Units};

const RECIPE: &str = r#"
seed = 1
[model]
path = "m"
[prompts]
source = "pocket"
[[rewards]]
name = "a"
[[rewards]]
name = "b"
weight = 2.0
[select]
max_samples = 3
"#;

/// Four prompts with a plain picture and three expansions; reward b falls as a rises a little.
struct Four(Vec<ScoreRow>);

impl Source for Four {
    fn ids(&self) -> Result<Vec<CandidateId>> {
        Ok(self.0.iter().map(|row| row.id().clone()).collect())
    }

    fn rows(&self) -> Result<Vec<ScoreRow>> {
        Ok(self.0.clone())
    }
}

fn four() -> Four {
    let [a, b] = ["a", "b"].map(|n| RewardName::new(n).unwrap());
    let places = (0..4u32).flat_map(|p| (0..4u32).map(move |v| (p, v)));
    let rows = places.map(|(p, v)| {
        let id = CandidateId::new(PromptId::from_index(p as usize), v, 0);
        let score = f64::from((7 * p + 5 * v) % 11);
        ScoreRow::new(id).with(&a, score).with(&b, 0.5 * score)
    });
    Four(rows.collect())
}

fn units(name: &str) -> Units {
    let recipe = Recipe::parse::<String>(RECIPE, &[]).unwrap();
    let source = four();
    let pool = Pool::new(&recipe, &source);
    match by_name(name, "--methods").unwrap().data {
        Data::Candidates { units, .. } => units(&pool).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn totals_are_weighted_z_scores() {
    let recipe = Recipe::parse::<String>(RECIPE, &[]).unwrap();
    let source = four();
    let pool = Pool::new(&recipe, &source);
    let all: Vec<f64> = pool.totals().unwrap().values().copied().collect();
    let (mean, std) = craft_core::stats::mean_std(&all);
    // Both rewards are one number at different scales: (1 + 2) times its z-score.
    assert!(mean.abs() < 1e-12 && (std - 3.0).abs() < 1e-12, "{mean}, {std}");
}

#[test]
fn every_method_trains_on_what_it_says() {
    assert_eq!(units("sft").len(), 12);
    assert_eq!(units("craft").len(), 3);
    assert_eq!(units("random").len(), 3);
    // Scores are 0, 5, 10, 4 of prompt 0; 7, 1, 6, 0 of 1; 3, 8, 2, 7 of 2; 10, 4, 9, 3 of 3.
    let best: Vec<u32> = units("raft").iter().map(|u| u[0].0.variant).collect();
    assert_eq!(best, [2, 2, 1, 2]);
    let weights: Vec<Chosen> = units("rwr").concat();
    let sum: f64 = weights.iter().map(|c| c.1).sum();
    assert!((sum - 12.0).abs() < 1e-9);
    for pairs in ["dpo-rewards", "mapo-rewards"] {
        let pairs = units(pairs);
        let ends: Vec<[u32; 2]> = pairs.iter().map(|p| [p[0].0.variant, p[1].0.variant]).collect();
        assert_eq!(ends, [[2, 0], [0, 3], [1, 2], [0, 3]]);
    }
    assert_eq!(units("kto-rewards").len(), 8);
    let liked = units("kto-liked").concat();
    let selected = units("craft").concat();
    assert!(liked.iter().zip(&selected).all(|(l, s)| l.0 == s.0 && l.1 == 1.0));
    let labels = units("kto-selected").concat();
    assert_eq!(labels[..3], liked);
    let worst = labels[3..].iter().map(|c| (c.0.to_string(), c.1));
    let ids = [(1, 3), (2, 2), (3, 3)]
        .map(|(p, v)| CandidateId::new(PromptId::from_index(p), v, 0).to_string());
    assert_eq!(worst.collect::<BTreeMap<_, _>>(), ids.map(|id| (id, 0.0)).into());
    let groups = units("lair");
    assert!(groups.iter().all(|g| g.len() == 4 && g.iter().map(|c| c.1).sum::<f64>().abs() < 1e-9));
    for signed in ["awm", "ram"] {
        let advantages = units(signed);
        assert_eq!(advantages.len(), 16);
        assert!(advantages.concat().iter().map(|c| c.1).sum::<f64>().abs() < 1e-6);
    }
    assert!(units("nft").concat().iter().all(|c| (0.0..=1.0).contains(&c.1)));
}

#[test]
fn names_are_unique_and_annotated_methods_have_one_of_rewards() {
    let names: Vec<&str> = all().map(|m| m.name).collect();
    for (i, method) in all().enumerate() {
        assert!(!names[..i].contains(&method.name), "{}", method.name);
        let rewards = format!("{}-rewards", method.name);
        assert_eq!(names.contains(&&*rewards), method.data.annotated(), "{}", method.name);
    }
}

#[test]
fn a_run_trains_with_every_method_over_candidates_and_refuses_the_others() {
    let mut recipe = Recipe::parse::<String>(RECIPE, &[]).unwrap();
    for method in all() {
        method.name.clone_into(&mut recipe.train.method);
        let found = of_recipe(&recipe);
        if method.name == "kto" {
            assert_eq!(found.unwrap().name, "kto-selected");
        } else if method.is_offline() {
            assert_eq!(found.unwrap().name, method.name);
        } else {
            let refused = found.unwrap_err().to_string();
            assert!(refused.contains(method.name) && refused.contains("raft"), "{refused}");
        }
    }
    "rafft".clone_into(&mut recipe.train.method);
    let refused = of_recipe(&recipe).unwrap_err().to_string();
    assert!(refused.contains("did you mean `raft`"), "{refused}");
}

#[test]
fn keys_that_a_loss_does_not_take_are_refused() {
    let check = |keys: &[&str]| {
        let recipe = Recipe::parse(RECIPE, keys).unwrap();
        of_recipe(&recipe).unwrap().check_run(&recipe).map_err(|e| e.to_string())
    };
    check(&["train.min_snr_gamma=5", "train.form.pull=0.1"]).unwrap();
    let refused = check(&["train.method=kto", "train.min_snr_gamma=5"]).unwrap_err();
    assert!(refused.contains("train.min_snr_gamma") && refused.contains("kto"), "{refused}");
    let refused = check(&["train.method=nft", "train.form.pull=0.1"]).unwrap_err();
    assert!(refused.contains("train.form") && refused.contains("nft"), "{refused}");
    let refused = check(&["train.method=raft", "expand.variants=1"]).unwrap_err();
    assert!(refused.contains("raft") && refused.contains("expand.variants"), "{refused}");
}
