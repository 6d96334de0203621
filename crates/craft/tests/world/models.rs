//! Model folders and single files of other programs and older versions.

mod channels;
mod formats;
mod mutations;
mod names;
mod numbers;
mod pickled;
mod tokens;

use std::fs;

use craft_store::image;
use serde_json::Value;

use crate::support::Tiny;

const UNET: &str = "model/unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "model/vae/diffusion_pytorch_model.safetensors";
const TEXT: &str = "model/text_encoder/model.safetensors";

/// Draws a picture and returns its pixels.
#[track_caller]
fn drawn(tiny: &Tiny, model: &[&str], prompt: &str) -> Vec<u8> {
    let rest = ["--prompt", prompt, "--steps", "2", "--seed", "3", "--output", "a.png"];
    tiny.expect(&[&["sample", "--model"], model, &rest].concat(), 0, &[]);
    image::read(&tiny.path("a.png")).unwrap().data
}

/// Every command that draws refuses the folder `model` with these words, and leaves nothing behind.
#[track_caller]
fn refused(tiny: &Tiny, words: &[&str]) {
    let sample = ["sample", "--model", "model", "--prompt", "x", "--output", "x.png"];
    tiny.expect(&sample, 3, words);
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 3, words);
    tiny.expect(&["run", "recipe.toml", "--out", "out", "--dry-run"], 3, words);
    tiny.expect(&["bench", "train-step", "--model", "model"], 3, words);
    let compare = ["compare", "recipe.toml", "--methods", "dpo-rewards", "--seeds", "1"];
    tiny.expect(&[&compare[..], &["--out", "out"]].concat(), 3, words);
    assert!(!tiny.path("x.png").exists());
    assert!(!tiny.path("out/candidates").exists() && !tiny.path("out/seed-1/candidates").exists());
}

/// Changes a JSON file.
fn edit_json(tiny: &Tiny, relative: &str, change: impl FnOnce(&mut Value)) {
    let text = fs::read_to_string(tiny.path(relative)).unwrap();
    let mut value = serde_json::from_str(&text).unwrap();
    change(&mut value);
    tiny.write(relative, value.to_string());
}

/// Copies of single files in the cache.
fn copies(tiny: &Tiny) -> usize {
    let copy = |name: &std::ffi::OsString| !name.to_string_lossy().starts_with('.');
    let names = fs::read_dir(tiny.path("cache/craft/models")).into_iter().flatten();
    names.filter(|entry| copy(&entry.as_ref().unwrap().file_name())).count()
}
