//! A training that diverges stops, stays stopped, and leaves no state that cannot be trained on.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::Tiny;

/// A weight decay of 10 at a learning rate of 1 turns the weights round, ninefold at each step.
const DIVERGES: [&str; 14] = [
    "run",
    "recipe.toml",
    "--out",
    "out",
    "--set",
    "train.learning_rate=1",
    "--set",
    "train.weight_decay=10",
    "--set",
    "train.max_nonfinite_steps=3",
    "--set",
    "train.steps=60",
    "--set",
    "train.checkpoint_every=2",
];

fn metrics(tiny: &Tiny) -> Vec<Value> {
    let text = fs::read_to_string(tiny.path("out/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn states(dir: &Path) -> Vec<usize> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let number = |name: std::ffi::OsString| name.to_str()?.strip_prefix("step-")?.parse().ok();
    let mut steps: Vec<usize> = names.filter_map(number).collect();
    steps.sort_unstable();
    steps
}

#[test]
fn a_training_that_diverged_is_refused_and_its_last_state_trains() {
    let tiny = Tiny::new();
    let words = ["stopped by the NaN guard at step", "3 updates in a row", "train.learning_rate"];
    tiny.expect(&DIVERGES, 4, &words);
    let rows = metrics(&tiny);
    let first_skipped = rows.iter().position(|row| row["skipped"] != 0).unwrap();
    assert!(first_skipped > 2, "{first_skipped}");
    let kept = states(&tiny.path("out/checkpoints"));
    assert!(!kept.is_empty() && kept.iter().all(|step| *step < first_skipped), "{kept:?}");
    // Again, and again: the same words at once, and nothing moves.
    for _ in 0..3 {
        let again = [words[0], words[2], "stopped.json"];
        tiny.expect(&DIVERGES, 4, &again);
        assert_eq!(metrics(&tiny), rows);
        assert_eq!(states(&tiny.path("out/checkpoints")), kept);
        assert!(!tiny.path("out/aligned/stage.json").exists());
    }
    // To try all the same ends the same way.
    fs::remove_file(tiny.path("out/checkpoints/stopped.json")).unwrap();
    let word = format!("continuing from step {}", kept.last().unwrap());
    tiny.expect(&DIVERGES, 4, &[&word, words[0]]);
    assert_eq!(states(&tiny.path("out/checkpoints")), kept);
}

#[test]
fn skipped_updates_are_counted() {
    let tiny = Tiny::new();
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &[]);
    let stage = fs::read(tiny.path("out/aligned/stage.json")).unwrap();
    let stage: Value = serde_json::from_slice(&stage).unwrap();
    assert_eq!(stage["counts"]["skipped"], 0);
}
