//! Stage 5: weighted supervised fine-tuning of the denoiser on the selected candidates.

use std::collections::BTreeMap;
use std::time::Instant;

use craft_core::recipe::{LrSchedule, Method, StopSection, TrainMode, TrainSection};
use craft_core::select::{ControlRow, SelectionRow, worst};
use craft_core::{Candidate, Prompt};
use craft_diffusion::guard::NanGuard;
use craft_diffusion::optimizer::{self, AdamW, AdamWConfig, GradMap};
use craft_diffusion::schedule::{LrShape, learning_rate};
use craft_nn::weights::{self, TensorMap};
use craft_store::weights::TRANSFORMERS;
use craft_store::{Manifest, Stage, jsonl};
use serde_json::json;

use crate::error::Result;
use crate::lora::{LORA_FILE, Start};
use crate::model::{
    DIFFUSION_WEIGHTS, Model, copy_model, read_tensors, replace_weights, write_tensors,
};
use crate::networks::{Networks, Trained};
use crate::rewards::RunReward;
use crate::stages::look::{Look, Stop, Watch};
use crate::stages::trainer::{Sample, Text, Trainer};
use crate::stages::{Outcome, Run, checkpoint, inputs};

/// Which of the two trainings of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arm {
    /// The selected candidates.
    Craft,
    /// As many random ones.
    Control,
}

impl Arm {
    fn name(self) -> &'static str {
        ["craft", "control"][self as usize]
    }
    fn stage(self) -> Stage {
        [Stage::TRAIN, Stage::CONTROL][self as usize]
    }
    fn checkpoints(self) -> &'static str {
        ["checkpoints", "checkpoints/control"][self as usize]
    }
    /// Folder of the tuned model inside the stage's folder.
    fn model_folder(self) -> &'static str {
        ["", "aligned"][self as usize]
    }
}

/// Trains one arm.
pub(crate) fn run(
    run: &Run<'_>,
    arm: Arm,
    start: &Start,
    [generated, selected]: [&Manifest; 2],
    watchers: (&[RunReward], &BTreeMap<String, String>),
) -> Result<Manifest> {
    let section = &run.recipe.train;
    let stop = &run.recipe.stop;
    let mut inputs = inputs(&[generated, selected]);
    inputs.insert("model".to_owned(), start.hash.clone());
    // How often state is saved does not belong to the result's identity.
    let identity = TrainSection { checkpoint_every: 1, ..section.clone() };
    let mut identity = json!([identity, run.recipe.seed]);
    if *stop != StopSection::default() {
        identity = json!([identity, stop, run.recipe.evaluate]);
    }
    let fingerprint =
        craft_store::hash::sha256_bytes(json!([arm.name(), &identity, &inputs]).to_string());
    run.stage(arm.stage(), &identity, inputs, |writer| {
        let model = start.training_model(run.recipe, run.base)?;
        let samples = samples(run, arm, &model)?;
        let texts = merged_texts(run, &model);
        let dir = run.path(&format!("{}/looks-{}", arm.checkpoints(), &fingerprint[..12]));
        let watch = Watch::new(run, start, dir, watchers)?;
        let Fitted { trained, stopped, looks } =
            fit(run, arm, (start, model), &samples, &fingerprint, watch)?;
        let out = writer.join(arm.model_folder());
        match trained {
            Trained::Full(tensors) => {
                copy_model(&start.from, &out)?;
                write_tensors(&out.join("unet").join(DIFFUSION_WEIGHTS), &tensors)?;
                for (folder, tensors) in texts {
                    replace_weights(&out.join(folder), TRANSFORMERS, &tensors)?;
                }
            }
            Trained::Lora(adapter) => {
                craft_store::atomic::create_dir(&out)?;
                write_tensors(&out.join(LORA_FILE), &adapter.to_kohya())?;
            }
        }
        if !looks.is_empty() {
            jsonl::write(&out.join("looks.jsonl"), &looks)?;
        }
        let steps = stopped.as_ref().map_or(section.steps, |(step, _)| *step);
        let ended = stopped.map_or(String::new(), |(_, stop)| {
            format!(
                "; stopped there, since {}: the weights of step {} are kept",
                stop.reason, stop.best
            )
        });
        Ok(Outcome::default()
            .count("samples", samples.len())
            .count("steps", steps)
            .count("draws", steps * section.batch)
            .say(format!("{steps} steps on {} samples{ended}", samples.len())))
    })
}

/// Text encoders that LoRA files of the recipe may have changed, by folder.
fn merged_texts(run: &Run<'_>, model: &Model) -> Vec<(&'static str, TensorMap)> {
    let full = run.recipe.train.mode == TrainMode::Full;
    if !full || run.recipe.model.lora.is_empty() {
        return Vec::new();
    }
    let mut out = vec![("text_encoder", weights::export(&model.text))];
    out.extend(model.second.as_ref().map(|s| ("text_encoder_2", weights::export(&s.text))));
    out
}

fn samples(run: &Run<'_>, arm: Arm, model: &Model) -> Result<Vec<Sample>> {
    let chosen: Vec<(String, f64)> = match arm {
        Arm::Craft => {
            let rows: Vec<SelectionRow> = jsonl::read(&run.path("selection/selection.jsonl"))?;
            let selected = rows.iter().filter(|row| row.selected);
            match run.recipe.train.method {
                Method::Craft => selected.map(|row| (row.id.to_string(), row.weight)).collect(),
                Method::Kto => {
                    let liked = selected.map(|row| (row.id.to_string(), 1.0));
                    let disliked = worst(&rows).into_iter().map(|row| (row.id.to_string(), 0.0));
                    liked.chain(disliked).collect()
                }
            }
        }
        Arm::Control => jsonl::read::<ControlRow>(&run.path("selection/control.jsonl"))?
            .into_iter()
            .map(|row| (row.id.to_string(), row.weight))
            .collect(),
    };
    let candidates: Vec<Candidate> = jsonl::read(&run.path("candidates/candidates.jsonl"))?;
    let prompts: Vec<Prompt> = jsonl::read(&run.path("prompts/prompts.jsonl"))?;
    let prompts: BTreeMap<_, _> = prompts.iter().map(|p| (&p.id, p.text.as_str())).collect();
    let places: BTreeMap<String, usize> =
        candidates.iter().enumerate().map(|(i, c)| (c.id.to_string(), i)).collect();
    let latents = read_tensors(&run.path("candidates/latents.safetensors"))?;
    let all = latents.get("latents").map(|t| t.data.as_slice()).unwrap_or_default();
    let size = all.len() / candidates.len().max(1);
    let mut out = Vec::with_capacity(chosen.len());
    for (id, weight) in chosen {
        let Some(&place) = places.get(&id) else { continue };
        let candidate = &candidates[place];
        let original = prompts.get(&candidate.prompt_id).copied().unwrap_or("");
        let mut texts = Text::of(model, &[original, &candidate.text]);
        let (Some(expanded), Some(original)) = (texts.pop(), texts.pop()) else { continue };
        let latents = all[place * size..(place + 1) * size].to_vec();
        out.push(Sample { id, latents, original, expanded, weight: weight as f32 });
    }
    Ok(out)
}

/// A finished training.
struct Fitted {
    trained: Trained,
    /// Where it ended early, and why.
    stopped: Option<(usize, Stop)>,
    looks: Vec<Look>,
}

fn fit(
    run: &Run<'_>,
    arm: Arm,
    (start, model): (&Start, Model),
    samples: &[Sample],
    fingerprint: &str,
    mut watch: Option<Watch<'_>>,
) -> Result<Fitted> {
    let section = &run.recipe.train;
    let config = AdamWConfig {
        beta1: section.beta1,
        beta2: section.beta2,
        eps: section.eps,
        weight_decay: section.weight_decay,
    };
    let mut adam = AdamW::new(config, section.ema_decay);
    let mut guard = NanGuard::new(section.max_nonfinite_steps);
    let trainer = Trainer::new(run.recipe, &model, samples)?;
    let base = Networks::of(model);
    let root = run.path(arm.checkpoints());
    let saved = checkpoint::latest(&root, fingerprint, checkpoint::part(run));
    let first = saved.as_ref().map_or(0, |(step, _)| *step);
    let mut networks = match &saved {
        Some((step, dir)) => {
            run.context.progress.note(&format!("{}: continuing from step {step}", arm.name()));
            checkpoint::restore(&mut adam, dir, *step)?;
            let path = dir.join(format!("{}.safetensors", checkpoint::part(run)));
            let tensors = read_tensors(&path)?;
            Networks::start(run.recipe, base, Some((&path, tensors)), &mut adam)?
        }
        None => {
            let path = start.factors();
            let before = match path.as_deref() {
                Some(path) => Some((path, read_tensors(path)?)),
                None => None,
            };
            Networks::start(run.recipe, base, before, &mut adam)?
        }
    };
    let before = metrics_from(run, arm, first)?;
    let mut metrics = jsonl::Appender::open(&run.path("metrics.jsonl"))?;
    run.context.progress.start(arm.name(), section.steps as u64, "steps");
    run.context.progress.advance(first as u64);
    let clock = Instant::now();
    for step in first..section.steps {
        if let Err(stop) = run.context.check() {
            checkpoint::save(run, &root, fingerprint, step, &networks, &adam)?;
            return Err(stop);
        }
        let (loss, norm, lr);
        (networks, loss, norm, lr) =
            update(run, arm, &trainer, step, networks, &mut adam, &mut guard)?;
        metrics.append(&json!({
            "run": arm.name(), "step": step, "loss": loss, "grad_norm": norm, "lr": lr,
            "nimg": (step + 1) * section.batch, "skipped": guard.skipped,
            "seconds": before + clock.elapsed().as_secs_f64(),
        }))?;
        run.context.progress.advance(1);
        let done = step + 1;
        if let Some(watch) = watch.as_mut().filter(|watch| watch.due(done))
            && let Some(stop) = watch.look(done, networks.trained(run.recipe, &adam, true))?
        {
            metrics.sync()?;
            let note = format!("{}: {}; training ends at step {done}", arm.name(), stop.reason);
            run.context.progress.note(&note);
            let trained = watch.trained(stop.best)?;
            let looks = watch.looks().to_vec();
            return Ok(Fitted { trained, stopped: Some((done, stop)), looks });
        }
        let due = section.checkpoint_every > 0 && done % section.checkpoint_every == 0;
        if due || done == section.steps {
            metrics.sync()?;
            checkpoint::save(run, &root, fingerprint, done, &networks, &adam)?;
        }
    }
    let looks = watch.map_or(Vec::new(), |watch| watch.looks().to_vec());
    Ok(Fitted { trained: networks.trained(run.recipe, &adam, true), stopped: None, looks })
}

/// One update. Returns the networks, loss, gradient norm and learning rate.
fn update(
    run: &Run<'_>,
    arm: Arm,
    trainer: &Trainer<'_>,
    step: usize,
    mut networks: Networks,
    adam: &mut AdamW,
    guard: &mut NanGuard,
) -> Result<(Networks, f64, f64, f64)> {
    let section = &run.recipe.train;
    let picks = trainer.draws.picks(step, section.batch, trainer.samples.len());
    let [_, h, w] = trainer.shape;
    let micro = run.recipe.micro_batch(h * w);
    let mut grads = GradMap::new();
    let mut loss = 0.0;
    for from in (0..section.batch).step_by(micro) {
        let batch = trainer.batch(step, &picks, from..(from + micro).min(section.batch));
        loss += trainer.accumulate(&networks, batch, &mut grads);
    }
    let shape = match section.lr_schedule {
        LrSchedule::Constant => LrShape::Constant,
        LrSchedule::Cosine => LrShape::Cosine,
    };
    let (warmup, total) = (section.warmup_steps, section.steps);
    let lr = learning_rate(section.learning_rate, shape, warmup, step, total);
    let norm = optimizer::norm(&grads);
    let ids: Vec<String> = picks.iter().map(|&i| trainer.samples[i].id.clone()).collect();
    if guard.admit(step, loss, norm, &ids)? {
        let scale = (section.max_grad_norm / (norm + 1e-6)).min(1.0);
        networks = adam.step(networks, &grads, lr, scale);
    } else {
        run.context.progress.note(&format!(
            "{}: step {step} skipped, its loss or gradient is not finite",
            arm.name()
        ));
    }
    Ok((networks, loss, norm, lr))
}

/// Drops the lines of this arm from a step on, which are about to be written again. Returns the seconds that
/// the steps before took.
fn metrics_from(run: &Run<'_>, arm: Arm, first: usize) -> Result<f64> {
    let path = run.path("metrics.jsonl");
    if !path.exists() {
        return Ok(0.0);
    }
    let rows = jsonl::read_resumable::<serde_json::Value>(&path)?.rows;
    let own = |row: &serde_json::Value| row["run"] == arm.name();
    let keep: Vec<serde_json::Value> = rows
        .into_iter()
        .filter(|row| !own(row) || row["step"].as_u64().is_some_and(|s| (s as usize) < first))
        .collect();
    let last = keep.iter().rev().find(|row| own(row));
    let seconds = last.and_then(|row| row["seconds"].as_f64()).unwrap_or(0.0);
    jsonl::write(&path, keep)?;
    Ok(seconds)
}
