//! Extreme numbers in every key of every config and tokenizer file: refused with exit code 3 before
//! anything is built, in bounded memory, or harmless.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use burn::tensor::Device;
use craft_model::Model;
use serde_json::{Value, json};

use super::edit_json;
use crate::support::Tiny;

/// Files whose keys are tried.
pub(super) const FILES: [&str; 4] = [
    "model/unet/config.json",
    "model/vae/config.json",
    "model/text_encoder/config.json",
    "model/tokenizer/tokenizer_config.json",
];

fn extremes() -> Vec<Value> {
    vec![
        json!(0),
        json!(1),
        json!(3),
        json!(-1),
        json!(1u64 << 31),
        json!(1u64 << 40),
        json!(1u64 << 62),
        json!(u64::MAX),
        json!(1_000_000_000),
        json!(1e308),
        json!(-1e-5),
        json!([]),
        json!([0]),
        json!([1, 1u64 << 62]),
        json!(vec![1; 100_000]),
        json!(vec![8; 100_000]),
        json!([[1, 2], [3]]),
        json!("x".repeat(100_000)),
        json!({ "a": 1 }),
        json!(true),
        json!(null),
    ]
}

/// What loading a model and reading a text by it does: nothing, a refusal with exit code and words, or a
/// panic.
pub(super) fn outcome(tiny: &Tiny) -> Result<Option<(i32, String)>, ()> {
    let load = || {
        let model = match Model::load(&tiny.path("model"), &Device::flex()) {
            Ok(model) => model,
            Err(error) => return Some((error.exit_code(), error.to_string())),
        };
        model.encode_texts(&["a red circle!", ""]);
        None
    };
    catch_unwind(AssertUnwindSafe(load)).map_err(drop)
}

/// Peak memory of this process in MiB, where the system tells.
pub(super) fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let digits = line.map(|line| line.trim().trim_end_matches(" kB").to_owned());
    digits.and_then(|kib| kib.parse::<usize>().ok()).unwrap_or(0) / 1024
}

#[test]
fn no_number_of_a_config_panics_or_fills_the_memory() {
    let tiny = Tiny::new();
    let mut harmless = Vec::new();
    for file in FILES {
        let good = fs::read_to_string(tiny.path(file)).unwrap();
        let keys: serde_json::Map<String, Value> = serde_json::from_str(&good).unwrap();
        let more = [
            "norm_eps",
            "freq_shift",
            "transformer_layers_per_block",
            "layer_norm_eps",
            "scaling_factor",
            "shift_factor",
            "num_attention_heads",
            "model_max_length",
            "addition_time_embed_dim",
            "added_tokens_decoder",
            "sample_size",
        ];
        let keys: Vec<String> = keys.keys().cloned().chain(more.map(str::to_owned)).collect();
        for key in keys {
            for value in extremes() {
                edit_json(&tiny, file, |config| config[&key] = value.clone());
                let what = || value.to_string().chars().take(40).collect::<String>();
                match outcome(&tiny) {
                    Ok(Some((code, message))) => {
                        assert_eq!(code, 3, "{file} {key} = {}: {message}", what());
                        let short = message.len() < 1500 && !message.contains('\n');
                        assert!(short, "{file} {key} = {}: {} bytes", what(), message.len());
                    }
                    Ok(None) => harmless.push((file, key.clone(), value.clone())),
                    Err(()) => panic!("{file} {key} = {}: a panic", what()),
                }
            }
        }
        tiny.write(file, good);
    }
    assert!(peak() < 2048, "{} MiB", peak());
    // What is taken can be drawn with, or is refused later.
    for (file, key, value) in harmless.iter().filter(|(_, key, _)| key != "sample_size").step_by(9)
    {
        let good = fs::read_to_string(tiny.path(file)).unwrap();
        edit_json(&tiny, file, |config| config[key] = value.clone());
        let args = [
            "sample", "--model", "model", "--prompt", "x", "--steps", "1", "--height", "8",
            "--width", "8", "--output", "x.png",
        ];
        let output = tiny.craft(&args).output().unwrap();
        let code = output.status.code();
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(code == Some(0) || code == Some(3), "{file} {key} = {value}: {says}");
        tiny.write(file, good);
    }
}

/// The program itself, with little memory, on the cases that once took all of it or panicked.
#[test]
fn the_program_refuses_extreme_numbers_with_exit_code_three() {
    for (file, key, value) in [
        (FILES[0], "norm_num_groups", json!(0)),
        (FILES[1], "norm_num_groups", json!(0)),
        (FILES[0], "layers_per_block", json!(1_000_000_000)),
        (FILES[0], "transformer_layers_per_block", json!(1_000_000_000)),
        (FILES[0], "block_out_channels", json!([8, 1u64 << 40])),
        (FILES[0], "block_out_channels", json!([])),
        (FILES[0], "norm_eps", json!(-1e-5)),
        (FILES[0], "freq_shift", json!(1e308)),
        (FILES[1], "layers_per_block", json!(1_000_000_000)),
        (FILES[1], "block_out_channels", json!([1u64 << 31, 1u64 << 31])),
        (FILES[1], "block_out_channels", json!(vec![4; 100_000])),
        (FILES[2], "hidden_size", json!(1_000_000_000)),
        (FILES[2], "num_hidden_layers", json!(1_000_000_000)),
        (FILES[2], "hidden_act", json!("x".repeat(1_000_000))),
        (FILES[3], "model_max_length", json!(900_000)),
    ] {
        let tiny = Tiny::new();
        edit_json(&tiny, file, |config| config[key] = value);
        let mut command = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_craft");
        command.args(["-c", "ulimit -v 6000000; exec \"$0\" \"$@\"", program]);
        command.args(["sample", "--model", "model", "--prompt", "x", "--output", "x.png"]);
        let output = command.current_dir(tiny.path(".")).output().unwrap();
        let says = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{file} {key}: {says}");
        // The JSON reader does not say the key of an unknown word.
        let named = says.contains(key) || says.contains("unknown variant");
        assert!(named && says.len() < 1500, "{key}: {says}");
    }
}

/// Configs of reward models are bounded by their weights in the same way.
#[test]
fn numbers_of_a_rewards_config_are_bounded() {
    const FILE: &str = "model/rewards/pocket-hps/config.json";
    for (part, key, value) in [
        ("text_config", "num_hidden_layers", json!(1_000_000_000)),
        ("text_config", "hidden_size", json!(1u64 << 40)),
        ("text_config", "max_position_embeddings", json!(1u64 << 40)),
        ("vision_config", "num_hidden_layers", json!(1_000_000_000)),
        ("vision_config", "hidden_size", json!(1u64 << 40)),
        ("vision_config", "intermediate_size", json!(1u64 << 40)),
        ("vision_config", "image_size", json!(1u64 << 40)),
        ("vision_config", "patch_size", json!(0)),
    ] {
        let tiny = Tiny::new();
        edit_json(&tiny, FILE, |config| config[part][key] = value);
        let mut command = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_craft");
        command.args(["-c", "ulimit -v 6000000; exec \"$0\" \"$@\"", program]);
        command.args(["run", "recipe.toml", "--dry-run"]).env("HF_HUB_OFFLINE", "1");
        command.env("CRAFT_POCKET_DIR", tiny.path("model"));
        let output = command.current_dir(tiny.path(".")).output().unwrap();
        let says = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{part} {key}: {says}");
        assert!(says.contains(key) && says.len() < 1500, "{part} {key}: {says}");
    }
}
