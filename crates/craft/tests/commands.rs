//! What `sample`, `score`, `forward`, `bench` and `doctor` give and refuse.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::fs;

use craft_store::image::{self, read_parameters};
use craft_store::tensors;
use serde_json::Value;
use support::{LENGTH, Tiny, WIDTH};

/// Values that look random.
fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + 13) % 1000) as f32 / 500.0 - 1.0).collect()
}

#[test]
fn sample_draws_pictures_that_depend_on_seed_and_latents_only() {
    let tiny = Tiny::new();
    let base = ["sample", "--model", "model", "--prompt", "a red circle", "--steps", "2"];
    let with = |more: &[&str]| tiny.expect(&[&base[..], more].concat(), 0, &[]);
    let path = with(&["--seed", "5", "--output", "a.png", "--dump-latents", "a.safetensors"]);
    assert_eq!(path, "a.png\n");
    let text = read_parameters(&tiny.path("a.png")).unwrap().unwrap();
    assert!(
        text.starts_with(
            "a red circle\nSteps: 2, Sampler: DDIM, CFG scale: 7.5, Seed: 5, Size: 16x16"
        ),
        "{text}"
    );
    let picture = image::read(&tiny.path("a.png")).unwrap();
    assert_eq!((picture.width, picture.height), (16, 16));
    let final_latents = tensors::read(&tiny.path("a.safetensors")).unwrap();
    assert_eq!(final_latents["latents"].shape, [1, 4, 8, 8]);

    // The second of several pictures is the first one's neighbour, not another first one.
    let line = with(&[
        "--prompt",
        "a red circle",
        "--seed",
        "5",
        "--output",
        "two",
        "--json",
        "--threads",
        "1",
    ]);
    let lines: Vec<Value> = line.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["image"], "two/00001.png");
    assert_eq!(image::read(&tiny.path("two/00000.png")).unwrap(), picture);
    assert_ne!(image::read(&tiny.path("two/00001.png")).unwrap(), picture);

    let noise = values(2 * 256);
    tiny.tensors("noise.safetensors", &[("latents", &[2, 4, 8, 8], &noise)]);
    for scheduler in ["ddim", "dpm++2m"] {
        let args =
            ["--latents", "noise.safetensors", "--scheduler", scheduler, "--output", scheduler];
        with(&args);
        with(&[&args[..5], &[&format!("{scheduler}-again")]].concat());
        for file in ["00000.png", "00001.png"] {
            let path = |dir: &str| fs::read(tiny.path(dir).join(file)).unwrap();
            assert_eq!(path(scheduler), path(&format!("{scheduler}-again")));
        }
    }
}

#[test]
fn sample_refuses() {
    let tiny = Tiny::new();
    let base = ["sample", "--model", "model", "--prompt", "x"];
    let fails = |more: &[&str], code, words: &[&str]| {
        drop(tiny.expect(&[&base[..], more].concat(), code, words))
    };
    fails(&["--scheduler", "heun"], 2, &["heun", "euler-a"]);
    fails(&["--scheduler", "ddim", "--karras"], 2, &["--karras", "ddim"]);
    fails(&["--scheduler", "magic"], 2, &["no such scheduler", "dpm++2m"]);
    fails(&["--lora", "gone.safetensors:0.5"], 3, &["gone.safetensors"]);
    fails(&["--lora", "gone.safetensors:inf"], 2, &["--lora", "-100 to 100"]);
    tiny.tensors("lora.safetensors", &[("lora_unet_else.lora_down.weight", &[1, 2], &values(2))]);
    fails(&["--lora", "lora.safetensors"], 3, &["lora_unet_else", "another model"]);
    fails(&["--steps", "0"], 2, &["--steps is 0"]);
    fails(&["--steps", "1001"], 2, &["--steps is 1001"]);
    fails(&["--guidance-scale", "NaN"], 2, &["--guidance-scale"]);
    fails(&["--height", "15"], 2, &["--height is 15", "multiple of 2"]);
    fails(&["--output", "a.jpg"], 2, &["PNG"]);
    fails(&["--prompt", "y", "--output", "a.png"], 2, &["2 pictures", "folder"]);
    fails(&["--latents", "gone.safetensors"], 3, &["gone.safetensors"]);
    tiny.tensors("bad.safetensors", &[("latents", &[256], &values(256))]);
    fails(&["--latents", "bad.safetensors"], 3, &["`latents`", "[B, 4, h, w]"]);
    tiny.tensors("bad.safetensors", &[("latents", &[1, 3, 8, 8], &values(192))]);
    fails(&["--latents", "bad.safetensors"], 3, &["[1, 3, 8, 8]", "[B, 4, 8, 8]"]);
    tiny.tensors("bad.safetensors", &[("noise", &[1, 4, 8, 8], &values(256))]);
    fails(&["--latents", "bad.safetensors"], 3, &["`latents`", "does not have it"]);
    tiny.tensors("three.safetensors", &[("latents", &[3, 4, 8, 8], &values(768))]);
    fails(&["--prompt", "y", "--latents", "three.safetensors"], 2, &["2 prompts and 3 latents"]);
    tiny.expect(&["sample", "--model", "none", "--prompt", "x"], 3, &["none", "diffusers layout"]);
    let long = "a red circle and ".repeat(20);
    tiny.expect(
        &["sample", "--model", "model", "--prompt", &long, "--steps", "1"],
        0,
        &["cut off"],
    );
}

#[test]
fn score_prints_one_line_an_image() {
    let tiny = Tiny::new();
    tiny.expect(
        &["sample", "--model", "pocket", "--prompt", "a", "--prompt", "b", "--output", "p"],
        0,
        &[],
    );
    let base = ["score", "p/00000.png", "p/00001.png", "--prompt", "a red circle", "--reward"];
    let out = tiny.expect(
        &[&base[..], &["pocket-hps", "--reward", "mine=model/rewards/pocket-ir"]].concat(),
        0,
        &[],
    );
    let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for line in &lines {
        assert!(
            line["scores"]["pocket-hps"].is_number() && line["scores"]["mine"].is_number(),
            "{line}"
        );
        assert!(line.get("missing").is_none());
    }
    assert_eq!(lines[0]["image"], "p/00000.png");
    assert_ne!(lines[0]["scores"], lines[1]["scores"]);

    // Published names: without weights, with a file, with what does not exist.
    let out = tiny.expect(
        &[
            &base[..],
            &["jpeg-size", "--reward", "colorfulness"],
            &["--reward", "hpsv2.1=model/rewards/pocket-hps,model/tokenizer"],
        ]
        .concat(),
        0,
        &[],
    );
    let line: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert!(line["scores"]["jpeg-size"].as_f64().unwrap() < 0.0, "{line}");
    assert!(line["scores"]["colorfulness"].is_number() && line["scores"]["hpsv2.1"].is_number());
    // Published weights come from the hub, which tests do not ask.
    let offline = ["reward imagereward", "zai-org/ImageReward", "HF_HUB_OFFLINE"];
    tiny.expect(&[&base[..], &["imagereward"]].concat(), 3, &offline);
    let wrong = "imagereward=model/rewards/pocket-hps";
    tiny.expect(&[&base[..], &[wrong]].concat(), 3, &["imagereward", "ImageReward.pt"]);

    tiny.expect(&[&base[..], &["hps"]].concat(), 2, &["hps is not embedded", "pocket-hps"]);
    tiny.expect(&[&base[..], &["x=gone"]].concat(), 3, &["gone"]);
    tiny.expect(&[&base[..], &["pocket-hps", "--reward", "pocket-hps"]].concat(), 2, &["twice"]);
    tiny.write("broken.png", b"\x89PNG\r\n\x1a\nrubbish");
    let broken = ["score", "broken.png", "--prompt", "x", "--reward", "pocket-hps"];
    tiny.expect(&broken, 3, &["broken.png", "damaged"]);
    tiny.expect(
        &["score", "gone.png", "--prompt", "x", "--reward", "pocket-hps"],
        3,
        &["gone.png"],
    );
}

/// A safetensors file with whole numbers, as PyTorch writes ids and timesteps.
fn with_integers(
    tiny: &Tiny,
    file: &str,
    name: &str,
    shape: &[usize],
    ids: &[i64],
    rest: &[(&str, &[usize], &[f32])],
) {
    tiny.tensors(file, rest);
    let bytes = fs::read(tiny.path(file)).unwrap();
    let header_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + header_bytes]).unwrap();
    let data = bytes.len() - 8 - header_bytes;
    header[name] = serde_json::json!({
        "dtype": "I64", "shape": shape, "data_offsets": [data, data + 8 * ids.len()],
    });
    let text = header.to_string();
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text.as_bytes());
    out.extend(&bytes[8 + header_bytes..]);
    out.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    tiny.write(file, out);
}

#[test]
fn forward_gives_the_tensors_and_gradients_that_it_promises() {
    let tiny = Tiny::new();
    let (sample, target, context) =
        (values(512), values(600)[88..].to_vec(), values(2 * LENGTH * WIDTH));
    let rest: [(&str, &[usize], &[f32]); 4] = [
        ("sample", &[2, 4, 8, 8], &sample),
        ("encoder_hidden_states", &[2, LENGTH, WIDTH], &context),
        ("target", &[2, 4, 8, 8], &target),
        ("weight", &[2], &[1.0, 0.25]),
    ];
    with_integers(&tiny, "in.safetensors", "timestep", &[2], &[7, 900], &rest);
    let run = |out: &str| {
        let args = [
            "forward",
            "--model",
            "model",
            "--component",
            "unet",
            "--in",
            "in.safetensors",
            "--out",
            out,
        ];
        tiny.expect(&[&args[..], &["--grads"]].concat(), 0, &[]);
        tensors::read(&tiny.path(out)).unwrap()
    };
    let out = run("out.safetensors");
    let weights =
        tensors::read(&tiny.path("model/unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(out.len(), 2 + weights.len());
    for (name, tensor) in &weights {
        assert_eq!(out[&format!("grad.{name}")].shape, tensor.shape, "{name}");
    }
    let prediction = &out["sample"];
    assert_eq!(prediction.shape, [2, 4, 8, 8]);
    let mut loss = 0.0;
    for (b, weight) in [1.0, 0.25].into_iter().enumerate() {
        let range = b * 256..(b + 1) * 256;
        let squares = prediction.data[range.clone()].iter().zip(&target[range]);
        loss += weight * squares.map(|(p, t)| f64::from(p - t).powi(2)).sum::<f64>() / 256.0 / 2.0;
    }
    assert!(out["loss"].shape.is_empty());
    assert!((f64::from(out["loss"].data[0]) - loss).abs() < 1e-5);

    // A parameter moved by hand changes the loss as its gradient says.
    for name in ["conv_out.bias", "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"] {
        let file = "model/unet/diffusion_pytorch_model.safetensors";
        let gradient = out[&format!("grad.{name}")].data[0];
        let step = 0.05;
        tiny.edit(file, |all| all.get_mut(name).unwrap().data[0] += step);
        let up = run("up.safetensors")["loss"].data[0];
        tiny.edit(file, |all| all.get_mut(name).unwrap().data[0] -= 2.0 * step);
        let down = run("down.safetensors")["loss"].data[0];
        tiny.edit(file, |all| all.get_mut(name).unwrap().data[0] += step);
        let slope = (up - down) / (2.0 * step);
        assert!(
            (slope - gradient).abs() < 1e-4 + 0.02 * gradient.abs(),
            "{name}: {slope} {gradient}"
        );
    }
}

#[test]
fn forward_runs_the_other_components() {
    let tiny = Tiny::new();
    let run = |component: &str| {
        let args = [
            "forward",
            "--model",
            "model",
            "--component",
            component,
            "--in",
            "in.safetensors",
            "--out",
            "out.safetensors",
        ];
        tiny.expect(&args, 0, &[]);
        tensors::read(&tiny.path("out.safetensors")).unwrap()
    };
    tiny.tensors("in.safetensors", &[("sample", &[1, 3, 16, 16], &values(768))]);
    let out = run("vae-encode");
    assert_eq!(out["mean"].shape, [1, 4, 8, 8]);
    assert_eq!(out["logvar"].shape, [1, 4, 8, 8]);
    tiny.tensors("in.safetensors", &[("sample", &[1, 4, 8, 8], &values(256))]);
    assert_eq!(run("vae-decode")["sample"].shape, [1, 3, 16, 16]);
    let ids: Vec<i64> = (0..2 * LENGTH as i64).map(|i| (i * 31) % 500).collect();
    with_integers(&tiny, "in.safetensors", "input_ids", &[2, LENGTH], &ids, &[]);
    let out = run("text-encoder");
    assert_eq!(out["last_hidden_state"].shape, [2, LENGTH, WIDTH]);
    assert_eq!(out["penultimate_hidden_state"].shape, [2, LENGTH, WIDTH]);
    assert_eq!(out["pooled"].shape, [2, WIDTH]);
}

#[test]
fn forward_refuses() {
    let tiny = Tiny::new();
    let fails = |component: &str, more: &[&str], code, words: &[&str]| {
        let args = [
            "forward",
            "--model",
            "model",
            "--component",
            component,
            "--in",
            "in.safetensors",
            "--out",
            "out.safetensors",
        ];
        tiny.expect(&[&args[..], more].concat(), code, words);
        assert!(!tiny.path("out.safetensors").exists());
    };
    fails("unet", &[], 3, &["in.safetensors"]);
    tiny.tensors("in.safetensors", &[("sample", &[1, 4, 8, 8], &values(256))]);
    fails("vae-decode", &["--loss"], 2, &["--component unet"]);
    fails("hat", &[], 2, &["hat"]);
    fails("unet", &[], 3, &["`timestep`", "does not have it"]);
    fails("vae-encode", &[], 3, &["`sample`", "[1, 4, 8, 8]", "[any, 3, any, any]"]);
    fails("text-encoder-2", &[], 3, &["text_encoder_2"]);
    let context = values(LENGTH * WIDTH);
    let rest: [(&str, &[usize], &[f32]); 2] = [
        ("sample", &[1, 4, 8, 8], &values(256)),
        ("encoder_hidden_states", &[1, LENGTH, WIDTH], &context),
    ];
    with_integers(&tiny, "in.safetensors", "timestep", &[1], &[7], &rest);
    fails("unet", &["--loss"], 3, &["`target`"]);
    with_integers(&tiny, "in.safetensors", "input_ids", &[1, 4], &[1, 2, 3, 100_000], &[]);
    fails("text-encoder", &[], 3, &["100000", "token ids"]);
    with_integers(&tiny, "in.safetensors", "input_ids", &[1, LENGTH + 1], &[0; LENGTH + 1], &[]);
    fails("text-encoder", &[], 3, &["at most 16"]);
}

#[test]
fn bench_measures() {
    let tiny = Tiny::new();
    for kind in ["sample", "train-step"] {
        let out = tiny.expect(
            &["bench", kind, "--model", "model", "--batch", "2", "--steps", "3", "--json"],
            0,
            &[],
        );
        let line: Value = serde_json::from_str(&out).unwrap();
        for key in ["images_per_second", "gflops"] {
            assert!(line[key].as_f64().unwrap() > 0.0, "{line}");
        }
        assert!(line["seconds_per_step"]["median"].as_f64().unwrap() > 0.0, "{line}");
        assert_eq!(line["batch"], 2);
    }
    let portable = ["bench", "sample", "--model", "model", "--steps", "1", "--simd", "portable"];
    let out = tiny.expect(&portable, 0, &[]);
    assert!(out.contains("Portable"), "{out}");
    let narrow = [&portable[..], &["--matmul-precision", "bf16"]].concat();
    tiny.expect(&narrow, 2, &["bf16 multiply-adds"]);
    let other = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    tiny.expect(&["bench", "sample", "--simd", other], 2, &["does not have it"]);
    tiny.expect(&["bench", "sample", "--precision", "bf16"], 2, &["bf16"]);
    tiny.expect(&["bench", "sample", "--model", "model", "--height", "17"], 2, &["--height is 17"]);
}

#[test]
fn doctor_finds_what_is_wrong() {
    let tiny = Tiny::new();
    let out = tiny.expect(&["doctor"], 0, &[]);
    assert!(out.contains("kernels and library agree") && !out.contains("FAILED"), "{out}");
    assert!(out.contains("GFLOP/s in f32"), "{out}");
    fs::remove_file(tiny.path("model/vae/config.json")).unwrap();
    let out = tiny.expect(&["doctor", "--json"], 1, &["1 of the checks"]);
    let failed = out
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap())
        .find(|l| l["passed"] == false);
    assert!(failed.unwrap()["text"].as_str().unwrap().contains("vae/config.json"));
}

#[test]
fn quiet_is_quiet_and_results_stay_on_standard_output() {
    let tiny = Tiny::new();
    let args = ["-q", "sample", "--model", "model", "--prompt", "a red circle", "--steps", "1"];
    let output = tiny.craft(&args).output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"sample.png\n");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_layout_of_a_model_folder_is_the_same_model() {
    let tiny = Tiny::new();
    let draw = |file: &str| {
        let args = ["sample", "--model", "model", "--prompt", "a red circle", "--steps", "2"];
        tiny.expect(&[&args[..], &["--output", file]].concat(), 0, &[]);
        image::read(&tiny.path(file)).unwrap()
    };
    let picture = draw("plain.png");

    let unet = "model/unet/diffusion_pytorch_model";
    let all = tensors::read(&tiny.path(&format!("{unet}.safetensors"))).unwrap();
    let mut map = serde_json::Map::new();
    let mut shards = [std::collections::BTreeMap::new(), std::collections::BTreeMap::new()];
    for (i, (name, tensor)) in all.into_iter().enumerate() {
        let file = format!("diffusion_pytorch_model-0000{}-of-00002.safetensors", i % 2 + 1);
        map.insert(name.clone(), file.into());
        shards[i % 2].insert(name, tensor);
    }
    for (i, shard) in shards.iter().enumerate() {
        let path = tiny.path(&format!("{unet}-0000{}-of-00002.safetensors", i + 1));
        tensors::write_map(&path, shard, tensors::Dtype::F32).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    tiny.write(&format!("{unet}.safetensors.index.json"), index);
    fs::remove_file(tiny.path(&format!("{unet}.safetensors"))).unwrap();
    for stem in ["model/vae/diffusion_pytorch_model", "model/text_encoder/model"] {
        let [from, to] =
            ["safetensors", "fp16.safetensors"].map(|e| tiny.path(&format!("{stem}.{e}")));
        fs::rename(from, to).unwrap();
    }
    assert_eq!(draw("sharded.png"), picture);

    // The aligned model has the trained weights only, not the shards it started from.
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &[]);
    let entries = fs::read_dir(tiny.path("out/aligned/unet")).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "diffusion_pytorch_model.safetensors"]);

    fs::remove_file(tiny.path(&format!("{unet}-00002-of-00002.safetensors"))).unwrap();
    let args = ["sample", "--model", "model", "--prompt", "a red circle", "--output", "x.png"];
    tiny.expect(&args, 3, &["1 of its 2 shards are missing", "-00002-of-00002.safetensors"]);
}
