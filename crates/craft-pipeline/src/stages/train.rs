//! Stage 5: weighted supervised fine-tuning of the denoiser on the selected candidates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use craft_core::recipe::{Conditioning, LrSchedule, TrainSection};
use craft_core::select::{ControlRow, SelectionRow};
use craft_core::{Candidate, Key, Prompt};
use craft_diffusion::guard::NanGuard;
use craft_diffusion::objective::{diffuse, min_snr, weighted_mse};
use craft_diffusion::optimizer::{self, AdamW, AdamWConfig, GradMap};
use craft_diffusion::schedule::{LrShape, learning_rate};
use craft_nn::unet::UNet2DConditionModel;
use craft_nn::weights::{self, TensorMap};
use craft_store::{Manifest, Stage, jsonl, weights as weight_files};
use serde_json::json;

use crate::error::Result;
use crate::model::{DIFFUSION_WEIGHTS, Model, load_unet, read_tensors, write_tensors};
use crate::stages::{Outcome, Run, inputs};
use crate::text::{Condition, TextEmbedding};

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

/// A candidate that is trained on.
struct Sample {
    id: String,
    latents: Vec<f32>,
    original: TextEmbedding,
    expanded: TextEmbedding,
    weight: f32,
}

/// Trains one arm.
pub(crate) fn run(
    run: &Run<'_>,
    arm: Arm,
    model_dir: &Path,
    model_hash: &str,
    [generated, selected]: [&Manifest; 2],
) -> Result<Manifest> {
    let section = &run.recipe.train;
    let mut inputs = inputs(&[generated, selected]);
    inputs.insert("model".to_owned(), model_hash.to_owned());
    // How often state is saved and how a batch is split do not belong to the result's identity.
    let identity =
        TrainSection { checkpoint_every: 1, micro_batch: section.micro_batch, ..section.clone() };
    let fingerprint = craft_store::hash::sha256_bytes(
        serde_json::to_string(&(arm.name(), &identity, run.recipe.seed, &inputs))
            .unwrap_or_default(),
    );
    run.stage(arm.stage(), &(identity, run.recipe.seed), inputs, |writer| {
        let model = Model::load(model_dir, &Device::flex())?;
        let samples = samples(run, arm, &model)?;
        let trained = fit(run, arm, &model, model_dir, &samples, &fingerprint)?;
        let out = writer.join(arm.model_folder());
        copy_model(model_dir, &out)?;
        write_tensors(&out.join("unet").join(DIFFUSION_WEIGHTS), &trained)?;
        let draws = section.steps * section.batch;
        Ok(Outcome::default()
            .count("samples", samples.len())
            .count("steps", section.steps)
            .count("draws", draws)
            .say(format!("{} steps on {} samples", section.steps, samples.len())))
    })
}

fn samples(run: &Run<'_>, arm: Arm, model: &Model) -> Result<Vec<Sample>> {
    let chosen: Vec<(String, f64)> = match arm {
        Arm::Craft => jsonl::read::<SelectionRow>(&run.path("selection/selection.jsonl"))?
            .into_iter()
            .filter(|row| row.selected)
            .map(|row| (row.id.to_string(), row.weight))
            .collect(),
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
        let mut embedded = model.encode_texts(&[original, &candidate.text]);
        let expanded = embedded.pop().unwrap_or_default();
        let original = embedded.pop().unwrap_or_default();
        let latents = all[place * size..(place + 1) * size].to_vec();
        out.push(Sample { id, latents, original, expanded, weight: weight as f32 });
    }
    Ok(out)
}

/// Which sample each draw of a step takes: epochs over all samples, each in an order of its own.
pub(crate) fn draws(key: &Key, step: usize, batch: usize, n: usize) -> Vec<usize> {
    let mut epoch = usize::MAX;
    let mut order: Vec<usize> = Vec::new();
    (step * batch..(step + 1) * batch)
        .map(|draw| {
            if draw / n != epoch {
                epoch = draw / n;
                order = (0..n).collect();
                key.clone().step(epoch as u64).stream().shuffle(&mut order);
            }
            order[draw % n]
        })
        .collect()
}

/// One micro-batch, ready for the denoiser.
struct Batch {
    noisy: Tensor<4>,
    target: Tensor<4>,
    times: Vec<f32>,
    condition: Condition,
    weights: Vec<f32>,
}

struct Trainer<'a> {
    run: &'a Run<'a>,
    arm: Arm,
    model: &'a Model,
    samples: &'a [Sample],
    empty: TextEmbedding,
    key: Key,
    device: Device,
    shape: [usize; 3],
    /// Height and width of the pictures.
    pixels: [usize; 2],
}

impl Trainer<'_> {
    /// Draws `range` of a step's batch.
    fn batch(&self, step: usize, picks: &[usize], range: std::ops::Range<usize>) -> Batch {
        let section = &self.run.recipe.train;
        let schedule = &self.model.schedule;
        let last = schedule.num_train_timesteps();
        let (low, high) = (section.timestep_min, section.timestep_max.unwrap_or(last).min(last));
        let (mut noisy, mut target) = (Vec::new(), Vec::new());
        let (mut times, mut rows, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for i in range {
            let sample = &self.samples[picks[i]];
            let key = self.key.clone().stage("draw").step(step as u64).sample(i as u64);
            let mut stream = key.stream();
            let t = low + stream.index(high.saturating_sub(low).max(1));
            let drop = stream.chance(section.unconditional_dropout);
            let expanded = match section.conditioning {
                Conditioning::Original => false,
                Conditioning::Expanded => true,
                Conditioning::Mixed => stream.chance(0.5),
            };
            let noise = stream.standard_normals(sample.latents.len());
            let alpha = schedule.alpha_cumprod(t as i64);
            let kind = schedule.prediction_type;
            diffuse(kind, alpha, &sample.latents, &noise, &mut noisy, &mut target);
            times.push(t as f32);
            rows.push(match (drop, expanded) {
                (true, _) => &self.empty,
                (false, true) => &sample.expanded,
                (false, false) => &sample.original,
            });
            let factor = section.min_snr_gamma.map_or(1.0, |gamma| min_snr(kind, alpha, gamma));
            weights.push(sample.weight * factor);
        }
        let [c, h, w] = self.shape;
        let tensor = |data: Vec<f32>| {
            Tensor::<4>::from_data(TensorData::new(data, [rows.len(), c, h, w]), &self.device)
        };
        Batch {
            noisy: tensor(noisy),
            target: tensor(target),
            times,
            condition: self.model.condition(&rows, self.pixels, &self.device),
            weights,
        }
    }
}

fn fit(
    run: &Run<'_>,
    arm: Arm,
    model: &Model,
    model_dir: &Path,
    samples: &[Sample],
    fingerprint: &str,
) -> Result<TensorMap> {
    let section = &run.recipe.train;
    let device = Device::flex().autodiff();
    let (mut unet, _) = load_unet(&model_dir.join("unet"), &device)?;
    let config = AdamWConfig {
        beta1: section.beta1,
        beta2: section.beta2,
        eps: section.eps,
        weight_decay: section.weight_decay,
    };
    let mut adam = AdamW::new(config, section.ema_decay);
    let mut guard = NanGuard::new(section.max_nonfinite_steps);
    let mut first = 0;
    let root = run.path(arm.checkpoints());
    if let Some((step, saved)) = latest(&root, fingerprint) {
        unet = restore(&saved, step, unet, &mut adam)?;
        first = step;
        run.context.progress.note(&format!("{}: continuing from step {first}", arm.name()));
    }
    let options = crate::stages::generate::options(&run.recipe.generate, model)?;
    let trainer = Trainer {
        run,
        arm,
        model,
        samples,
        empty: model.encode_negatives(&[""]).remove(0),
        // Both arms see the same draws of timesteps and noise.
        key: Key::new(run.recipe.seed).stage("train"),
        device,
        shape: model.latent_shape(options.height, options.width),
        pixels: [options.height, options.width],
    };
    metrics_from(run, arm, first)?;
    let mut metrics = jsonl::Appender::open(&run.path("metrics.jsonl"))?;
    run.context.progress.start(arm.name(), section.steps as u64, "steps");
    run.context.progress.advance(first as u64);
    let start = Instant::now();
    for step in first..section.steps {
        if let Err(stop) = run.context.check() {
            save(&root, fingerprint, step, &unet, &adam)?;
            return Err(stop);
        }
        let (loss, norm, lr) = update(&trainer, step, &mut unet, &mut adam, &mut guard)?;
        metrics.append(&json!({
            "run": arm.name(), "step": step, "loss": loss, "grad_norm": norm, "lr": lr,
            "nimg": (step + 1) * section.batch, "skipped": guard.skipped,
            "seconds": start.elapsed().as_secs_f64(),
        }))?;
        run.context.progress.advance(1);
        let done = step + 1;
        let due = section.checkpoint_every > 0 && done % section.checkpoint_every == 0;
        if due || done == section.steps {
            metrics.sync()?;
            save(&root, fingerprint, done, &unet, &adam)?;
        }
    }
    let mut tensors = weights::export(&unet);
    for (name, average) in adam.ema().into_iter().flatten() {
        if let Some(tensor) = tensors.get_mut(name) {
            tensor.data.clone_from(average);
        }
    }
    Ok(tensors)
}

/// One update. Returns loss, gradient norm and learning rate.
fn update(
    trainer: &Trainer<'_>,
    step: usize,
    unet: &mut UNet2DConditionModel,
    adam: &mut AdamW,
    guard: &mut NanGuard,
) -> Result<(f64, f64, f64)> {
    let section = &trainer.run.recipe.train;
    let picks = draws(&trainer.key, step, section.batch, trainer.samples.len());
    let micro = trainer.run.recipe.micro_batch().max(1);
    let mut grads = GradMap::new();
    let mut loss = 0.0;
    for from in (0..section.batch).step_by(micro) {
        let batch = trainer.batch(step, &picks, from..(from + micro).min(section.batch));
        let Condition { states, added } = &batch.condition;
        let prediction = unet.forward(batch.noisy, &batch.times, states, added.as_ref());
        let value = weighted_mse(prediction, batch.target, &batch.weights, section.batch);
        optimizer::collect(unet, value.backward(), &mut grads);
        loss += f64::from(weights::to_vec(value)[0]);
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
        *unet = adam.step(unet.clone(), &grads, lr, scale);
    } else {
        trainer.run.context.progress.note(&format!(
            "{}: step {step} skipped, its loss or gradient is not finite",
            trainer.arm.name()
        ));
    }
    Ok((loss, norm, lr))
}

/// Drops the lines of this arm from a step on, which are about to be written again.
fn metrics_from(run: &Run<'_>, arm: Arm, first: usize) -> Result<()> {
    let path = run.path("metrics.jsonl");
    if !path.exists() {
        return Ok(());
    }
    let rows = jsonl::read_resumable::<serde_json::Value>(&path)?.rows;
    let keep = rows.into_iter().filter(|row| {
        row["run"] != arm.name() || row["step"].as_u64().is_some_and(|s| (s as usize) < first)
    });
    Ok(jsonl::write(&path, keep)?)
}

/// The newest checkpoint with this fingerprint.
fn latest(root: &Path, fingerprint: &str) -> Option<(usize, PathBuf)> {
    let mut steps: Vec<(usize, PathBuf)> = std::fs::read_dir(root)
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    steps.sort();
    steps.into_iter().rev().find(|(_, path)| {
        craft_store::manifest::read_json::<serde_json::Value>(&path.join("state.json")).is_ok_and(
            |state| {
                state["fingerprint"] == fingerprint
                    && ["unet", "optimizer"].iter().all(|part| {
                        let file = path.join(format!("{part}.safetensors"));
                        craft_store::hash::sha256_file(&file)
                            .is_ok_and(|hash| state[format!("{part}_sha256")] == hash.as_str())
                    })
            },
        )
    })
}

fn restore(
    dir: &Path,
    step: usize,
    unet: UNet2DConditionModel,
    adam: &mut AdamW,
) -> Result<UNet2DConditionModel> {
    let path = dir.join("unet.safetensors");
    let unet = weights::load(unet, read_tensors(&path)?)
        .map_err(|source| crate::error::PipelineError::Weights { path, source })?;
    let state: serde_json::Value = craft_store::manifest::read_json(&dir.join("state.json"))?;
    let updates = state["updates"].as_u64().map_or(step, |n| n as usize);
    adam.restore(updates, read_tensors(&dir.join("optimizer.safetensors"))?);
    Ok(unet)
}

/// Saves a checkpoint atomically and removes older ones.
fn save<M: Module>(
    root: &Path,
    fingerprint: &str,
    step: usize,
    module: &M,
    adam: &AdamW,
) -> Result<()> {
    craft_store::atomic::create_dir(root)?;
    let target = root.join(format!("step-{step}"));
    if target.exists() {
        std::fs::remove_dir_all(&target).map_err(|error| crate::error::PipelineError::Input {
            path: target.clone(),
            message: format!("an older checkpoint cannot be removed ({error})"),
        })?;
    }
    craft_store::atomic::write_dir_atomically(&target, |dir| -> Result<()> {
        let (unet, optimizer) = (dir.join("unet.safetensors"), dir.join("optimizer.safetensors"));
        write_tensors(&unet, &weights::export(module))?;
        write_tensors(&optimizer, &adam.state())?;
        let state = json!({
            "fingerprint": fingerprint, "step": step, "updates": adam.steps,
            "unet_sha256": craft_store::hash::sha256_file(&unet)?,
            "optimizer_sha256": craft_store::hash::sha256_file(&optimizer)?,
        });
        Ok(craft_store::manifest::write_json(&dir.join("state.json"), &state)?)
    })?;
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        let old = path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("step-"));
        if old && path != target {
            let _ = std::fs::remove_dir_all(path);
        }
    }
    Ok(())
}

/// Copies a model's folder except the denoiser's weights, in whatever layout they are.
fn copy_model(from: &Path, to: &Path) -> Result<()> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| crate::error::PipelineError::Input {
            path,
            message: format!("the model's folder cannot be copied ({error})"),
        }
    };
    craft_store::atomic::create_dir(to)?;
    for entry in std::fs::read_dir(from).map_err(failed(from))? {
        let path = entry.map_err(failed(from))?.path();
        let Some(name) = path.file_name() else { continue };
        if name.to_string_lossy().starts_with('.') || name == "rewards" {
            continue;
        }
        let target = to.join(name);
        if path.is_dir() {
            copy_model(&path, &target)?;
        } else if !(from.ends_with("unet") && weight_files::DIFFUSERS.owns(name)) {
            std::fs::copy(&path, &target).map_err(failed(&path))?;
        }
    }
    Ok(())
}
