//! The memory of scoring and evaluating does not grow with the number of pictures.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;

use craft_store::RgbImage;
use craft_store::hash::sha256_file;
use craft_store::image::write_png;
use serde_json::{Value, json};

use crate::process::Process;
use crate::support::Tiny;

/// Height and width of the pictures that take the places of those that were drawn.
const SIDE: usize = 512;

/// Puts large pictures in the places of a finished stage's, and into its manifest.
fn enlarge(stage: &Path) -> usize {
    let path = stage.join("stage.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let outputs = manifest["outputs"].as_object_mut().unwrap();
    let mut count = 0;
    for (name, output) in outputs.iter_mut().filter(|(name, _)| name.ends_with(".png")) {
        let mut data = vec![(count % 251) as u8; SIDE * SIDE * 3];
        data[..3].copy_from_slice(&[count as u8, (count >> 8) as u8, 7]);
        let file = stage.join(name);
        write_png(&file, &RgbImage::new(SIDE, SIDE, data).unwrap(), None).unwrap();
        let bytes = fs::metadata(&file).unwrap().len();
        *output = json!({ "bytes": bytes, "sha256": sha256_file(&file).unwrap() });
        count += 1;
    }
    fs::write(path, manifest.to_string()).unwrap();
    count
}

/// Peak resident memory of `craft score` on a run of so many samples a wording, and its pictures.
fn peak(samples: usize) -> (u64, usize) {
    let tiny = Tiny::new();
    let samples = format!("generate.samples={samples}");
    let run = ["run", "recipe.toml", "--out", "out", "--set", &samples, "--set", "select.margin=9"];
    // Nothing passes such a margin, so it ends there.
    tiny.expect(&run, 1, &[]);
    for folder in ["rewards", "selection", "cache"] {
        fs::remove_dir_all(tiny.path("out").join(folder)).unwrap();
    }
    let count = enlarge(&tiny.path("out/candidates"));
    let mut process = Process::start(&tiny, &["score", "out", "--threads", "2"]);
    let most = process.peak();
    assert_eq!(process.end(), Some(0));
    (most, count)
}

#[test]
fn scoring_takes_no_more_for_more_pictures() {
    let (small, few) = peak(2);
    let (large, many) = peak(8);
    assert_eq!((few, many), (64, 256));
    let pixels = ((many - few) * SIDE * SIDE * 3) as u64;
    let grown = large.saturating_sub(small);
    assert!(grown < pixels / 6, "{} MiB more for {} MiB of pixels", grown >> 20, pixels >> 20);
}

/// Peaks of resident memory of a run with so many candidates and pictures to evaluate, by stage, as its
/// manifests have them; and its folder.
fn peaks(samples: usize, eval: usize) -> (Tiny, Vec<(&'static str, u64)>) {
    let tiny = Tiny::new();
    let prompts: String = (0..eval).map(|i| format!("a red star number {i}\n")).collect();
    tiny.write("eval.txt", prompts);
    let samples = format!("generate.samples={samples}");
    let run = ["run", "recipe.toml", "--out", "out", "--threads", "2", "--set", &samples];
    tiny.expect(&[&run[..], &["--set", "control.enabled=false"]].concat(), 0, &[]);
    let folders = [
        ("generate", "candidates"),
        ("score", "rewards"),
        ("select", "selection"),
        ("evaluate", "evaluation"),
    ];
    let peak = |folder: &str| {
        let text = fs::read(tiny.path("out").join(folder).join("stage.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&text).unwrap();
        manifest["peak_rss_bytes"].as_u64().unwrap()
    };
    let all = folders.iter().map(|(stage, folder)| (*stage, peak(folder))).collect();
    (tiny, all)
}

#[test]
fn no_stage_takes_more_for_ten_times_as_many_candidates() {
    let (tiny, small) = peaks(6, 100);
    let (_, mut large) = peaks(63, 1000);
    // 1,824 candidates or 1,800 pictures more. What must be kept of each, hash and scores, is 100 bytes.
    let most = 8 << 20;
    let grows =
        |(small, large): (&(&str, u64), &(&str, u64))| large.1.saturating_sub(small.1) >= most;
    if small.iter().zip(&large).any(grows) {
        // What the allocator has not given back yet comes on top of a peak, on a busy machine more of it. What a stage
        // holds is there every time.
        let (_, again) = peaks(63, 1000);
        large.iter_mut().zip(again).for_each(|(a, b)| a.1 = a.1.min(b.1));
    }
    for ((stage, small), (_, large)) in small.iter().zip(&large) {
        let grown = large.saturating_sub(*small);
        assert!(grown < most, "{stage}: {} KiB more than {} KiB", grown >> 10, small >> 10);
    }
    // The plan holds for what was written.
    let plan: Value =
        serde_json::from_slice(&fs::read(tiny.path("out/plan.json")).unwrap()).unwrap();
    let stages = plan["stages"].as_array().unwrap();
    let planned = stages.iter().find(|stage| stage["stage"] == "generate").unwrap();
    let latents = fs::metadata(tiny.path("out/candidates/latents.safetensors")).unwrap().len();
    let written = craft_store::space::used_bytes(&tiny.path("out/candidates"));
    let bytes = planned["disk_bytes"].as_u64().unwrap();
    assert!(latents < written && written < bytes, "{written} bytes of {bytes}");
    assert!(stages.iter().filter(|s| s["seconds"].as_f64().is_some()).count() >= 4, "{plan}");
}
