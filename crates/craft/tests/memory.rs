//! Loading a model takes little more memory than the model.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use burn::tensor::Device;
use craft_nn::init::Init;
use craft_nn::unet::UNet2DConditionModel;
use craft_nn::unet_config::UNetConfig;
use craft_nn::weights;
use craft_store::StoreError;
use craft_store::raw::{self, Entry, Format};
use serde_json::json;
use support::Tiny;

/// Peak resident memory in bytes of `craft forward` on a model, which ends at its input's shape, right
/// after loading.
fn peak(tiny: &Tiny, model: &str) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_craft"))
        .args([
            "forward",
            "--component",
            "unet",
            "--in",
            "in.safetensors",
            "--out",
            "x",
            "--model",
            model,
        ])
        .current_dir(tiny.path("."))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        most = most.max(kib.unwrap_or(0) * 1024);
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(3), "the shape of the input is refused");
            return most;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Writes a UNet of ones with the widths of Stable Diffusion's outer levels and so many residual blocks a
/// level. Returns its size in bytes.
fn write(tiny: &Tiny, model: &str, layers: usize) -> u64 {
    let config = json!({
        "in_channels": 4, "out_channels": 4, "sample_size": 8, "block_out_channels": [320, 640],
        "layers_per_block": layers, "cross_attention_dim": 768, "attention_head_dim": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"], "norm_num_groups": 32,
    });
    let parsed = UNetConfig::from_json(&config.to_string()).unwrap();
    let empty = UNet2DConditionModel::new(&mut Init::zeros(&Device::flex()), &parsed);
    let entry = |(name, shape): (String, Vec<usize>)| Entry { name, shape, format: Format::F32 };
    let entries: Vec<Entry> = weights::shapes(&empty).into_iter().map(entry).collect();
    let dir = tiny.path(model).join("unet");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    // Ones, since pages of zeros need no memory of their own.
    let ones = |e: &Entry| Ok::<_, StoreError>(1f32.to_le_bytes().repeat(e.len() / 4));
    let file = dir.join("diffusion_pytorch_model.safetensors");
    raw::write(&file, &entries, &BTreeMap::new(), ones).unwrap();
    entries.iter().map(|e| e.len() as u64).sum()
}

#[test]
fn loading_takes_a_tenth_more_than_the_model() {
    let tiny = Tiny::new();
    tiny.tensors("in.safetensors", &[("sample", &[1, 9, 8, 8], &[0.0; 576])]);
    let (small, large) = (write(&tiny, "small", 1), write(&tiny, "large", 3));
    assert!(large - small > 200 << 20, "{small} {large}");
    // The difference leaves out what the program needs for itself and does not grow with the model.
    let grown = peak(&tiny, "large") - peak(&tiny, "small");
    let size = large - small;
    assert!(grown > size / 2, "the peak was seen");
    assert!(
        grown < size + size / 10,
        "{} MiB more of weights need {} MiB",
        size >> 20,
        grown >> 20
    );
}
