//! Samplers against diffusers' trajectories (fixtures/schedulers).
#![allow(clippy::unwrap_used, missing_docs)]

use craft_core::schedule::NoiseSchedule;
use craft_diffusion::sampler::Scheduler;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    sampler: String,
    steps: usize,
    config: serde_json::Value,
    timesteps: Vec<f64>,
    latents: Vec<Vec<f64>>,
}

fn cases() -> Vec<Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/schedulers/cases.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Largest difference over the trajectory, relative to its largest value.
fn error(case: &Case) -> f64 {
    let schedule = NoiseSchedule::from_json(&case.config.to_string()).unwrap();
    let mut sampler =
        Scheduler::parse(&case.sampler).unwrap().sampler(&schedule, case.steps).unwrap();
    assert_eq!(sampler.timesteps(), case.timesteps, "{}", case.name);
    let mut latents: Vec<f32> = case.latents[0].iter().map(|&v| v as f32).collect();
    let mut worst = 0f64;
    for i in 0..case.steps {
        let t = sampler.timesteps()[i] as f32;
        let output: Vec<f32> = latents.iter().map(|x| 0.1 * x + t / 1000.0).collect();
        sampler.step(i, &output, &mut latents);
        for (found, expected) in latents.iter().zip(&case.latents[i + 1]) {
            worst = worst.max((f64::from(*found) - expected).abs());
        }
    }
    let largest = case.latents.iter().flatten().fold(0f64, |m, v| m.max(v.abs()));
    worst / largest
}

#[test]
fn trajectories_are_those_of_diffusers() {
    let cases = cases();
    assert!(cases.len() >= 22);
    let failed: Vec<String> = cases
        .iter()
        .map(|case| (error(case), &case.name))
        .filter(|(error, _)| error.is_nan() || *error > 1e-5)
        .map(|(error, name)| format!("{name}: relative error {error:e}"))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
