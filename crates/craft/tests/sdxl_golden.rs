//! `craft sample --rng torch` against diffusers' SDXL pipeline (fixtures/sdxl).
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use assert_cmd::Command;
use craft_store::tensors;

#[test]
fn every_scheduler_draws_what_diffusers_draws() {
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/sdxl");
    let expected = tensors::read(&fixture.join("expected.safetensors")).unwrap();
    assert_eq!(expected.len(), 11);
    let dir = tempfile::tempdir().unwrap();
    let dumped = dir.path().join("latents.safetensors");
    for (name, expected) in expected {
        let (scheduler, negative) = match name.as_str() {
            "ddim-empty-negative" => ("ddim", Some("")),
            _ => match name.strip_suffix("-no-negative") {
                Some(scheduler) => (scheduler, None),
                None => (name.as_str(), Some("blurry")),
            },
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_craft"));
        command.arg("-q").arg("sample").arg("--model").arg(fixture.join("model"));
        command.args(["--prompt", "a large red circle", "--rng", "torch", "--seed", "11"]);
        command.args(["--steps", "6", "--guidance-scale", "5", "--height", "16", "--width", "24"]);
        command.args(negative.iter().flat_map(|text| ["--negative-prompt", text]));
        command.args(["--scheduler", scheduler.trim_end_matches("-karras")]);
        if scheduler.ends_with("-karras") {
            command.arg("--karras");
        }
        command.arg("--dump-latents").arg(&dumped);
        command.arg("--output").arg(dir.path().join("picture.png")).assert().success();
        let found = tensors::read(&dumped).unwrap().remove("latents").unwrap();
        assert_eq!(found.shape, expected.shape, "{name}");
        let norm = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
        };
        let apart = found.data.iter().zip(&expected.data).map(|(f, e)| f - e);
        let error = norm(&mut apart.into_iter()) / norm(&mut expected.data.iter().copied());
        assert!(error <= 1e-4, "{name}: relative difference {error:e}");
    }
}
