//! Weights between base and tuned model, and a little beyond: what each strength of the tuning does.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use craft_nn::weights;
use craft_store::{Manifest, Stage, jsonl};
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::rewards::RunReward;
use crate::stages::means::Means;
use crate::stages::measuring::{CHECKER, Questions, SampleRow, Subject, one_model, rows_path};
use crate::stages::{Outcome, Run, inputs};
use crate::start::arm_model;
use craft_model::model::Model;

pub(super) const STAGE: Stage = Stage::new("sweep", "sweep");

/// `base + factor · (tuned − base)` of every parameter; the ends are exact.
fn between<M: Module>(base: M, tuned: &M, factor: f32) -> craft_model::Result<M> {
    let mut tensors = weights::export(&base);
    for (name, other) in weights::export(tuned) {
        let Some(own) = tensors.get_mut(&name) else { continue };
        for (b, t) in own.data.iter_mut().zip(other.data) {
            *b = if factor == 1.0 { t } else { *b + factor * (t - *b) };
        }
    }
    weights::load(base, tensors).map_err(|source| craft_model::ModelError::Weights {
        path: "the weights between base and tuned model".into(),
        source,
    })
}

/// The model at a strength.
fn model_at(run: &Run<'_>, [base_dir, tuned_dir]: [&Path; 2], factor: f64) -> Result<Model> {
    let mut model = arm_model(run.recipe, run.base, [base_dir, base_dir], run.context.device())?;
    if factor == 0.0 {
        return Ok(model);
    }
    let tuned = arm_model(run.recipe, run.base, [base_dir, tuned_dir], run.context.device())?;
    if factor == 1.0 {
        return Ok(tuned);
    }
    let factor = factor as f32;
    model.denoiser = between(model.denoiser, &tuned.denoiser, factor)?;
    // Text encoders differ where a LoRA trained them.
    model.text = between(model.text, &tuned.text, factor)?;
    if let (Some(own), Some(other)) = (&mut model.second, &tuned.second) {
        own.text = between(own.text.clone(), &other.text, factor)?;
    }
    Ok(model)
}

/// Draws and scores at every factor of `[sweep]`.
pub(crate) fn run(
    run: &Run<'_>,
    models: [&Path; 2],
    rewards: &[RunReward],
    hashes: &BTreeMap<String, String>,
    stages: &[&Manifest],
) -> Result<Manifest> {
    let recipe = run.recipe;
    let section = &recipe.sweep;
    let mut inputs = inputs(stages);
    inputs.extend(hashes.clone());
    let drawing = craft_core::recipe::GenerateSection { batch: 1, ..recipe.generate.clone() };
    let config = (section, &recipe.evaluate, drawing, recipe.seed);
    run.stage(STAGE, &config, inputs, |writer| {
        let questions = Questions::of(run, section.prompts, 1);
        let prompts = questions.count()?;
        let total = (prompts * section.factors.len()) as u64;
        run.context.progress.start("sweep", total, "images");
        let mut means = Means::default();
        let mut drift = Vec::new();
        let mut n = 0;
        for &factor in &section.factors {
            let name = name_of(factor);
            let load = || model_at(run, models, factor);
            let subject = Subject { name: &name, load: &load, questions: &questions };
            let numbers = one_model(run, writer, &subject, rewards, hashes)?;
            for row in jsonl::rows::<SampleRow>(&rows_path(writer, &name))? {
                means.add(&row?);
                n += 1;
            }
            drift.push(numbers["statistics"].clone());
        }
        let summary = json!({
            "factors": section.factors,
            "prompts": prompts,
            "rewards": table(run, &means, rewards),
            "drift": drift,
        });
        craft_store::manifest::write_json(&writer.join("sweep.json"), &summary)?;
        Ok(Outcome::default()
            .count("images", n)
            .say(format!("{} strengths, {n} pictures", section.factors.len())))
    })
}

/// The model at a strength, as its pictures are named.
fn name_of(factor: f64) -> String {
    format!("at-{factor}")
}

/// How each reward sees each strength, beside the base model where it is among them.
fn table(run: &Run<'_>, means: &Means, rewards: &[RunReward]) -> Map<String, Value> {
    let factors = &run.recipe.sweep.factors;
    let drawing = (run.recipe.seed, run.recipe.evaluate.bootstrap);
    let base = factors.iter().find(|factor| **factor == 0.0).map(|factor| name_of(*factor));
    let names = rewards.iter().map(|r| (r.name.as_str(), r.trained_on));
    let mut table = Map::new();
    for (name, trained_on) in names.chain([(CHECKER, false)]) {
        let models: Vec<String> = factors.iter().map(|factor| name_of(*factor)).collect();
        if !models.iter().any(|model| means.any(model, name)) {
            continue;
        }
        let entry = |model: &String| {
            let change = base
                .as_ref()
                .and_then(|base| means.difference([base, model], name, drawing))
                .map(|(change, _)| change);
            json!({
                "mean": means.mean(model, name).unwrap_or(0.0),
                "delta": change.map(|c| c.delta),
                "ci95": change.map(|c| c.ci95),
            })
        };
        let all: Vec<Value> = models.iter().map(entry).collect();
        table.insert(name.to_owned(), json!({ "trained_on": trained_on, "at": all }));
    }
    table
}
