//! Verdicts of synthetic runs: green only with every condition, and never on noise.
#![allow(clippy::unwrap_used, missing_docs, clippy::disallowed_methods)]

use std::fs;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

/// A run in numbers; changes are in standard deviations of the base's scores.
#[derive(Clone)]
struct Case {
    seed: u64,
    prompts: usize,
    control: bool,
    asked: usize,
    selected: usize,
    /// Mean change of the tuned model and of the control, by reward; the last is held out.
    tuned: [f64; 4],
    random: [f64; 4],
    /// Deviation of a single change.
    noise: f64,
    /// The held-out reward is the first trained-on one under another name.
    copied: bool,
    /// Share of pictures that change at all on the held-out reward.
    share: f64,
}

const REWARDS: [&str; 4] = ["hps", "pick", "aes", "ir"];
const GREEN: Case = Case {
    seed: 1,
    prompts: 60,
    control: true,
    asked: 20,
    selected: 10,
    tuned: [0.6, 0.5, 0.4, 0.4],
    random: [0.1, 0.1, 0.1, 0.1],
    noise: 0.3,
    copied: false,
    share: 1.0,
};

struct Dice(ChaCha8Rng);

impl Dice {
    fn uniform(&mut self) -> f64 {
        f64::from(self.0.next_u32()) / f64::from(u32::MAX)
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Percentile bootstrap of a mean, as the program's evaluation computes it.
fn bootstrap(changes: &[f64], dice: &mut Dice) -> [f64; 2] {
    let n = changes.len();
    let mut means: Vec<f64> = (0..400)
        .map(|_| (0..n).map(|_| changes[(dice.0.next_u32() as usize) % n]).sum::<f64>() / n as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    [means[9], means[389]]
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn run(dir: &Path, case: &Case) {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(case.seed));
    write(&dir.join("recipe.toml"), &format!("[select]\nmax_samples = {}\n", case.asked));
    let selection: Vec<Value> = (0..40)
        .map(|i| {
            let id = format!("p{i:05}");
            json!({"id": format!("{id}-v01-s0"), "prompt_id": id, "variant": 1, "sample": 0, "passed": true,
                "selected": i < case.selected, "weight": f64::from(u8::from(i < case.selected)),
                "passed_by": {"hps": true, "pick": true, "aes": true}})
        })
        .collect();
    write(&dir.join("selection/selection.jsonl"), &lines(&selection));
    let models = if case.control { &["base", "tuned", "control"][..] } else { &["base", "tuned"] };
    // By reward and model, the scores of the prompts.
    let mut scores = [(); 4].map(|()| [(); 3].map(|()| Vec::new()));
    for _ in 0..case.prompts {
        for (r, of_reward) in scores.iter_mut().enumerate() {
            let base = dice.normal();
            let moves = r < 3 || dice.uniform() < case.share;
            let jolt = [0.0, case.noise * dice.normal(), case.noise * dice.normal()];
            let shift = [0.0, case.tuned[r] / if r < 3 { 1.0 } else { case.share }, case.random[r]];
            for (m, column) in of_reward.iter_mut().enumerate() {
                column.push(base + if moves { shift[m] + jolt[m] } else { -1e-3 * shift[m] });
            }
        }
    }
    if case.copied {
        scores[3] = scores[0].clone().map(|c| c.into_iter().map(|v| 2.0 * v + 1.0).collect());
    }
    let mut samples = Vec::new();
    #[allow(clippy::needless_range_loop)] // by prompt within reward and model
    for p in 0..case.prompts {
        for (m, model) in models.iter().enumerate() {
            let own: Map<String, Value> =
                (0..4).map(|r| (REWARDS[r].to_owned(), json!(scores[r][m][p]))).collect();
            samples.push(
                json!({"prompt_id": format!("e{p:04}"), "text": "a", "sample": 0, "model": model,
                "image": format!("images/{model}/e{p:04}-s0.png"), "scores": own}),
            );
        }
    }
    write(&dir.join("evaluation/samples.jsonl"), &lines(&samples));
    let mut table = Map::new();
    for (r, name) in REWARDS.iter().enumerate() {
        let change = |a: usize, b: usize| -> Vec<f64> {
            scores[r][a].iter().zip(&scores[r][b]).map(|(a, b)| b - a).collect()
        };
        let tuned = change(0, 1);
        let wins = tuned.iter().filter(|d| **d > 0.0).count() as f64 / tuned.len() as f64;
        let mut row = json!({"base": mean(&scores[r][0]), "tuned": mean(&scores[r][1]), "control": null,
            "delta": mean(&tuned), "ci95": bootstrap(&tuned, &mut dice), "win_rate": wins, "ties": 0.0,
            "trained_on": r < 3, "tuned_minus_control": null});
        if case.control {
            let lead = change(2, 1);
            row["control"] = json!(mean(&scores[r][2]));
            row["tuned_minus_control"] =
                json!({"delta": mean(&lead), "ci95": bootstrap(&lead, &mut dice), "win_rate": 0.5});
        }
        table.insert((*name).to_owned(), row);
    }
    let evaluation = json!({"rewards": table, "checker_by_kind": {}, "drift": {}, "diversity": {},
        "prompts": case.prompts, "samples_per_prompt": 1});
    write(&dir.join("evaluation/evaluation.json"), &evaluation.to_string());
}

fn verdict(case: &Case) -> Value {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), case);
    craft_report::verdict(dir.path()).unwrap()
}

#[test]
fn every_condition_alone_keeps_it_from_green() {
    let green = verdict(&GREEN);
    assert_eq!(green["level"], "good", "{green:#}");
    assert_eq!(green["missing"], json!([]));
    assert!(green["headline"].as_str().unwrap().starts_with("It worked"));
    let text = green["gains"][0]["text"].as_str().unwrap();
    assert!(text.contains("% of pictures got better") && text.contains("a small gain"), "{text}");
    for (case, words) in [
        (Case { control: false, ..GREEN }, "a random control"),
        (Case { prompts: 49, ..GREEN }, "at least 50 evaluation prompts: this run has 49"),
        (Case { selected: 9, ..GREEN }, "at least half of the samples asked for: 9 of 20"),
        (Case { tuned: [-0.2, -0.2, -0.2, 0.4], ..GREEN }, "a trained-on reward that rose"),
        (Case { tuned: [0.5, -0.5, -0.5, 0.4], ..GREEN }, "trained-on rewards that rose than fell"),
        (Case { random: [0.6, 0.5, 0.4, 0.1], ..GREEN }, "rose by more than in the random control"),
        (Case { random: [0.1, 0.1, 0.1, 0.4], ..GREEN }, "a lead over the random control"),
        (Case { tuned: [0.6, 0.5, 0.4, 0.0], random: [0.0; 4], ..GREEN }, "a held-out gain clear"),
        (Case { tuned: [0.6, 0.5, 0.4, -0.4], ..GREEN }, "a held-out gain clear of zero on ir"),
        (Case { copied: true, ..GREEN }, "an independent held-out reward: ir gives the same"),
        (
            Case { tuned: [0.6, 0.5, 0.4, 0.03], random: [0.0; 4], noise: 0.02, ..GREEN },
            "a gain of some size on ir",
        ),
        (
            Case { share: 0.3, random: [0.0; 4], ..GREEN },
            "more pictures that got better than worse",
        ),
    ] {
        let found = verdict(&case);
        assert_ne!(found["level"], "good", "{words}: {found:#}");
        let missing: Vec<&str> =
            found["missing"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
        assert!(missing.iter().any(|m| m.contains(words)), "{words:?} is not in {missing:#?}");
        let headline = found["headline"].as_str().unwrap();
        assert!(!headline.starts_with("It worked"), "{words}: {headline}");
    }
}

/// Rewards that know nothing score models that differ by nothing, or drift alike: what the filter picked did not
/// matter, whatever single intervals say.
#[test]
fn noise_is_never_green() {
    for seed in 0..300 {
        let mut dice = Dice(ChaCha8Rng::seed_from_u64(7000 + seed));
        let drift = [(); 4].map(|()| if seed % 2 == 0 { 0.0 } else { 0.4 * dice.normal() });
        let case = Case {
            seed,
            prompts: [16, 50, 64, 120][seed as usize % 4],
            selected: [4, 20][(seed / 4) as usize % 2],
            tuned: drift,
            random: drift,
            noise: 0.5,
            ..GREEN
        };
        let found = verdict(&case);
        assert_ne!(found["level"], "good", "seed {seed}: {found:#}");
        assert!(!found["missing"].as_array().unwrap().is_empty());
    }
}

/// The case of a new user: random weights, 16 prompts, 4 samples of 20, no trained-on reward rose.
#[test]
fn a_random_model_did_not_work() {
    let case = Case {
        prompts: 16,
        selected: 4,
        tuned: [0.0, 0.0, -0.1, 0.8],
        random: [0.0, 0.0, -0.1, 0.67],
        noise: 0.05,
        ..GREEN
    };
    let found = verdict(&case);
    assert_eq!(found["level"], "unclear");
    assert!(found["missing"].as_array().unwrap().len() >= 3, "{found:#}");
}

#[test]
fn no_evaluation_is_no_verdict() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &GREEN);
    fs::remove_dir_all(dir.path().join("evaluation")).unwrap();
    write(
        &dir.path().join("metrics.jsonl"),
        "{\"run\": \"craft\", \"step\": 0, \"loss\": null, \"grad_norm\": null, \"lr\": 0, \"nimg\": 1, \"skipped\": 0, \"seconds\": 1.0}\n",
    );
    let found = craft_report::verdict(dir.path()).unwrap();
    assert_eq!(
        (&found["level"], &found["missing"][0]),
        (&json!("unknown"), &json!("an evaluation"))
    );
    // What a budget is, is not guessed.
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &GREEN);
    fs::remove_file(dir.path().join("recipe.toml")).unwrap();
    assert_ne!(craft_report::verdict(dir.path()).unwrap()["level"], "good");
}
