//! Single-file checkpoints in every command, and what is refused.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::collections::BTreeMap;
use std::fs;

use craft_store::raw::{Entry, Format, RawReader};
use craft_store::tensors::{self, Dtype, Tensor, TensorReader};
use craft_store::{image, raw};
use support::Tiny;

const RUN: [&str; 4] = ["run", "recipe.toml", "--out", "out"];

/// Draws a picture by a model and returns its pixels.
#[track_caller]
fn drawn(tiny: &Tiny, model: &[&str]) -> Vec<u8> {
    let rest = ["--prompt", "a red circle", "--steps", "2", "--seed", "3", "--output", "a.png"];
    tiny.expect(&[&["sample", "--model"], model, &rest].concat(), 0, &[]);
    image::read(&tiny.path("a.png")).unwrap().data
}

#[test]
fn an_exported_file_draws_the_tuned_models_pictures() {
    for act in ["gelu", "quick_gelu"] {
        let tiny = Tiny::new();
        let path = "model/text_encoder/config.json";
        let text = fs::read_to_string(tiny.path(path)).unwrap();
        tiny.write(path, text.replace("\"gelu\"", &format!("\"{act}\"")));
        tiny.expect(&RUN, 0, &[]);
        let export = ["export", "out", "--format", "single-file", "--out", "tuned.safetensors"];
        let says = tiny.expect(&export, 0, &[]);
        assert!(says.contains("differs from the tuned model's by 0.00 of 255"), "{says}");

        let file = TensorReader::open(&tiny.path("tuned.safetensors")).unwrap();
        let fused = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight";
        let plain =
            "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight";
        let (name, shape, architecture) = match act {
            "gelu" => (fused, vec![24, 8], "stable-diffusion-v2-512"),
            _ => (plain, vec![8, 8], "stable-diffusion-v1"),
        };
        assert_eq!(file.shape(name), Some(shape.as_slice()));
        assert_eq!(file.metadata()["modelspec.architecture"], architecture);
        assert_eq!(file.metadata()["modelspec.prediction_type"], "epsilon");
        let query = "first_stage_model.decoder.mid.attn_1.q.weight";
        assert_eq!(file.shape(query), Some([4, 4, 1, 1].as_slice()));

        let tuned = drawn(&tiny, &["out/aligned"]);
        assert_ne!(tuned, drawn(&tiny, &["model"]));
        let file = ["tuned.safetensors", "--model-config", "model"];
        assert_eq!(tuned, drawn(&tiny, &file));
        assert_eq!(tuned, drawn(&tiny, &file), "the copy of the cache");

        // As the base model of a run: drawn from, tuned and exported again.
        let recipe = fs::read_to_string(tiny.path("recipe.toml")).unwrap();
        let source = "path = \"tuned.safetensors\"\nconfig = \"model\"";
        tiny.write("second.toml", recipe.replace("path = \"model\"", source));
        tiny.expect(&["run", "second.toml", "--out", "second"], 0, &[]);
        tiny.expect(&["export", "second", "--format", "diffusers", "--out", "folder"], 0, &[]);
        assert_ne!(drawn(&tiny, &["folder"]), tuned);
    }
}

/// The checkpoint of a run on the tiny model.
fn exported(tiny: &Tiny) {
    tiny.expect(&RUN, 0, &[]);
    let export = ["export", "out", "--format", "single-file", "--out", "file.safetensors"];
    tiny.expect(&export, 0, &[]);
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let tiny = Tiny::new();
    exported(&tiny);
    let sample = |file: &str, more: &[&str], code, words: &[&str]| {
        let base = ["sample", "--prompt", "x", "--steps", "1", "--model", file];
        tiny.expect(&[&base[..], more].concat(), code, words);
    };
    let with: &[&str] = &["--model-config", "model"];
    // What shapes do not tell has to be given.
    sample("file.safetensors", &[], 3, &["file.safetensors", "norm_num_groups", "--model-config"]);
    sample("file.safetensors", &["--model-config", "out"], 3, &["out", "text_encoder/config.json"]);
    sample("model", with, 2, &["is a folder", "--model-config"]);
    sample("gone.safetensors", &[], 3, &["gone.safetensors", "no such model"]);
    // Nothing is left in the cache of what failed.
    let copies = |tiny: &Tiny| {
        fs::read_dir(tiny.path("cache/craft/models")).map_or(0, |dir| {
            dir.filter(|e| !e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'))
                .count()
        })
    };
    assert_eq!(copies(&tiny), 0);

    let edit = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut all = tensors::read(&tiny.path("file.safetensors")).unwrap();
        change(&mut all);
        tensors::write_map(&tiny.path("edited.safetensors"), &all, Dtype::F32).unwrap();
    };
    let norm = "model.diffusion_model.out.0.weight";
    edit(&|all| drop(all.remove(norm)));
    sample("edited.safetensors", with, 3, &["edited.safetensors", "missing", norm]);
    edit(&|all| all.get_mut(norm).unwrap().shape = vec![8, 1]);
    sample("edited.safetensors", with, 3, &[norm, "[8, 1]", "[8]"]);
    edit(&|all| all.retain(|name, _| name.contains("first_stage")));
    sample("edited.safetensors", with, 3, &["an autoencoder without the rest", "SDXL base"]);
    let whole = fs::read(tiny.path("file.safetensors")).unwrap();
    tiny.write("cut.safetensors", &whole[..whole.len() - 9]);
    sample("cut.safetensors", with, 3, &["cut.safetensors", "not a whole safetensors file"]);
    assert_eq!(copies(&tiny), 0);
}

/// A checkpoint with objects of a training framework beside its weights (fixtures/single_file) draws what
/// the weights alone draw; TorchScript programs and pickles that ask for harm say what they are.
#[test]
fn a_training_checkpoint_is_its_state_dict() {
    let tiny = Tiny::new();
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let fixture = |name: &str| fs::read(fixtures.join(name)).unwrap();
    tiny.write("old.ckpt", fixture("single_file/lightning.ckpt"));
    let weights = tensors::read(&tiny.path("old.ckpt")).unwrap();
    assert!(weights.keys().all(|name| name.contains("model.")), "{:?}", weights.keys());
    tensors::write_map(&tiny.path("new.safetensors"), &weights, Dtype::F16).unwrap();
    let with = ["--model-config", "model"];
    let old = drawn(&tiny, &[&["old.ckpt"], &with[..]].concat());
    assert_eq!(old, drawn(&tiny, &[&["new.safetensors"], &with[..]].concat()));
    for (file, words) in [
        ("hostile.pt", &["hostile.pt", "posix.system`", "nothing was run"][..]),
        ("torchscript.pt", &["torchscript.pt", "TorchScript program", "state_dict"]),
        ("object.pt", &["object.pt", "DictConfig", "no module of PyTorch"]),
    ] {
        tiny.write(file, fixture(&format!("torch/{file}")));
        let base = ["sample", "--prompt", "x", "--steps", "1", "--model", file];
        tiny.expect(&[&base[..], &with].concat(), 3, words);
    }
    assert!(!tiny.path("hostile.txt").exists());
}

#[test]
fn number_formats_stay_as_they_are() {
    let tiny = Tiny::new();
    exported(&tiny);
    let mut reader = RawReader::open(&tiny.path("file.safetensors")).unwrap();
    let entries: Vec<Entry> = reader
        .shapes()
        .into_iter()
        .map(|(name, shape)| Entry { name, shape, format: Format::BF16 })
        .collect();
    // The upper half of an f32 is a bf16.
    let half = |bytes: Vec<u8>| bytes.chunks(4).flat_map(|b| b[2..].to_vec()).collect::<Vec<u8>>();
    raw::write(&tiny.path("half.safetensors"), &entries, &BTreeMap::new(), |entry| {
        reader.read(&entry.name).map(|raw| half(raw.bytes))
    })
    .unwrap();
    drawn(&tiny, &["half.safetensors", "--model-config", "model"]);
    let models = tiny.path("cache/craft/models");
    let copy = fs::read_dir(models).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        path.file_name().unwrap().to_string_lossy().starts_with("half-").then_some(path)
    });
    let unet = copy.unwrap().join("unet/diffusion_pytorch_model.safetensors");
    let file = TensorReader::open(&unet).unwrap();
    assert!(file.names().iter().all(|name| file.dtype(name).as_deref() == Some("BF16")));
}
