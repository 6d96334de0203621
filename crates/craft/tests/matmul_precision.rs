//! `--matmul-precision`: products in bf16 where the processor has them, a usage error elsewhere.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods)]

mod support;

use craft_store::tensors;
use serde_json::Value;
use support::Tiny;

#[test]
fn products_in_bf16_are_close_to_f32_or_refused() {
    let tiny = Tiny::new();
    let latent: Vec<f32> =
        (0..256).map(|i| ((i * 7919 + 13) % 1000) as f32 / 500.0 - 1.0).collect();
    tiny.tensors("in.safetensors", &[("sample", &[1, 4, 8, 8], &latent)]);
    let forward = |precision| {
        let args = "forward --model model --component vae-decode --in in.safetensors \
                    --out out.safetensors --matmul-precision";
        args.split_whitespace().chain([precision]).collect::<Vec<_>>()
    };
    let decode = |precision| {
        tiny.expect(&forward(precision), 0, &[]);
        tensors::read(&tiny.path("out.safetensors")).unwrap().remove("sample").unwrap().data
    };
    let bench = ["bench", "sample", "--model", "model", "--steps", "1", "--json"];
    let bench = |more: &[&str]| -> Value {
        serde_json::from_str(&tiny.expect(&[&bench, more].concat(), 0, &[])).unwrap()
    };
    assert_eq!(bench(&[])["matmul_precision"], "f32");
    tiny.expect(&["doctor", "--matmul-precision", "f16"], 2, &["f16", "bf16"]);
    if !craft_nn::ops::bf16_supported() {
        eprintln!("this processor has no bf16 multiply-adds: only the refusal is tested");
        tiny.expect(&forward("bf16"), 2, &["--matmul-precision bf16", "expected f32"]);
        return;
    }
    let (full, narrow) = (decode("f32"), decode("bf16"));
    let top = full.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let off = full.iter().zip(&narrow).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / top;
    assert!(off > 1e-5 && off < 0.05, "largest difference {off} of the largest value");
    assert_eq!(bench(&["--matmul-precision", "bf16"])["matmul_precision"], "bf16");

    // A run goes on in the format that it began with.
    let run = ["run", "recipe.toml", "--out", "run", "--matmul-precision"];
    tiny.expect(&[&run[..], &["bf16"]].concat(), 0, &[]);
    let summary = std::fs::read_to_string(tiny.path("run/run.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&summary).unwrap()["matmul_precision"], "bf16");
    let began = ["run began with --matmul-precision bf16", "multiplies in f32"];
    tiny.expect(&[&run[..], &["f32"]].concat(), 2, &began);
    tiny.expect(&["evaluate", "run"], 2, &began);
    tiny.expect(&["evaluate", "run", "--matmul-precision", "bf16"], 0, &[]);
}

#[test]
fn a_run_goes_on_on_the_kind_of_device_that_it_began_on() {
    let tiny = Tiny::new();
    tiny.expect(&["run", "recipe.toml", "--out", "run", "--device", "cpu"], 0, &[]);
    let path = tiny.path("run/base.json");
    let mut base: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(base["device"], "cpu");
    base["device"] = "cuda".into();
    std::fs::write(&path, base.to_string()).unwrap();
    let began = ["run began with --device cuda", "computes on cpu", "another run folder"];
    tiny.expect(&["run", "recipe.toml", "--out", "run"], 2, &began);
    tiny.expect(&["evaluate", "run"], 2, &began);
    let compare = ["compare", "recipe.toml", "--methods", "random", "--seeds", "1", "--out", "out"];
    for command in [&["run", "recipe.toml", "--out", "new"][..], &compare, &["evaluate", "run"]] {
        let gone = [command, &["--device", "tpu"]].concat();
        tiny.expect(&gone, 2, &["--device tpu", "expected `cpu`"]);
        let later = [command, &["--device", "cuda:1"]].concat();
        tiny.expect(&later, 2, &["--device cuda:1", "computes on `cpu` only"]);
    }
    assert!(!tiny.path("new").exists() && !tiny.path("out").exists());
}
