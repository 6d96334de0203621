//! `craft compare` on the tiny model: the tables, resuming, and what is refused beforehand.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::fs;
use std::path::Path;

use craft_compare::{Ablation, Method};
use serde_json::Value;
use support::Tiny;

const METHODS: &str =
    "craft,random,sft,raft,rwr,dpo-rewards,kto-rewards,mapo-rewards,lair,nft,awm,ddpo,spo";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn all_methods_are_measured_alike_and_a_second_call_does_nothing() {
    let tiny = Tiny::new();
    let args = ["compare", "recipe.toml", "--methods", METHODS, "--seeds", "2", "--out", "out"];
    let table = tiny.expect(&args, 0, &[]);
    assert!(table.contains("| craft |") && table.contains("wins over CRAFT"), "{table}");
    assert_eq!(fs::read_to_string(tiny.path("out/compare.md")).unwrap().trim_end(), {
        let (table, _) = table.trim_end().rsplit_once('\n').unwrap();
        table.trim_end()
    });
    let found = json(&tiny.path("out/compare.json"));
    assert_eq!(found["decisive"], "other");
    for name in METHODS.split(',') {
        let method = &found["methods"][name];
        let change = &method["rewards"]["other"]["change"];
        assert_eq!(change["n"], 2, "{name}");
        assert!(change["ci95"][0].is_number(), "{name}: {change}");
        let against = &method["rewards"]["other"]["change_against_craft"];
        assert_eq!(against.is_null(), name == "craft", "{name}: {against}");
        for seed in ["1", "2"] {
            let seed = &method["seeds"][seed];
            let curve = seed["curve"].as_array().unwrap();
            assert_eq!(curve.last().unwrap()["step"], seed["steps"], "{name}");
            assert!(seed["seconds"]["training"].as_f64().unwrap() > 0.0, "{name}");
            let passes = seed["sample_passes"].as_u64().unwrap();
            let reference =
                !["craft", "random", "sft", "raft", "rwr", "mapo-rewards", "ddpo"].contains(&name);
            assert_eq!(
                seed["reference_passes"].as_u64().unwrap(),
                if reference { passes } else { 0 }
            );
            // The best candidate and the random ones are no more than were drawn.
            assert!(seed["samples"].as_u64().unwrap() <= 32, "{name}");
        }
    }
    let craft = &found["methods"]["craft"]["seeds"]["1"];
    let random = &found["methods"]["random"]["seeds"]["1"];
    assert_eq!(craft["samples"], random["samples"]);
    assert_eq!(found["methods"]["sft"]["seeds"]["1"]["samples"], 24);
    assert_eq!(found["methods"]["raft"]["seeds"]["1"]["samples"], 8);
    assert_eq!(found["convergence"]["of"], "dpo-rewards");
    assert!(tiny.path("out/report/index.html").exists());

    // Nothing is done again, and a further method joins without touching the others.
    let before = fs::read(tiny.path("out/seed-1/methods/craft/stage.json")).unwrap();
    let more = format!("{METHODS},craft-none");
    let args = ["compare", "recipe.toml", "--methods", &more, "--seeds", "2", "--out", "out"];
    tiny.expect(&args, 0, &["tune craft: already done", "generate: already done"]);
    assert_eq!(before, fs::read(tiny.path("out/seed-1/methods/craft/stage.json")).unwrap());
    let again = json(&tiny.path("out/compare.json"));
    assert_eq!(again["methods"]["craft"], found["methods"]["craft"]);
    assert!(again["methods"]["craft-none"]["rewards"]["other"]["change"]["mean"].is_number());
}

#[test]
fn the_base_model_at_more_guidance_is_what_a_recipe_with_that_guidance_draws() {
    let tiny = Tiny::new();
    let of = |out: &str, methods: &str, scale: &str| {
        let scale = format!("evaluate.guidance_scale={scale}");
        let args = ["compare", "recipe.toml", "--methods", methods, "--seeds", "1", "--out", out];
        tiny.expect(&[&args[..], &["--set", &scale]].concat(), 0, &[]);
        json(&tiny.path(&format!("{out}/compare.json")))
    };
    let found = of("out", "dpo-rewards,guidance-1.5,guidance-2", "2.0");
    // What is not trained does not stand among those that reach a value in so many steps.
    assert!(found["convergence"]["methods"]["dpo-rewards"].is_object());
    assert!(found["convergence"]["methods"]["guidance-2"].is_null());
    of("twice", "random", "4.0");
    let scores = |path: &str| fs::read(tiny.path(&format!("{path}/scores.jsonl"))).unwrap();
    let twice = scores("out/seed-1/methods/guidance-2");
    assert_eq!(twice, scores("twice/seed-1/methods/base"));
    assert_ne!(twice, scores("out/seed-1/methods/base"));
    assert_ne!(twice, scores("out/seed-1/methods/guidance-1.5"));
    let method = &found["methods"]["guidance-2"];
    assert_eq!(method["seeds"]["1"]["sample_passes"], 0);
    assert!(method["rewards"]["other"]["change"]["mean"].is_number());
}

#[test]
fn a_training_that_was_cut_off_ends_as_if_it_had_not_been() {
    cut_off(&[]);
}

#[test]
fn factors_that_were_cut_off_end_as_if_they_had_not_been() {
    let tiny = cut_off(&["--set", "train.mode=lora", "--set", "train.ema_decay=0.5"]);
    let stage = "out/seed-1/methods/dpo-rewards";
    assert!(!tiny.path(stage).join("diffusion_pytorch_model.safetensors").exists());
    // Other commands read what was trained.
    let lora = format!("{stage}/lora.safetensors");
    let draw = |extra: &[&str], out: &str| {
        let args = ["sample", "--model", "model", "--prompt", "a red circle", "--output", out];
        tiny.expect(&[&args[..], extra].concat(), 0, &[]);
        fs::read(tiny.path(out)).unwrap()
    };
    assert_ne!(draw(&[], "base.png"), draw(&["--lora", &lora], "tuned.png"));
}

/// Cuts a training off behind its last look and returns the folder in which it was finished.
fn cut_off(extra: &[&str]) -> Tiny {
    let scores =
        |tiny: &Tiny| fs::read(tiny.path("out/seed-1/methods/dpo-rewards/scores.jsonl")).unwrap();
    let args =
        ["compare", "recipe.toml", "--methods", "dpo-rewards", "--seeds", "1", "--out", "out"];
    let args = [&args[..], extra].concat();
    let whole = Tiny::new();
    whole.expect(&args, 0, &[]);
    // As after a kill behind the last look: the state is there, the stage is not finished.
    let cut = Tiny::new();
    cut.expect(&args, 0, &[]);
    let stage = cut.path("out/seed-1/methods/dpo-rewards");
    let record = json(&stage.join("stage.json"));
    let inputs = serde_json::json!({
        "stage": record["stage"], "version": record["version"],
        "config_hash": record["config_hash"], "inputs": record["inputs"],
    });
    let steps = fs::read_dir(stage.join(".state")).unwrap();
    let states = steps.map(|step| json(&step.unwrap().path().join("state.json")));
    assert!(states.into_iter().any(|state| state["step"].as_u64().unwrap() > 0));
    for file in ["stage.json", "scores.jsonl", "result.json"] {
        fs::remove_file(stage.join(file)).unwrap();
    }
    fs::write(stage.join(".stage-inputs.json"), inputs.to_string()).unwrap();
    cut.expect(&args, 0, &[]);
    assert_eq!(scores(&whole), scores(&cut));
    let curve = |tiny: &Tiny| {
        let found = json(&tiny.path("out/compare.json"));
        let points =
            found["methods"]["dpo-rewards"]["seeds"]["1"]["curve"].as_array().unwrap().clone();
        points.iter().map(|p| (p["step"].clone(), p["gains"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(curve(&whole), curve(&cut));
    cut
}

#[test]
fn what_cannot_be_compared_is_refused_before_anything_is_done() {
    let tiny = Tiny::new();
    let refused = |extra: &[&str], words: &[&str]| {
        let args = [&["compare", "recipe.toml", "--out", "out"][..], extra].concat();
        tiny.expect(&args, 2, words);
        assert!(!tiny.path("out").exists(), "{extra:?} left a folder");
    };
    refused(&["--methods", "craft,dop"], &["`dop`", "did you mean `dpo`?", "raft"]);
    refused(&["--methods", "craft,craft"], &["`craft` is named twice"]);
    refused(&["--methods", "dpo"], &["dpo: it needs preference pairs", "`dpo-rewards`"]);
    refused(&["--methods", "kto"], &["kto: it needs preference pairs"]);
    refused(&["--methods", "mapo"], &["mapo: it needs preference pairs"]);
    refused(&["--methods", "craft-ha"], &["craft-ha", "`hps`", "tiny"]);
    refused(
        &["--methods", "raft", "--set", "expand.variants=1"],
        &["raft", "only 1", "at least 2"],
    );
    refused(&["--methods", "craft", "--seeds", "1,2,1"], &["1 is repeated"]);
    refused(&["--methods", "craft", "--seeds", "0"], &["'0' for '--seeds", "1 to 1000"]);
    refused(&["--methods", "craft", "--seeds", "many"], &["'many' for '--seeds", "1,2,3"]);
    refused(&["--methods", "craft", "--fact-loss=-0.1"], &["--fact-loss -0.1: expected a share"]);
    refused(&["--methods", "craft", "--learning-rates", "1e-4,-1"], &["-1 is not a learning rate"]);
    refused(&["--methods", "craft", "--search-seeds", "2"], &["--search-seeds", "from files"]);
    refused(&["--quick", "--search-seeds", "2"], &["--search-seeds", "cannot be used with"]);
    refused(&["--methods", "craft", "--search-seeds", "6"], &["--search-seeds 6", "1 to 5"]);
    refused(
        &["--methods", "guidance-2", "--set", "evaluate.guidance_scale=1.0"],
        &["guidance-2", "evaluate.guidance_scale = 1", "above 1"],
    );
    refused(&["--ablation", "hat"], &["no ablation `hat`", "pressure"]);
    refused(&["--ablation", "presure"], &["'presure' for '--ablation", "did you mean `pressure`?"]);
    refused(&["--ablation", "filter"], &["craft-h", "tiny"]);
    refused(&["--methods", "craft", "--pairs", "0"], &["--pairs is 0"]);
    refused(&["--methods", "craft", "--rounds", "1"], &["--rounds 1", "2 to 20"]);
    refused(&["--methods", "craft", "--set", "rounds.count=2"], &["rounds.count", "--rounds"]);
    refused(&["--methods", "craft", "--set", "stop.every=2"], &["stop.every", "to the end"]);
    refused(&["--methods", "craft", "--set", "train.method=kto"], &["train.method", "--methods"]);
    refused(&["--methods", "craft", "--set", "train.stepz=1"], &["train.steps"]);
    let lora = ["--methods", "craft", "--set", "train.mode=lora"];
    refused(&[&lora[..], &["--set", "train.lora.rank=999"]].concat(), &["train.lora", "rank"]);
}

/// Names and defaults in the help are those of the tables.
#[test]
fn the_help_lists_what_can_be_compared() {
    let help = Tiny::new().expect(&["compare", "--help"], 0, &[]);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let names = |methods: Vec<&'static Method>, by: &str| {
        methods.iter().map(|method| method.name).collect::<Vec<_>>().join(by)
    };
    assert!(help.contains(&names(craft_compare::methods().collect(), ", ")), "{help}");
    assert!(help.contains(&names(craft_compare::default_methods(false), ",")), "{help}");
    assert!(help.contains(&names(craft_compare::default_methods(true), ", ")), "{help}");
    let ablations: Vec<&str> = Ablation::all().iter().map(Ablation::name).collect();
    assert!(help.contains(&ablations.join(", ")), "{help}");
}

#[test]
fn an_ablation_shares_the_candidates() {
    let tiny = Tiny::new();
    let args =
        |name| ["compare", "recipe.toml", "--ablation", name, "--seeds", "1", "--out", "out"];
    tiny.expect(&args("samples"), 0, &[]);
    tiny.expect(&args("group-size"), 0, &["generate: already done"]);
    let found = json(&tiny.path("out/compare.json"));
    let samples = |name: &str| found["methods"][name]["seeds"]["1"]["samples"].as_u64().unwrap();
    assert!(samples("group-size-1") <= 8 && samples("group-size-2") <= 6);
    assert!(found["methods"]["group-size-4"].is_null(), "there are three wordings only");
    assert!(tiny.path("out/seed-1/methods/samples-10/scores.jsonl").exists());
}

#[test]
fn several_rounds_are_compared_within_the_budget_of_one() {
    let tiny = Tiny::new();
    let args = [
        "compare",
        "recipe.toml",
        "--methods",
        "craft",
        "--seeds",
        "2",
        "--rounds",
        "2",
        "--out",
        "out",
    ];
    tiny.expect(&args, 0, &["round 1 of 2", "round 2 of 2"]);
    let found = json(&tiny.path("out/compare.json"));
    let rounds = &found["methods"]["craft-2-rounds"];
    let craft = &found["methods"]["craft"];
    for seed in ["1", "2"] {
        let (rounds, craft) = (&rounds["seeds"][seed], &craft["seeds"][seed]);
        assert_eq!(rounds["sample_passes"], craft["sample_passes"]);
        assert_eq!(rounds["steps"], craft["steps"]);
        assert!(rounds["samples"].as_u64().unwrap() <= 3, "half of six samples in each round");
        // Half of the steps were done before the last round begins.
        assert_eq!(rounds["curve"][0]["sample_passes"], 2 * 4 + 4);
        // The prompts of a file are drawn again in each round.
        assert_eq!(rounds["images_generated"], 64);
    }
    assert_eq!(rounds["rewards"]["other"]["change"]["n"], 2);
    assert_ne!(rounds["rewards"]["other"]["change"], craft["rewards"]["other"]["change"]);
    tiny.expect(&args, 0, &["tune craft-2-rounds: already done"]);
}

/// What a method trained on seed 1.
fn trained(tiny: &Tiny, method: &str) -> Vec<u8> {
    fs::read(tiny.path(&format!("out/seed-1/methods/{method}/lora.safetensors"))).unwrap()
}

#[test]
fn factors_in_bf16_with_recomputation_and_text_encoders_are_compared() {
    let methods = ["--methods", "craft,dpo-rewards,nft,ddpo,spo", "--seeds", "1", "--out", "out"];
    let args = [&["compare", "recipe.toml"][..], &methods[..]].concat();
    let lora = ["--set", "train.mode=lora", "--set", "train.lora.init=gaussian"];
    let small = [
        "--set",
        "train.precision=bf16",
        "--set",
        "train.gradient_checkpointing=true",
        "--set",
        "train.lora.text_encoders=true",
    ];
    let plain = Tiny::new();
    plain.expect(&[&args[..], &lora[..]].concat(), 0, &[]);
    let tiny = Tiny::new();
    let args = [&args[..], &lora[..], &small[..]].concat();
    tiny.expect(&args, 0, &[]);
    let found = json(&tiny.path("out/compare.json"));
    for method in ["craft", "dpo-rewards", "nft", "ddpo", "spo"] {
        let file = trained(&tiny, method);
        let text = String::from_utf8_lossy(&file);
        assert!(text.contains("lora_te_"), "{method}: text encoders are trained");
        assert!(!String::from_utf8_lossy(&trained(&plain, method)).contains("lora_te_"));
        let result = &found["methods"][method]["seeds"]["1"];
        assert!(result["diverged"].is_null() && result["steps"].as_u64().unwrap() > 0, "{result}");
    }
    tiny.expect(&args, 0, &["tune spo: already done"]);
}

#[test]
fn every_method_over_candidates_trains_a_run() {
    let tiny = Tiny::new();
    let run = |method: &str, extra: &[&str], code: i32, words: &[&str]| {
        let (out, method) = (format!("run-{method}"), format!("train.method={method}"));
        let args = ["run", "recipe.toml", "--out", &out, "--set", &method];
        let quick = ["--set", "train.steps=2"];
        tiny.expect(&[&args[..], &quick[..], extra].concat(), code, words);
        tiny.path(&out)
    };
    let mut weights = std::collections::BTreeMap::new();
    let known = craft_train::methods::all().filter(|m| m.is_offline()).map(|m| m.name);
    let methods: Vec<&str> = known.chain(["kto"]).collect();
    assert_eq!(methods.len(), 15);
    for &method in &methods {
        let out = run(method, &[], 0, &[]);
        let counts = json(&out.join("aligned/stage.json"))["counts"].clone();
        assert!(counts["samples"].as_u64().unwrap() > 0, "{method}: {counts}");
        let file = out.join("aligned/unet/diffusion_pytorch_model.safetensors");
        weights.insert(method, fs::read(file).unwrap());
    }
    assert_eq!(weights["kto"], weights["kto-selected"]);
    for method in methods.iter().filter(|m| !["kto", "kto-selected"].contains(*m)) {
        let same = weights.values().filter(|other| **other == weights[method]).count();
        assert_eq!(same, 1, "{method} trains as another one");
    }
    // A pull changes what is learned; a loss of its own takes none.
    let pull = ["--set", "train.form.pull=0.5"];
    fs::remove_dir_all(tiny.path("run-craft")).unwrap();
    let pulled = run("craft", &pull, 0, &[]);
    let pulled = fs::read(pulled.join("aligned/unet/diffusion_pytorch_model.safetensors"));
    assert_ne!(pulled.unwrap(), weights["craft"]);
    run("nft2", &[], 2, &["train.method", "did you mean `nft`"]);
    run("craft-h", &[], 2, &["train.method", "filter"]);
    run("ddpo", &[], 2, &["train.method", "craft compare"]);
    let refused = ["--set", "train.form.pull=0.5"];
    fs::remove_dir_all(tiny.path("run-nft")).unwrap();
    run("nft", &refused, 2, &["train.form", "nft"]);
    assert!(!tiny.path("run-nft").exists());
}

#[test]
fn rounds_of_factors_go_on_from_those_of_the_round_before() {
    let tiny = Tiny::new();
    let args = [
        "compare",
        "recipe.toml",
        "--methods",
        "craft",
        "--rounds",
        "2",
        "--seeds",
        "1",
        "--set",
        "train.mode=lora",
        "--out",
        "out",
    ];
    tiny.expect(&args, 0, &["round 2 of 2"]);
    let rounds = fs::read_dir(tiny.path("out/seed-1/rounds")).unwrap().next().unwrap().unwrap();
    let first = fs::read(rounds.path().join("rounds/1/aligned/lora.safetensors")).unwrap();
    let last = trained(&tiny, "craft-2-rounds");
    assert_eq!(first.len(), last.len());
    assert_ne!(first, last);
    assert_ne!(last, trained(&tiny, "craft"));
}

#[test]
fn a_folder_of_another_recipe_is_not_written_to() {
    let tiny = Tiny::new();
    let args = ["compare", "recipe.toml", "--methods", "random", "--seeds", "1", "--out", "out"];
    tiny.expect(&args, 0, &[]);
    let other = [&args[..], &["--set", "train.steps=5"]].concat();
    tiny.expect(&other, 1, &["out holds another run", "steps = 5"]);
}
