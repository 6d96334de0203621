//! Weights between base and tuned model, and a little beyond: what each strength of the tuning does.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use craft_core::stats::paired_bootstrap;
use craft_core::{Key, Prompt, Split};
use craft_nn::weights;
use craft_store::{Manifest, Stage, jsonl};
use serde_json::{Map, Value, json};

use super::evaluate::{CHECKER, SampleRow, Subject, by_prompt, one_model, pair};
use crate::error::Result;
use crate::rewards::RunReward;
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
    let mut model = arm_model(run.recipe, run.base, base_dir, base_dir)?;
    if factor == 0.0 {
        return Ok(model);
    }
    let tuned = arm_model(run.recipe, run.base, base_dir, tuned_dir)?;
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
        let prompts: Vec<Prompt> = jsonl::read(&run.path("prompts/prompts.jsonl"))?;
        let eval = prompts.into_iter().filter(|p| p.split == Split::Eval);
        let prompts: Vec<Prompt> = eval.take(section.prompts).collect();
        let total = (prompts.len() * section.factors.len()) as u64;
        run.context.progress.start("sweep", total, "images");
        let mut points = Vec::new();
        for &factor in &section.factors {
            let name = format!("at-{factor}");
            let load = || model_at(run, models, factor);
            let subject = Subject { name: &name, load: &load, samples: 1 };
            let (rows, numbers) = one_model(run, writer, &subject, &prompts, rewards, hashes)?;
            points.push((factor, rows, numbers));
        }
        let summary = summarise(run, &points, rewards, prompts.len());
        craft_store::manifest::write_json(&writer.join("sweep.json"), &summary)?;
        let n: usize = points.iter().map(|(_, rows, _)| rows.len()).sum();
        Ok(Outcome::default()
            .count("images", n)
            .say(format!("{} strengths, {n} pictures", points.len())))
    })
}

fn summarise(
    run: &Run<'_>,
    points: &[(f64, Vec<SampleRow>, Value)],
    rewards: &[RunReward],
    prompts: usize,
) -> Value {
    let mut names: Vec<(&str, bool)> =
        rewards.iter().map(|r| (r.name.as_str(), r.trained_on)).collect();
    names.push((CHECKER, false));
    let mut table = Map::new();
    for (name, trained_on) in names {
        let scores: Vec<BTreeMap<String, f64>> = points
            .iter()
            .map(|(factor, rows, _)| by_prompt(rows, &format!("at-{factor}"), name))
            .collect();
        if scores.iter().all(BTreeMap::is_empty) {
            continue;
        }
        let base = points.iter().position(|(factor, _, _)| *factor == 0.0);
        let entry = |own: &BTreeMap<String, f64>| {
            let values: Vec<f64> = own.values().copied().collect();
            let change = base.and_then(|base| {
                let (a, b) = pair(&scores[base], own);
                let mut stream = Key::new(run.recipe.seed).stage("bootstrap").prompt(name).stream();
                paired_bootstrap(&a, &b, run.recipe.evaluate.bootstrap, &mut stream)
            });
            json!({
                "mean": craft_core::stats::mean(&values),
                "delta": change.map(|c| c.delta),
                "ci95": change.map(|c| c.ci95),
            })
        };
        let all: Vec<Value> = scores.iter().map(entry).collect();
        table.insert(name.to_owned(), json!({ "trained_on": trained_on, "at": all }));
    }
    json!({
        "factors": points.iter().map(|(factor, _, _)| *factor).collect::<Vec<_>>(),
        "prompts": prompts,
        "rewards": table,
        "drift": points.iter().map(|(_, _, numbers)| &numbers["statistics"]).collect::<Vec<_>>(),
    })
}
