//! Stage 5: weighted supervised fine-tuning of the denoiser on the selected candidates.

use std::collections::BTreeMap;
use std::time::Instant;

use craft_core::recipe::{LrSchedule, Method, StopSection, TrainMode, TrainSection};
use craft_core::select::{ControlRow, SelectionRow, worst};
use craft_core::{Candidate, Prompt};
use craft_diffusion::guard::NanGuard;
use craft_diffusion::optimizer::{self, AdamW, AdamWConfig, GradMap};
use craft_diffusion::schedule::{LrShape, learning_rate};
use craft_nn::lora::KohyaNames;
use craft_nn::weights::{self, TensorMap};
use craft_store::weights::TRANSFORMERS;
use craft_store::{Manifest, Stage, TensorReader, jsonl};
use serde_json::json;

use crate::error::{PipelineError, Result};
use crate::networks::{Networks, Trained, say_unplaced};
use crate::rewards::RunReward;
use crate::stages::look::{Look, Stop, Watch};
use crate::stages::trainer::{Sample, Text, Trainer};
use crate::stages::{Outcome, Run, checkpoint, inputs, stopped};
use crate::start::Start;
use craft_model::lora::LORA_FILE;
use craft_model::model::{
    DIFFUSION_WEIGHTS, Model, copy_model, read_tensors, replace_weights, write_tensors,
};

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
        [Stage::TRAIN, Stage::CONTROL][self as usize].clone()
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
        let names = KohyaNames::of(&weights::shapes(&model.denoiser));
        if section.mode == TrainMode::Lora {
            say_unplaced(&section.lora, &craft_model::lora::parts(&model), run.context.progress)?;
        }
        let dir = run.path(&format!("{}/looks-{}", arm.checkpoints(), &fingerprint[..12]));
        let watch = Watch::new(run, start, dir, watchers)?;
        let Fitted { trained, stopped, looks, skipped } =
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
                write_tensors(&out.join(LORA_FILE), &adapter.to_kohya(&names))?;
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
            .count("skipped", skipped)
            .say(format!("{steps} steps on {} samples{}{ended}", samples.len(), left_out(skipped))))
    })
}

/// How many updates were skipped, in words, if any.
fn left_out(skipped: usize) -> String {
    match skipped {
        0 => String::new(),
        n => format!("; {n} updates were skipped, their loss or gradient was not finite"),
    }
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
    let mut latents = TensorReader::open(&run.path("candidates/latents.safetensors"))?;
    let mut out = Vec::with_capacity(chosen.len());
    for (id, weight) in chosen {
        let Some(&place) = places.get(&id) else { continue };
        run.context.check()?;
        let candidate = &candidates[place];
        let original = prompts.get(&candidate.prompt_id).copied().unwrap_or("");
        let mut texts = Text::of(model, &[original, &candidate.text]);
        let (Some(expanded), Some(original)) = (texts.pop(), texts.pop()) else { continue };
        let latents = latents.read_row("latents", place)?;
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
    /// Updates that were not finite.
    skipped: usize,
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
    let saved = checkpoint::latest(run, arm.name(), &root, fingerprint);
    let first = saved.as_ref().map_or(0, |(step, _)| *step);
    let mut networks = match &saved {
        Some((step, dir)) => {
            guard.skipped = checkpoint::skipped(dir)?;
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
    stopped::refuse(&root, fingerprint, run.context.progress)?;
    let before = metrics_from(run, arm, first)?;
    let mut metrics = jsonl::Appender::open(&run.path("metrics.jsonl"))?;
    run.context.progress.start(arm.name(), section.steps as u64, "steps");
    run.context.progress.advance(first as u64);
    let clock = Instant::now();
    // Steps that were done, and those of the newest state on disk.
    let (mut done, mut on_disk) = (first, first);
    let mut look = |done: usize, networks: &Networks, adam: &AdamW| match watch
        .as_mut()
        .filter(|watch| done > 0 && watch.due(done))
    {
        Some(watch) => watch.look(done, networks.trained(run.recipe, adam, true)),
        None => Ok(None),
    };
    let ended = loop {
        // After the state is on disk; where training was stopped in a look, it comes first.
        match look(done, &networks, &adam) {
            Ok(None) if done < section.steps => (),
            ended => break ended,
        }
        let step = done;
        let Pass { grads, loss, norm, ids } = match gradients(run, &trainer, step, &networks) {
            Ok(pass) => pass,
            Err(stop) => break Err(stop),
        };
        let lr = rate(section, step);
        match guard.admit(step, loss, norm, &ids) {
            Ok(true) => {
                let scale = (section.max_grad_norm / (norm + 1e-6)).min(1.0);
                networks = adam.step(networks, &grads, lr, scale);
            }
            Ok(false) => run.context.progress.note(&format!(
                "{}: step {step} skipped, its loss or gradient is not finite",
                arm.name()
            )),
            Err(stop) => {
                // The state whose very first update failed is none to go on from.
                if on_disk == step + 1 - stop.consecutive {
                    checkpoint::remove(&root, on_disk)?;
                }
                stopped::keep(&root, fingerprint, &stop)?;
                return Err(stop.into());
            }
        }
        drop(grads);
        done = step + 1;
        metrics.append(&json!({
            "run": arm.name(), "step": step, "loss": loss, "grad_norm": norm, "lr": lr,
            "nimg": done * section.batch, "skipped": guard.skipped,
            "seconds": before + clock.elapsed().as_secs_f64(),
        }))?;
        run.context.progress.advance(1);
        let due = section.checkpoint_every > 0 && done.is_multiple_of(section.checkpoint_every);
        // While updates are skipped there is nothing new to save.
        if (due || done == section.steps) && guard.consecutive == 0 {
            metrics.sync()?;
            checkpoint::save(run, &root, fingerprint, done, &networks, &adam, &guard)?;
            on_disk = done;
        }
    };
    metrics.sync()?;
    if let Err(PipelineError::Interrupted) = &ended
        && on_disk < done
        && guard.consecutive == 0
    {
        checkpoint::save(run, &root, fingerprint, done, &networks, &adam, &guard)?;
    }
    let skipped = guard.skipped;
    let (trained, stopped) = match (ended?, &watch) {
        (Some(stop), Some(watch)) => {
            let note = format!("{}: {}; training ends at step {done}", arm.name(), stop.reason);
            run.context.progress.note(&note);
            (watch.trained(stop.best)?, Some((done, stop)))
        }
        _ => (networks.trained(run.recipe, &adam, true), None),
    };
    let looks = watch.map_or(Vec::new(), |watch| watch.looks().to_vec());
    Ok(Fitted { trained, stopped, looks, skipped })
}

/// The gradients of one step.
struct Pass {
    grads: GradMap,
    loss: f64,
    norm: f64,
    /// The samples of its batch.
    ids: Vec<String>,
}

/// Goes through a step's batch; stopped between two micro-batches, it leaves nothing.
fn gradients(
    run: &Run<'_>,
    trainer: &Trainer<'_>,
    step: usize,
    networks: &Networks,
) -> Result<Pass> {
    let section = &run.recipe.train;
    let picks = trainer.draws.picks(step, section.batch, trainer.samples.len());
    let [_, h, w] = trainer.shape;
    let micro = run.recipe.micro_batch(h * w);
    let mut grads = GradMap::new();
    let mut loss = 0.0;
    for from in (0..section.batch).step_by(micro) {
        run.context.check()?;
        let batch = trainer.batch(step, &picks, from..(from + micro).min(section.batch));
        loss += trainer.accumulate(networks, batch, &mut grads);
    }
    let norm = optimizer::norm(&grads);
    let ids = picks.iter().map(|&i| trainer.samples[i].id.clone()).collect();
    Ok(Pass { grads, loss, norm, ids })
}

/// The learning rate of a step.
fn rate(section: &TrainSection, step: usize) -> f64 {
    let shape = match section.lr_schedule {
        LrSchedule::Constant => LrShape::Constant,
        LrSchedule::Cosine => LrShape::Cosine,
    };
    learning_rate(section.learning_rate, shape, section.warmup_steps, step, section.steps)
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
