//! Samplers against diffusers' trajectories (fixtures/schedulers).
#![allow(clippy::unwrap_used, missing_docs, clippy::disallowed_methods)]

use craft_core::sampler::{Call, SamplerKind, advance};
use craft_core::schedule::NoiseSchedule;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    sampler: String,
    steps: usize,
    config: serde_json::Value,
    normals: Vec<f64>,
    timesteps: Vec<f64>,
    latents: Vec<Vec<f64>>,
}

fn cases() -> Vec<Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/schedulers/cases.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Noise of step `i`; the script has the same formula.
fn noise(i: usize, n: usize) -> Vec<f32> {
    (0..n).map(|j| ((j + i) as f32).sin()).collect()
}

/// Largest difference over the trajectory, relative to its largest value.
fn error(case: &Case) -> f64 {
    let schedule = NoiseSchedule::from_json(&case.config.to_string()).unwrap();
    let process = schedule.process();
    let mut sampler =
        SamplerKind::named(&case.sampler).unwrap().sampler(&schedule, case.steps).unwrap();
    assert_eq!(sampler.calls(), case.timesteps.len(), "{}", case.name);
    for (i, expected) in case.timesteps.iter().enumerate() {
        let found = sampler.call(i).level.time;
        // Whole timesteps are equal; diffusers finds those between in f32, and their table has 1000 rows.
        let allowed = if expected.fract() == 0.0 { 0.0 } else { 5e-3 };
        assert!((found - expected).abs() <= allowed, "{}: {found}, {expected}", case.name);
    }
    let scale = sampler.init_scale();
    let mut latents: Vec<f32> = case.normals.iter().map(|&v| (v * scale) as f32).collect();
    let mut worst = difference(&latents, &case.latents[0]);
    for i in 0..case.steps {
        let Call { scale, level } = sampler.call(i);
        let (scale, t) = (scale as f32, level.time as f32);
        let output: Vec<f32> = latents.iter().map(|x| 0.1 * scale * x + t / 1000.0).collect();
        let noise = noise(i, output.len());
        advance(sampler.as_mut(), process.as_ref(), i, &output, &mut latents, &noise);
        worst = worst.max(difference(&latents, &case.latents[i + 1]));
    }
    let largest = case.latents.iter().flatten().fold(0f64, |m, v| m.max(v.abs()));
    worst / largest
}

fn difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).fold(0.0, |m, (f, e)| m.max((f64::from(*f) - e).abs()))
}

#[test]
fn trajectories_are_those_of_diffusers() {
    let cases = cases();
    assert!(cases.len() >= 60);
    let failed: Vec<String> = cases
        .iter()
        .map(|case| (error(case), &case.name))
        .filter(|(error, _)| error.is_nan() || *error > 1e-5)
        .map(|(error, name)| format!("{name}: relative error {error:e}"))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
