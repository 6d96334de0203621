//! Broken model folders and tensor files: the message and the exit code.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::fs;

use craft_store::tensors::Tensor;
use support::Tiny;

const SAMPLE: [&str; 9] =
    ["sample", "--model", "model", "--prompt", "a red circle", "--steps", "1", "--output", "x.png"];
const UNET: &str = "model/unet/diffusion_pytorch_model.safetensors";

/// Sampling and a run both refuse the model, and leave nothing behind.
#[track_caller]
fn refused(tiny: &Tiny, words: &[&str]) {
    tiny.expect(&SAMPLE, 3, words);
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 3, words);
    assert!(!tiny.path("x.png").exists() && !tiny.path("out").exists());
}

#[test]
fn missing_files() {
    for file in [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
    ] {
        let tiny = Tiny::new();
        fs::remove_file(tiny.path("model").join(file)).unwrap();
        refused(&tiny, &[file]);
    }
}

#[test]
fn truncated_weights() {
    let tiny = Tiny::new();
    let whole = fs::read(tiny.path(UNET)).unwrap();
    for length in [0, 7, 40, whole.len() / 2, whole.len() - 1] {
        tiny.write(UNET, &whole[..length]);
        tiny.expect(
            &SAMPLE,
            3,
            &["diffusion_pytorch_model.safetensors", "not a whole safetensors file"],
        );
    }
    refused(&tiny, &["download it again"]);
}

#[test]
fn flipped_bits_in_the_header() {
    let tiny = Tiny::new();
    let whole = fs::read(tiny.path(UNET)).unwrap();
    // In the length, the opening brace, the middle of a name, and a data offset.
    let name = whole.windows(7).position(|w| w == b"conv_in").unwrap();
    let offset = whole.windows(12).position(|w| w == b"data_offsets").unwrap() + 16;
    for (byte, bit) in [(6, 1), (8, 1), (name, 0x80), (offset, 4)] {
        let mut bytes = whole.clone();
        bytes[byte] ^= bit;
        tiny.write(UNET, &bytes);
        tiny.expect(&SAMPLE, 3, &["diffusion_pytorch_model.safetensors"]);
    }
    assert!(!tiny.path("x.png").exists());
}

#[test]
fn missing_unused_misshapen_and_non_finite_tensors() {
    let tiny = Tiny::new();
    let whole = fs::read(tiny.path(UNET)).unwrap();
    tiny.edit(UNET, |all| drop(all.remove("conv_in.bias")));
    refused(&tiny, &["1 tensors missing", "conv_in.bias"]);
    tiny.write(UNET, &whole);
    tiny.edit(UNET, |all| {
        drop(all.insert("extra".to_owned(), Tensor::new([1], vec![0.0]).unwrap()))
    });
    refused(&tiny, &["not used by the network", "extra"]);
    tiny.write(UNET, &whole);
    tiny.edit(UNET, |all| {
        drop(all.insert("conv_in.bias".to_owned(), Tensor::new([9], vec![0.0; 9]).unwrap()))
    });
    refused(&tiny, &["conv_in.bias", "[9]", "[8]"]);
    tiny.write(UNET, &whole);
    tiny.edit(UNET, |all| all.get_mut("conv_in.bias").unwrap().data[3] = f32::NAN);
    refused(&tiny, &["conv_in.bias", "NaN"]);
}

#[test]
fn configs() {
    let tiny = Tiny::new();
    let path = "model/unet/config.json";
    let good = fs::read_to_string(tiny.path(path)).unwrap();
    tiny.write(
        path,
        good.replace("\"sample_size\"", "\"time_embedding_dim\": 64, \"sample_size\""),
    );
    refused(&tiny, &["time_embedding_dim", "not supported"]);
    tiny.write(path, &good[..good.len() / 2]);
    refused(&tiny, &["unet/config.json"]);
    tiny.write(path, &good);
    tiny.write("model/model_index.json", "{\"_class_name\": \"FluxPipeline\"}");
    refused(&tiny, &["FluxPipeline", "StableDiffusionPipeline"]);
}

#[test]
fn rewards() {
    let tiny = Tiny::new();
    let weights = "model/rewards/pocket-hps/model.safetensors";
    tiny.edit(weights, |all| drop(all.remove("logit_scale")));
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 3, &["rewards/pocket-hps"]);
    tiny.write(weights, "cut");
    tiny.expect(
        &["run", "recipe.toml", "--out", "out"],
        3,
        &["rewards/pocket-hps/model.safetensors"],
    );
    assert!(!tiny.path("out").exists());
}

#[test]
fn other_architectures_are_named() {
    let tiny = Tiny::new();
    let index = "model/model_index.json";
    for (json, words) in [
        (r#"{"_class_name": "StableDiffusion3Pipeline"}"#, ["Stable Diffusion 3", "SDXL base"]),
        (r#"{"_class_name": "PixArtAlphaPipeline"}"#, ["PixArt", "StableDiffusionXLPipeline"]),
        (r#"{"_class_name": "StableDiffusionInpaintPipeline"}"#, ["takes more", "SDXL base"]),
        (r#"{"_class_name": "SomethingPipeline"}"#, ["SomethingPipeline", "SDXL base"]),
        (
            r#"{"_class_name": "StableDiffusionPipeline", "prior": ["diffusers", "Prior"]}"#,
            ["prior", "not supported"],
        ),
        (
            r#"{"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderTiny"]}"#,
            ["AutoencoderTiny", "expected the class AutoencoderKL"],
        ),
    ] {
        tiny.write(index, json);
        refused(&tiny, &[index, words[0], words[1]]);
    }
    // Folders that hold something else.
    fs::remove_file(tiny.path(index)).unwrap();
    refused(&tiny, &[index, "it is missing"]);
    let sample = |model: &str, words: &[&str]| {
        tiny.expect(&["sample", "--prompt", "x", "--model", model], 3, words);
    };
    sample("model/text_encoder", &["one network alone"]);
    fs::create_dir(tiny.path("lora")).unwrap();
    tiny.write("lora/adapter_config.json", "{}");
    sample("lora", &["--lora"]);
}

#[test]
fn settings_that_would_be_ignored_are_refused() {
    for (path, from, to, words) in [
        (
            "text_encoder",
            "\"vocab_size\"",
            "\"use_relative\": true, \"vocab_size\"",
            "use_relative",
        ),
        ("text_encoder", "\"vocab_size\"", "\"model_type\": \"t5\", \"vocab_size\"", "model_type"),
        ("vae", "\"UpDecoderBlock2D\",", "", "up_block_types"),
        ("vae", "\"in_channels\"", "\"latents_mean\": [0.1], \"in_channels\"", "latents_mean"),
        (
            "unet",
            "\"in_channels\"",
            "\"class_embed_type\": \"timestep\", \"in_channels\"",
            "class_embed_type",
        ),
    ] {
        let tiny = Tiny::new();
        let path = format!("model/{path}/config.json");
        let good = fs::read_to_string(tiny.path(&path)).unwrap();
        let bad = good.replacen(from, to, 1);
        assert_ne!(good, bad, "{from}");
        tiny.write(&path, bad);
        refused(&tiny, &[&path, words, "supported"]);
    }
}
