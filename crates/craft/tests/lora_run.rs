//! Runs that train low-rank factors: what they write, resuming, and what they refuse.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use craft_store::tensors::{self, Dtype, TensorReader};
use serde_json::Value;
use support::Tiny;

/// A run of a LoRA of everything, text encoder included, with every option of training.
const ALL: [&str; 16] = [
    "--set",
    "train.mode=lora",
    "--set",
    "train.lora.rank=2",
    "--set",
    "train.lora.alpha=3",
    "--set",
    "train.lora.targets=[\"all\"]",
    "--set",
    "train.lora.text_encoders=true",
    "--set",
    "train.ema_decay=0.9",
    "--set",
    "train.min_snr_gamma=5",
    "--set",
    "train.unconditional_dropout=0.3",
];

fn run<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", "recipe.toml", "--out", out, "-q"], more].concat()
}

fn read(path: &Path) -> BTreeMap<String, Vec<f32>> {
    tensors::read_finite(path).unwrap().into_iter().map(|(name, t)| (name, t.data)).collect()
}

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|v| v * v).sum::<f32>().sqrt()
}

/// Largest relative distance of tensors of two files.
fn distance(a: &Path, b: &Path) -> f32 {
    let (a, b) = (read(a), read(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    a.iter().fold(0.0, |worst: f32, (name, a)| {
        let difference: Vec<f32> = a.iter().zip(&b[name]).map(|(a, b)| a - b).collect();
        worst.max(norm(&difference) / norm(a).max(1e-6))
    })
}

#[test]
fn a_lora_run_holds_factors_only_and_exports_them() {
    let tiny = Tiny::new();
    tiny.expect(&run("out", &ALL), 0, &[]);
    let path = tiny.path("out/aligned/lora.safetensors");
    let factors = read(&path);
    let of = |part: &str| factors.iter().filter(|(k, _)| k.contains(part)).collect::<Vec<_>>();
    assert!(of("lora_unet_").len() > 30 && of("lora_te_").len() > 6, "{:?}", factors.keys());
    assert!(of(".alpha").iter().all(|(_, v)| **v == [3.0]));
    assert!(of("lora_up").iter().any(|(_, v)| norm(v) > 0.0), "nothing was learned");
    assert!(of("lora_te_").iter().any(|(k, v)| k.contains("lora_up") && norm(v) > 0.0));
    assert!(!tiny.path("out/aligned/unet").exists());
    let step = tiny.path("out/checkpoints/step-4");
    let names = |dir: &Path| {
        let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<_> = names.map(|n| n.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&step), ["lora.safetensors", "optimizer.safetensors", "state.json"]);

    let export = |format: &str, to: &str| {
        let args = ["export", "out", "--format", format, "--out", to, "--json"];
        serde_json::from_str::<Value>(&tiny.expect(&args, 0, &[])).unwrap()
    };
    let line = export("lora-kohya", "k.safetensors");
    assert_eq!((line["max_difference"].as_u64(), line["captured"].as_f64()), (Some(0), Some(1.0)));
    assert_eq!(read(&tiny.path("k.safetensors")), factors, "the factors themselves");
    let header = TensorReader::open(&tiny.path("k.safetensors")).unwrap().metadata();
    assert_eq!(
        (header["ss_network_dim"].as_str(), header["ss_network_alpha"].as_str()),
        ("2", "3")
    );
    assert!(export("lora-diffusers", "d.safetensors")["max_difference"].as_u64() <= Some(1));
    assert_eq!(export("diffusers", "merged")["max_difference"], 0);
    assert_eq!(export("single-file", "merged.safetensors")["max_difference"], 0);
    assert!(!tiny.path("merged.merging").exists());

    // Base and factors, and the merged folder, draw the same picture.
    let sample = |more: &[&str], to: &str| {
        let args = ["sample", "--prompt", "a red star", "--steps", "2", "--dump-latents", to];
        tiny.expect(&[&args[..], more].concat(), 0, &[]);
        tiny.path(to)
    };
    let with = sample(&["--model", "model", "--lora", "k.safetensors"], "with.safetensors");
    let merged = sample(&["--model", "merged"], "m.safetensors");
    let base = sample(&["--model", "model"], "base.safetensors");
    assert!(distance(&with, &merged) < 1e-5);
    assert!(distance(&with, &base) > 1e-4);

    // The trained file is the start of another run.
    let lora = ["--set", "model.lora=[\"k.safetensors:0.5\"]"];
    tiny.expect(&run("next", &lora), 0, &[]);
    assert!(tiny.path("next/aligned/text_encoder/model.safetensors").is_file());
    let before = fs::read(tiny.path("out/candidates/latents.safetensors")).unwrap();
    let after = fs::read(tiny.path("next/candidates/latents.safetensors")).unwrap();
    assert!(before != after, "candidates are drawn by the merged model");
    let copy = tiny.path("model/text_encoder/model.safetensors");
    assert!(distance(&tiny.path("next/aligned/text_encoder/model.safetensors"), &copy) > 1e-4);
}

#[test]
fn the_same_training_however_it_is_run() {
    let tiny = Tiny::new();
    tiny.expect(&run("a", &ALL), 0, &[]);
    let aligned = |run: &str| tiny.path(run).join("aligned/lora.safetensors");
    // In micro-batches, and block by block: the same up to rounding.
    for (name, key) in
        [("micro", "train.micro_batch=1"), ("blocks", "train.gradient_checkpointing=true")]
    {
        tiny.expect(&run(name, &[&ALL[..], &["--set", key]].concat()), 0, &[]);
        let distance = distance(&aligned("a"), &aligned(name));
        assert!(distance < 2e-3, "{key}: {distance}");
    }
    // From a checkpoint: the same bytes.
    tiny.expect(&run("b", &ALL), 0, &[]);
    let expected = fs::read(aligned("b")).unwrap();
    assert_eq!(expected, fs::read(aligned("a")).unwrap());
    // The state after two steps, as an interrupted run leaves it.
    tiny.expect(&run("half", &[&ALL[..], &["--set", "train.steps=2"]].concat()), 0, &[]);
    fs::remove_dir_all(tiny.path("b/aligned")).unwrap();
    fs::remove_dir_all(tiny.path("b/checkpoints/step-4")).unwrap();
    let to = tiny.path("b/checkpoints/step-2");
    fs::create_dir_all(&to).unwrap();
    for file in ["lora.safetensors", "optimizer.safetensors"] {
        fs::copy(tiny.path("half/checkpoints/step-2").join(file), to.join(file)).unwrap();
    }
    let state = |run: &str, step: &str| -> Value {
        let path = tiny.path(run).join(format!("checkpoints/{step}/state.json"));
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    };
    let mut half = state("half", "step-2");
    half["fingerprint"] = state("a", "step-4")["fingerprint"].clone();
    fs::write(to.join("state.json"), half.to_string()).unwrap();
    let args: Vec<&str> = run("b", &ALL).into_iter().filter(|a| *a != "-q").collect();
    tiny.expect(&args, 0, &["continuing from step 2"]);
    assert!(expected == fs::read(aligned("b")).unwrap(), "the resumed run differs");
}

#[test]
fn bf16_weights_train_much_the_same() {
    let tiny = Tiny::new();
    let bf16 = ["--set", "train.precision=bf16"];
    tiny.expect(&run("a", &ALL), 0, &[]);
    tiny.expect(&run("b", &[&ALL[..], &bf16].concat()), 0, &[]);
    let file = "aligned/lora.safetensors";
    let apart = distance(&tiny.path("a").join(file), &tiny.path("b").join(file));
    assert!(apart > 0.0 && apart < 1.0, "{apart}");
    // All parameters, with master copies: updates of 1e-5 are lost to bf16 alone, not here.
    let small = ["--set", "train.learning_rate=1e-5"];
    tiny.expect(&run("full", &small), 0, &[]);
    tiny.expect(&run("full16", &[bf16, small].concat()), 0, &[]);
    let file = "aligned/unet/diffusion_pytorch_model.safetensors";
    let (base, full) =
        (tiny.path("model/unet/diffusion_pytorch_model.safetensors"), tiny.path("full"));
    let (base, full) = (read(&base), read(&full.join(file)));
    let narrow = read(&tiny.path("full16").join(file));
    let change = |tuned: &BTreeMap<String, Vec<f32>>| -> f32 {
        let each = base.iter().map(|(name, old)| {
            let d: Vec<f32> = old.iter().zip(&tuned[name]).map(|(a, b)| a - b).collect();
            norm(&d).powi(2)
        });
        each.sum::<f32>().sqrt()
    };
    let (full, narrow) = (change(&full), change(&narrow));
    assert!((narrow / full - 1.0).abs() < 0.2, "{narrow} against {full}");
}

#[test]
fn what_cannot_be_trained_is_refused_before_anything_is_drawn() {
    let tiny = Tiny::new();
    let lora = |set: &[&str], code: i32, words: &[&str]| {
        let mut args = run("out", &["--set", "train.mode=lora"]);
        for set in set {
            args.extend(["--set", set]);
        }
        tiny.expect(&args, code, words);
        assert!(!tiny.path("out").exists(), "{set:?}");
    };
    lora(&["train.lora.rank=0"], 2, &["train.lora.rank", "is 0"]);
    lora(&["train.lora.rank=1000"], 2, &["rank 1000 is larger than", "to_"]);
    lora(&["train.lora.rank=1000", "train.lora.targets=[\"all\"]"], 2, &["rank 1000", "at most"]);
    lora(&["train.lora.targets=[\"to_x\"]"], 2, &["`to_x`", "to_out.0, to_q"]);
    lora(
        &["train.lora.text_encoders=true", "train.lora.text_encoder_targets=[\"to_q\"]"],
        2,
        &["`to_q`", "text_encoder", "q_proj"],
    );
    lora(&["train.lora.alpha=0"], 2, &["train.lora.alpha", "above 0"]);
    lora(&["train.lora.alpha=-2"], 2, &["train.lora.alpha"]);
    lora(&["model.lora=[\"none.safetensors\"]"], 3, &["none.safetensors"]);
    lora(&["model.lora=[\"none.safetensors:1000\"]"], 2, &["the scale is 1000"]);
    tiny.expect(&run("out", &["--set", "train.lora.rank=8"]), 2, &["train.mode", "lora"]);

    // A LoRA of another model.
    let a = tensors::Tensor::new([2, 5], vec![0.5; 10]).unwrap();
    let b = tensors::Tensor::new([7, 2], vec![0.5; 14]).unwrap();
    let key = "lora_unet_down_blocks_7_attentions_0_proj_in";
    let foreign = BTreeMap::from([
        (format!("{key}.lora_down.weight"), a),
        (format!("{key}.lora_up.weight"), b),
    ]);
    tensors::write_map(&tiny.path("foreign.safetensors"), &foreign, Dtype::F32).unwrap();
    lora(&["model.lora=[\"foreign.safetensors\"]"], 3, &[key, "another model"]);
}

#[test]
fn a_dry_run_says_what_training_costs() {
    let tiny = Tiny::new();
    let plan = |more: &[&str]| {
        let args = [&["run", "recipe.toml", "--dry-run"], more].concat();
        let text = tiny.expect(&args, 0, &[]);
        for part in [
            "parameters: ",
            "memory of training: ",
            "memory of drawing: up to ",
            "disk: ",
            "time: about ",
        ] {
            let part = &format!("# {part}");
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        let line = text.lines().find(|l| l.contains("are trained")).unwrap().to_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        words[words.len() - 4].parse::<f64>().unwrap()
    };
    let full = plan(&[]);
    let lora = plan(&["--set", "train.mode=lora"]);
    assert!(0.0 < lora && lora < full / 2.0, "{lora} of {full} million");
    assert!(!tiny.path("out").exists());
    // Far too much for any machine: a warning, not an error.
    let args = ["run", "recipe.toml", "--dry-run", "--set", "train.batch=60000"];
    let pass = ["--set", "train.micro_batch=60000"];
    let size = ["--set", "generate.height=512", "--set", "generate.width=512"];
    let big = [&args[..], &pass, &size].concat();
    tiny.expect(&big, 0, &["warning: training needs about", "gradient_checkpointing"]);
}

#[test]
fn kto_compares_with_the_model_without_factors() {
    let tiny = Tiny::new();
    // Its loss has no weights.
    let weighs = |set: &&[&str]| set[1].starts_with("train.min_snr_gamma");
    let rest: Vec<&[&str]> = ALL.chunks(2).filter(|set| !weighs(set)).collect();
    let kto = [&rest.concat()[..], &["--set", "train.method=kto"]].concat();
    let blocks = [&kto[..], &["--set", "train.gradient_checkpointing=true"]].concat();
    tiny.expect(&run("a", &kto), 0, &[]);
    tiny.expect(&run("b", &blocks), 0, &[]);
    let losses = |run: &str| -> Vec<f64> {
        let text = fs::read_to_string(tiny.path(run).join("metrics.jsonl")).unwrap();
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.filter(|row| row["run"] == "craft").map(|row| row["loss"].as_f64().unwrap()).collect()
    };
    let (a, b) = (losses("a"), losses("b"));
    // New factors change nothing, and σ(0) is a half; from then on they do.
    assert!((a[0] - 0.5).abs() < 1e-3 && (a[3] - 0.5).abs() > 1e-6, "{a:?}");
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3), "{a:?} {b:?}");
}
