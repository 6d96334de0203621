//! Small models of published layouts in the commands that take a model.

use std::fs;

use super::facts::Facts;
use super::files::{folder, weight_file};
use crate::support::Tiny;

const SAMPLE: [&str; 12] = [
    "sample",
    "--prompt",
    "a big red circle! wow!!",
    "--steps",
    "1",
    "--height",
    "64",
    "--width",
    "64",
    "--output",
    "a.png",
    "--model",
];

/// Draws with a model and returns what was said on standard error.
#[track_caller]
fn draws(tiny: &Tiny, model: &[&str]) -> Vec<u8> {
    tiny.expect(&[&SAMPLE[..], model].concat(), 0, &[]);
    craft_store::image::read(&tiny.path("a.png")).unwrap().data
}

/// Weight files of one number format, as a folder of the hub has them.
fn of_format(facts: &Facts, fp16: bool, ending: &str) -> Vec<String> {
    let mut chosen: Vec<String> = facts
        .files()
        .filter(|f| f.contains('/') && f.ends_with(ending) && !f.contains("non_ema"))
        .filter(|f| f.contains(".fp16.") == fp16)
        .cloned()
        .collect();
    chosen.sort();
    chosen
}

/// Writes a folder and draws with it.
#[track_caller]
fn folder_draws(model: &str, fp16: bool, ending: &str) -> Tiny {
    let (tiny, facts) = (Tiny::new(), Facts::of(model));
    let files = of_format(&facts, fp16, ending);
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    assert!(files.len() >= 3, "{model}: {files:?}");
    folder(&tiny.path(model), &facts, &files);
    draws(&tiny, &[model]);
    tiny
}

#[test]
fn stable_diffusion_1_folders_draw() {
    folder_draws("sd14", false, ".safetensors");
    folder_draws("sd15", false, ".safetensors");
    folder_draws("sd15", true, ".safetensors");
    folder_draws("sd15", false, ".bin");
}

#[test]
fn stable_diffusion_2_folders_draw() {
    for model in ["sd20", "sd20-base", "sd21", "sd21-base", "sd-turbo"] {
        folder_draws(model, false, ".safetensors");
    }
    folder_draws("sd21", false, ".bin");
}

#[test]
fn sdxl_folders_draw() {
    folder_draws("sdxl-base", true, ".safetensors");
    folder_draws("sdxl-turbo", true, ".safetensors");
}

/// Blocks of different depth, and a middle that does not look at the text.
#[test]
fn ssd_1b_draws() {
    folder_draws("ssd-1b", true, ".safetensors");
    single_file_draws("ssd-1b", "SSD-1B.safetensors");
}

/// Draws with a single file whose configs are those of a folder, made small.
#[track_caller]
fn single_file_draws(model: &str, file: &str) {
    let (tiny, facts) = (Tiny::new(), Facts::of(model));
    folder(&tiny.path("config"), &facts, &[]);
    weight_file(&tiny.path(file), &facts, file);
    draws(&tiny, &[file, "--model-config", "config"]);
    fs::remove_dir_all(tiny.path("config")).unwrap();
}

#[test]
fn stable_diffusion_1_single_files_draw() {
    single_file_draws("sd15", "v1-5-pruned-emaonly.safetensors");
    single_file_draws("sd15", "v1-5-pruned-emaonly.ckpt");
    single_file_draws("sd15", "v1-5-pruned.safetensors");
}

#[test]
fn stable_diffusion_2_single_files_draw() {
    single_file_draws("sd21", "v2-1_768-ema-pruned.safetensors");
    single_file_draws("sd21-base", "v2-1_512-nonema-pruned.safetensors");
    single_file_draws("sd20", "768-v-ema.ckpt");
    single_file_draws("sd-turbo", "sd_turbo.safetensors");
}

#[test]
fn sdxl_single_files_draw() {
    single_file_draws("sdxl-base", "sd_xl_base_1.0.safetensors");
    single_file_draws("sdxl-turbo", "sd_xl_turbo_1.0_fp16.safetensors");
    single_file_draws("noobai-vpred", "NoobAI-XL-Vpred-v1.0.safetensors");
    single_file_draws("pony-illustrious", "ponyDiffusionV6XL.safetensors");
}

/// A recipe over a model: two prompts, one step, low-rank.
fn recipe(model: &str) -> String {
    format!(
        r#"
seed = 1
[model]
path = "{model}"
[prompts]
train = "train.txt"
eval = "eval.txt"
[expand]
templates = "pocket"
variants = 3
[generate]
steps = 1
guidance_scale = 2.0
batch = 4
height = 64
width = 64
[[rewards]]
name = "colorfulness"
[[rewards]]
name = "jpeg-size"
role = "held-out"
[select]
max_samples = 4
[train]
mode = "lora"
steps = 1
batch = 2
learning_rate = 1e-3
[train.lora]
rank = 4
[evaluate]
samples_per_prompt = 1
bootstrap = 100
"#
    )
}

/// Plans, runs one step and exports to every format.
fn whole_run(model: &str) {
    let fp16 = ["sdxl-base", "ssd-1b"].contains(&model);
    let tiny = folder_draws(model, fp16, ".safetensors");
    tiny.write("train.txt", "a red circle\na blue square\n");
    tiny.write("eval.txt", "a green star\n");
    tiny.write("run.toml", recipe(model));
    tiny.expect(&["run", "run.toml", "--out", "out", "--dry-run"], 0, &[]);
    tiny.expect(&["run", "run.toml", "--out", "out"], 0, &[]);
    for (format, out) in [
        ("diffusers", "tuned"),
        ("single-file", "tuned.safetensors"),
        ("lora-kohya", "kohya.safetensors"),
        ("lora-diffusers", "lora.safetensors"),
    ] {
        tiny.expect(&["export", "out", "--format", format, "--out", out], 0, &[]);
    }
    let folder = draws(&tiny, &["tuned"]);
    let file = draws(&tiny, &["tuned.safetensors", "--model-config", "tuned"]);
    assert_eq!(folder, file, "{model}");
}

#[test]
fn stable_diffusion_1_runs_and_exports() {
    whole_run("sd15");
}

#[test]
fn stable_diffusion_2_runs_and_exports() {
    whole_run("sd21");
}

#[test]
fn ssd_1b_runs_and_exports() {
    whole_run("ssd-1b");
}

#[test]
fn sdxl_runs_and_exports() {
    whole_run("sdxl-base");
}
