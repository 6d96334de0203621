//! Reward models of published layouts, made small, in `craft score`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::facts::{Facts, small_config};
use super::files::weight_file;
use crate::support::Tiny;

/// The texts of a model beside its weights.
fn texts(dir: &Path, facts: &Facts) {
    for (path, config) in facts.texts() {
        let target = dir.join(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, small_config(path, config).to_string()).unwrap();
    }
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/rewards").join(name)
}

/// Scores two pictures, whose scores have to differ.
#[track_caller]
fn scores(tiny: &Tiny, reward: &str) -> Vec<f64> {
    let pictures = ["photo.jpg", "portrait.png"].map(|name| fixture("images").join(name));
    let [a, b] = pictures.each_ref().map(|p| p.to_str().unwrap());
    let lines =
        tiny.expect(&["score", "--reward", reward, "--prompt", "a red circle", a, b], 0, &[]);
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let score = |line: Value| {
        line["scores"]
            .as_object()
            .and_then(|s| s.values().next())
            .or(line.get("score"))
            .and_then(Value::as_f64)
            .unwrap_or_else(|| panic!("{line}"))
    };
    let found: Vec<f64> = lines.lines().map(|l| score(line(l))).collect();
    assert_eq!(found.len(), 2, "{lines}");
    assert!(found.iter().all(|s| s.is_finite()) && found[0] != found[1], "{lines}");
    found
}

/// Writes a weight file with the texts of its model, and scores with the folder.
#[track_caller]
fn folder_scores(reward: &str, model: &str, file: &str) -> Vec<f64> {
    let (tiny, facts) = (Tiny::new(), Facts::of(model));
    texts(&tiny.path("reward"), &facts);
    weight_file(&tiny.path("reward").join(file), &facts, file);
    scores(&tiny, &format!("{reward}=reward"))
}

#[test]
fn openai_clip_scores() {
    folder_scores("clipscore", "clip-vit-l-14", "model.safetensors");
    folder_scores("clipscore", "clip-vit-b-32", "model.safetensors");
}

#[test]
fn laion_clip_scores_by_either_names() {
    for file in ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors"]
    {
        folder_scores("clipscore-h", "clip-vit-h-14", file);
    }
}

#[test]
fn hps_scores() {
    for (reward, file) in [("hpsv2", "HPS_v2_compressed.pt"), ("hpsv2.1", "HPS_v2.1_compressed.pt")]
    {
        folder_scores(reward, reward, file);
        let (tiny, facts) = (Tiny::new(), Facts::of(reward));
        weight_file(&tiny.path(file), &facts, file);
        scores(&tiny, &format!("{reward}={file}"));
    }
}

#[test]
fn pickscore_scores() {
    let safe = folder_scores("pickscore", "pickscore", "model.safetensors");
    let torch = folder_scores("pickscore", "pickscore", "pytorch_model.bin");
    assert_eq!(safe, torch);
}

#[test]
fn imagereward_scores() {
    let (tiny, facts) = (Tiny::new(), Facts::of("imagereward"));
    texts(&tiny.path("reward"), &facts);
    weight_file(&tiny.path("reward/ImageReward.pt"), &facts, "ImageReward.pt");
    fs::copy(fixture("imagereward/vocab.txt"), tiny.path("reward/vocab.txt")).unwrap();
    scores(&tiny, "imagereward=reward");
}

/// Every head of LAION's repositories beside the encoder that it was made for.
#[test]
fn aesthetic_heads_score() {
    let heads = Facts::of("aesthetic");
    for head in heads.files() {
        let tower = if head.contains("vit_b_") { "clip-vit-b-32" } else { "clip-vit-l-14" };
        let (tiny, facts) = (Tiny::new(), Facts::of(tower));
        texts(&tiny.path("tower"), &facts);
        weight_file(&tiny.path("tower/model.safetensors"), &facts, "model.safetensors");
        weight_file(&tiny.path(head), &heads, head);
        scores(&tiny, &format!("aesthetic={head},tower"));
    }
}

/// The module that `torch.save` pickled whole.
#[test]
fn mps_scores() {
    let tiny = Tiny::new();
    let path = fixture("mps/MPS_overall_checkpoint.pth");
    let tokenizer = fixture("tokenizer");
    scores(&tiny, &format!("mps={},{}", path.display(), tokenizer.display()));
}
