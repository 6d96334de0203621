//! Several rounds, strengths between base and tuned weights, and training that ends early.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::fs;
use std::path::Path;

use craft_store::tensors;
use serde_json::Value;
use support::Tiny;

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_round_draws_from_the_model_of_the_one_before() {
    let tiny = Tiny::new();
    let args = ["run", "recipe.toml", "--out", "out", "--rounds", "2"];
    tiny.expect(&args, 0, &["round 1 of 2", "round 2 of 2"]);
    let first = tiny.path("out/rounds/1");
    let model = |stage: &Path| json(&stage.join("stage.json"))["inputs"]["model"].clone();
    // The second draws and trains from what the first left, and the evaluation compares with the base.
    let second = model(&tiny.path("out/candidates"));
    assert_eq!(second, model(&tiny.path("out/aligned")));
    assert_ne!(second, model(&first.join("candidates")));
    assert_eq!(model(&first.join("candidates")), model(&first.join("aligned")));
    assert!(!first.join("evaluation").exists() && !first.join("control/stage.json").exists());
    let latents = |run: &Path| fs::read(run.join("candidates/latents.safetensors")).unwrap();
    assert_ne!(latents(&first), latents(&tiny.path("out")));
    let run = json(&tiny.path("out/run.json"));
    assert_eq!(run["rounds"], 2);
    assert!(run["seconds"]["rounds"].as_f64().unwrap() > 0.0);
    assert!(run["seconds"]["total"].as_f64() > run["seconds"]["rounds"].as_f64());
    // The base's pictures are those of a run of one round.
    tiny.expect(&["run", "recipe.toml", "--out", "one"], 0, &[]);
    let one = json(&tiny.path("one/run.json"));
    assert_eq!(one["evaluation"]["other"]["base"], run["evaluation"]["other"]["base"]);
    assert_ne!(one["evaluation"]["other"]["tuned"], run["evaluation"]["other"]["tuned"]);

    // Resumes, from within the first round too.
    let tuned = |out: &str| fs::read(tiny.path(&format!("{out}/aligned/{WEIGHTS}"))).unwrap();
    let whole = tuned("out");
    tiny.expect(&args, 0, &["train: already done", "evaluate: already done"]);
    fs::remove_file(first.join("aligned/stage.json")).unwrap();
    fs::remove_dir_all(tiny.path("out/aligned")).unwrap();
    tiny.expect(&args, 0, &["generate: already done"]);
    assert!(whole == tuned("out"));
    // A LoRA is the difference to the model that the first round began with.
    let args = ["export", "out", "--format", "lora-kohya", "--out", "x.safetensors"];
    tiny.expect(&args, 0, &[]);

    // A LoRA of the recipe is merged before the first round, and not once more before the second.
    let args = ["run", "recipe.toml", "--out", "merged", "--rounds", "2"];
    let set = ["--set", "model.lora=[\"x.safetensors\"]", "--set", "train.learning_rate=1e-12"];
    tiny.expect(&[&args[..], &set[..]].concat(), 0, &[]);
    let weights = |path: &str| tensors::read(&tiny.path(path).join(WEIGHTS)).unwrap();
    let last = weights("merged/aligned");
    let distance = |other: &str| {
        let other = weights(other);
        let all = last.iter().flat_map(|(name, t)| t.data.iter().zip(&other[name].data));
        all.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(distance("merged/rounds/1/aligned") < 1e-6);
    assert!(distance("model") > 1e-5);
}

#[test]
fn a_budget_is_shared_by_all_rounds() {
    let tiny = Tiny::new();
    let args = ["run", "recipe.toml", "--out", "out", "--rounds", "2", "--set"];
    let with = |key: &'static str| [&args[..], &[key]].concat();
    tiny.expect(&with("rounds.same_budget=true"), 0, &[]);
    for aligned in ["out/aligned", "out/rounds/1/aligned"] {
        let stage = json(&tiny.path(aligned).join("stage.json"));
        assert_eq!(stage["counts"]["steps"], 2, "{aligned}");
        assert!(stage["counts"]["samples"].as_u64().unwrap() <= 3, "{aligned}");
    }
    let none = ["run", "recipe.toml", "--out", "x", "--rounds", "0"];
    tiny.expect(&none, 2, &["rounds.count", "from 1 to 20"]);
    assert!(!tiny.path("x").exists());
}

#[test]
fn factors_go_on_from_those_of_the_round_before() {
    let tiny = Tiny::new();
    let run = |out: &'static str, rounds: &'static str, rate: &'static str| {
        let args = ["run", "recipe.toml", "--out", out, "--rounds", rounds];
        let set = ["--set", "train.mode=lora", "--set", rate];
        tiny.expect(&[&args[..], &set[..]].concat(), 0, &[]);
    };
    run("out", "2", "train.learning_rate=0.05");
    let factors = |path: &str| tensors::read(&tiny.path(path).join("lora.safetensors")).unwrap();
    let (first, second) = (factors("out/rounds/1/aligned"), factors("out/aligned"));
    assert!(first.keys().eq(second.keys()) && !first.is_empty());
    assert!(first.iter().any(|(name, t)| t.data != second[name].data));
    // The second round draws from the base model with the first one's factors.
    let latents =
        |run: &str| fs::read(tiny.path(run).join("candidates/latents.safetensors")).unwrap();
    assert_ne!(latents("out/rounds/1"), latents("out"));
    // Where a step changes next to nothing, the second ends at what the first left.
    run("still", "2", "train.learning_rate=1e-12");
    let (first, second) = (factors("still/rounds/1/aligned"), factors("still/aligned"));
    for (name, tensor) in &first {
        let pairs = tensor.data.iter().zip(&second[name].data);
        assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-6), "{name}");
    }
    // One file beside the base model holds all rounds.
    let args = ["export", "out", "--format", "lora-kohya", "--out", "x.safetensors"];
    tiny.expect(&args, 0, &[]);
    let exported = tensors::read(&tiny.path("x.safetensors")).unwrap();
    assert!(exported.iter().all(|(name, t)| t.data == factors("out/aligned")[name].data));
}

#[test]
fn factors_are_looked_at_in_training() {
    let tiny = Tiny::new();
    let run = |out: &'static str, keys: &[&'static str], says: &[&str]| {
        let mut args = vec!["run", "recipe.toml", "--out", out];
        let fast = ["train.mode=lora", "train.learning_rate=0.5", "train.steps=4"];
        for key in fast.iter().chain(keys) {
            args.extend(["--set", *key]);
        }
        tiny.expect(&args, 0, says);
    };
    let factors = |path: &str| tensors::read(&tiny.path(path)).unwrap();
    let same = |a: &str, b: &str| {
        let (a, b) = (factors(a), factors(b));
        a.iter().all(|(name, tensor)| tensor.data == b[name].data)
    };
    run("looks", &["stop.every=2", "stop.prompts=3"], &["train: 4 steps"]);
    run("plain", &[], &["train: 4 steps"]);
    assert!(same("looks/aligned/lora.safetensors", "plain/aligned/lora.safetensors"));
    let looks = lines(&tiny.path("looks/aligned/looks.jsonl"));
    let held_out: Vec<f64> = looks.iter().map(|l| l["held_out"].as_f64().unwrap()).collect();
    assert_eq!(held_out.len(), 3);
    assert!(held_out.windows(2).all(|pair| pair[0] != pair[1]), "{held_out:?}");
    // Any drift ends it, and before the first look there are the first factors, which change nothing.
    let drift = ["stop.every=2", "stop.prompts=3", "stop.max_drift=0.000001"];
    run("drift", &drift, &["training ends at step 2", "the weights of step 0 are kept"]);
    let kept = factors("drift/aligned/lora.safetensors");
    let ups = kept.iter().filter(|(name, _)| name.contains("lora_up"));
    assert!(ups.clone().count() > 0 && ups.clone().all(|(_, t)| t.data.iter().all(|v| *v == 0.0)));
}

#[test]
fn strengths_between_base_and_tuned_are_measured() {
    let tiny = Tiny::new();
    let args = [
        "run",
        "recipe.toml",
        "--out",
        "out",
        "--set",
        "sweep.enabled=true",
        "--set",
        "train.learning_rate=0.05",
    ];
    tiny.expect(&args, 0, &["sweep: 6 strengths, 24 pictures"]);
    let sweep = json(&tiny.path("out/sweep/sweep.json"));
    let run = json(&tiny.path("out/run.json"));
    let at = |i: usize| sweep["rewards"]["other"]["at"][i].clone();
    assert_eq!(sweep["factors"], serde_json::json!([0.0, 0.25, 0.5, 0.75, 1.0, 1.25]));
    // The ends are the two models themselves, on the same pictures as in the evaluation.
    let evaluation = &run["evaluation"]["other"];
    assert_eq!((&at(0)["mean"], &at(4)["mean"]), (&evaluation["base"], &evaluation["tuned"]));
    assert_eq!((&at(0)["delta"], &at(4)["delta"]), (&serde_json::json!(0.0), &evaluation["delta"]));
    let means: Vec<f64> = (0..6).map(|i| at(i)["mean"].as_f64().unwrap()).collect();
    assert!(means.windows(2).all(|pair| pair[0] != pair[1]), "{means:?}");
    let page = fs::read_to_string(tiny.path("out/report/index.html")).unwrap();
    assert!(page.contains("id=\"strength\"") && page.contains("strength of the tuning"));
    tiny.expect(&args, 0, &["sweep: already done"]);

    // Of a LoRA it is the strength of its factors.
    let lora = [&args[..], &["--set", "train.mode=lora"]].concat();
    let lora: Vec<&str> = lora.into_iter().map(|a| if a == "out" { "lora" } else { a }).collect();
    tiny.expect(&lora, 0, &["sweep: 6 strengths"]);
    let sweep = json(&tiny.path("lora/sweep/sweep.json"));
    let run = json(&tiny.path("lora/run.json"));
    let tuned = &sweep["rewards"]["other"]["at"][4]["mean"];
    assert_eq!(*tuned, run["evaluation"]["other"]["tuned"]);
    assert_ne!(*tuned, sweep["rewards"]["other"]["at"][3]["mean"]);
}

#[test]
fn training_ends_where_pictures_drift_and_the_best_look_is_kept() {
    let tiny = Tiny::new();
    let set = |out: &'static str, keys: &[&'static str]| {
        let mut args = vec!["run", "recipe.toml", "--out", out];
        for key in keys {
            args.extend(["--set", *key]);
        }
        args
    };
    let fast = ["train.learning_rate=0.5", "train.steps=8", "stop.every=2", "stop.prompts=3"];
    let drift = [&fast[..], &["stop.max_drift=0.001"]].concat();
    tiny.expect(&set("out", &drift), 0, &["training ends at step 2", "of the base model's"]);
    let looks = lines(&tiny.path("out/aligned/looks.jsonl"));
    let steps: Vec<u64> = looks.iter().map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 2]);
    assert!(looks.iter().all(|l| l["held_out"].is_number()));
    assert_eq!(json(&tiny.path("out/aligned/stage.json"))["counts"]["steps"], 2);
    // Before the first look there is the base model alone.
    let read = |path: &str| tensors::read(&tiny.path(path)).unwrap();
    let same = |a: &str, b: &str| {
        let (a, b) = (read(a), read(b));
        a.iter().all(|(name, tensor)| tensor.data == b[name].data)
    };
    assert!(same(&format!("out/aligned/{WEIGHTS}"), &format!("model/{WEIGHTS}")));
    let page = fs::read_to_string(tiny.path("out/report/index.html")).unwrap();
    assert!(page.contains("looked at after step"));

    // Looks alone change nothing, and keep a checkpoint each.
    tiny.expect(&set("looks", &fast), 0, &["train: 8 steps"]);
    let plain = ["train.learning_rate=0.5", "train.steps=8"];
    tiny.expect(&set("plain", &plain), 0, &["train: 8 steps"]);
    assert!(same(&format!("looks/aligned/{WEIGHTS}"), &format!("plain/aligned/{WEIGHTS}")));
    let kept: Vec<_> = fs::read_dir(tiny.path("looks/checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("looks-"))
        .collect();
    assert_eq!(kept.len(), 1);
    for step in [2, 4, 6, 8] {
        assert!(kept[0].join(format!("step-{step}.safetensors")).exists(), "{step}");
    }
    // The best look of those before a fall, by the first held-out reward.
    let fall = [&fast[..], &["stop.max_fall=0.0"]].concat();
    let error = tiny.craft(&set("fall", &fall)).output().unwrap().stderr;
    let error = String::from_utf8(error).unwrap();
    let looks = lines(&tiny.path("fall/aligned/looks.jsonl"));
    let values: Vec<f64> = looks.iter().map(|l| l["held_out"].as_f64().unwrap()).collect();
    let falls = values.windows(2).any(|pair| pair[1] < pair[0]);
    assert_eq!(error.contains("the held-out reward fell"), falls, "{values:?}\n{error}");
    let best = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let best = looks[values.iter().position(|v| *v == best).unwrap()]["step"].as_u64().unwrap();
    if falls {
        assert!(error.contains(&format!("the weights of step {best} are kept")), "{error}");
    }

    let bound = set("x", &["stop.max_fall=0.1"]);
    tiny.expect(&bound, 2, &["stop.max_fall", "set stop.every"]);
}
