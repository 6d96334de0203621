//! `craft compare` when something goes wrong: trainings that diverge, and a process that is killed.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::Tiny;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The embedded world's prompts, so that there are others to choose settings on.
fn with_search() -> Tiny {
    let tiny = Tiny::new();
    let recipe = fs::read_to_string(tiny.path("recipe.toml")).unwrap();
    let files = "train = \"train.txt\"\neval = \"eval.txt\"";
    assert!(recipe.contains(files));
    let world = "source = \"pocket\"\ntrain_count = 6\neval_count = 4";
    tiny.write("recipe.toml", recipe.replace(files, world));
    tiny
}

/// Multiplies what the denoiser predicts.
fn louder(tiny: &Tiny, factor: f32) {
    tiny.edit("model/unet/diffusion_pytorch_model.safetensors", |all| {
        for part in ["weight", "bias"] {
            let values = all.get_mut(&format!("conv_out.{part}")).unwrap();
            values.data.iter_mut().for_each(|v| *v *= factor);
        }
    });
}

#[test]
fn a_learning_rate_that_diverges_is_told_and_the_others_go_on() {
    let tiny = with_search();
    // A weight decay of 10 turns the weights round at a learning rate of 1, ninefold at each step.
    let args = [
        "compare",
        "recipe.toml",
        "--methods",
        "raft,sft",
        "--seeds",
        "2",
        "--out",
        "out",
        "--learning-rates",
        "1,1e-6",
        "--set",
        "train.max_nonfinite_steps=1",
        "--set",
        "train.steps=48",
        "--set",
        "train.weight_decay=10",
    ];
    let table = tiny.expect(&args, 0, &["diverged at step"]);
    let found = json(&tiny.path("out/compare.json"));
    for name in ["raft", "sft"] {
        let trials = found["methods"][name]["search"]["trials"].as_array().unwrap();
        assert!(trials[0]["stopped"].as_str().unwrap().starts_with("diverged at step"));
        assert!(trials[1]["stopped"].is_null(), "{}", trials[1]);
        assert_eq!(trials[1]["gains"].as_array().unwrap().len(), 5);
        let line = format!("- {name}, search, learning rate 1.0e0: diverged at step");
        assert!(table.contains(&line), "{table}");
    }
}

#[test]
fn a_method_that_diverges_is_told_and_the_others_go_on() {
    let tiny = with_search();
    // Squared errors over the largest f32, whatever the learning rate.
    louder(&tiny, 1e25);
    let args = [
        "compare",
        "recipe.toml",
        "--methods",
        "raft,sft",
        "--seeds",
        "2",
        "--out",
        "out",
        "--learning-rates",
        "3e-4,1e-4,1e-3",
        "--set",
        "train.max_nonfinite_steps=1",
    ];
    let table = tiny.expect(&args, 0, &["diverged at every rate", "diverged at step 0"]);
    assert!(table.contains("| raft (diverged on 2 of 2) | 6 | - |"), "{table}");
    assert!(table.contains("- sft, seed 1, learning rate 1.0e-4: diverged at step 0"), "{table}");
    let found = json(&tiny.path("out/compare.json"));
    assert_eq!(found["methods"]["sft"]["diverged"], serde_json::json!([1, 2]));
    assert!(found["methods"]["sft"]["rewards"]["other"]["change"].is_null());
    assert!(found["methods"]["sft"]["search"]["gain"].is_null());
    let page = fs::read_to_string(tiny.path("out/report/index.html")).unwrap();
    assert!(page.contains("diverged on seed 1, 2"));
    // What diverged is finished.
    tiny.expect(&args, 0, &["tune sft: already done", "search raft: already done"]);
}

#[test]
fn a_killed_comparison_ends_as_one_that_was_not() {
    let args = [
        "compare",
        "recipe.toml",
        "--methods",
        "craft,dpo-rewards",
        "--seeds",
        "2",
        "--out",
        "out",
    ];
    let whole = with_search();
    whole.expect(&args, 0, &[]);
    let cut = with_search();
    // Within a search, within a training, and between seeds.
    for file in [
        "out/seed-1/search/craft/.trial-1.json",
        "out/seed-1/search/dpo-rewards/.state-0",
        "out/seed-1/methods/dpo-rewards/.curve.jsonl",
        "out/seed-2/methods/base/stage.json",
    ] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_craft"))
            .args(args)
            .current_dir(cut.path("."))
            .env("CRAFT_POCKET_DIR", cut.path("model"))
            .env("XDG_CACHE_HOME", cut.path("cache"))
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while !cut.path(file).exists() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before {file}");
            assert!(start.elapsed() < Duration::from_secs(120), "{file} never came");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!cut.path("out/seed-2/methods/craft/stage.json").exists());
    }
    cut.expect(&args, 0, &["search craft: already done"]);
    for seed in [1, 2] {
        for method in ["base", "craft", "dpo-rewards"] {
            let scores = format!("out/seed-{seed}/methods/{method}/scores.jsonl");
            let read = |tiny: &Tiny| fs::read(tiny.path(&scores)).unwrap();
            assert_eq!(read(&whole), read(&cut), "{scores}");
        }
    }
    for method in ["craft", "dpo-rewards"] {
        let chosen = |tiny: &Tiny| {
            let search = json(&tiny.path(&format!("out/seed-1/search/{method}/search.json")));
            (search["trials"].clone(), search["chosen"].clone())
        };
        assert_eq!(chosen(&whole), chosen(&cut), "{method}");
    }
}

#[test]
fn a_dry_run_tells_what_it_would_cost_and_begins_nothing() {
    let tiny = with_search();
    let args = [
        "compare",
        "recipe.toml",
        "--methods",
        "craft,dpo-rewards",
        "--seeds",
        "3",
        "--out",
        "out",
        "--dry-run",
    ];
    let plan = tiny.expect(&args, 0, &[]);
    assert!(!tiny.path("out").exists());
    // 6 prompts of 4 pictures; two seeds search; three rates; lengths 1, 2 and 4 of CRAFT, 1, 2, 5, 8 and 16 of DPO.
    let pictures = 3 * 24 + 2 * (64 + 3 * (3 + 5) * 64) + 3 * 4 + 3 * (2 + 4) * 4 + 3 * 2 * 4;
    let passes = (2 * 3 + 3) * (4 + 16) * 4;
    let references = (2 + 3) * 16 * 4;
    for part in [
        "# methods: craft, dpo-rewards; seeds: 1, 2, 3".to_owned(),
        format!(
            "# work at most: {pictures} pictures drawn and scored, {passes} training passes, {references} passes of the reference, 0 annotated"
        ),
        "# time at most, with the machine as busy as now: ".to_owned(),
        "# time of processors: ".to_owned(),
        "max_samples = 6".to_owned(),
    ] {
        assert!(plan.contains(&part), "`{part}` is not in:\n{plan}");
    }
}
