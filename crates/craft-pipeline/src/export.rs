//! What a run made, in the formats of other tools. Everything that is written is read back, and one
//! picture of it is compared with the tuned model's, before it is said to be done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use craft_core::recipe::Recipe;
use craft_core::{Key, Prompt};
use craft_nn::ldm::Family;
use craft_nn::lora::{Adapter, Component, Pair};
use craft_nn::weights::{HostTensor, TensorMap};
use craft_store::image::RgbImage;
use craft_store::tensors::{self, Dtype, TensorRef};
use craft_store::weights::{self, DIFFUSERS, TRANSFORMERS};
use craft_store::{atomic, jsonl};
use serde_json::Value;

use crate::context::Context;
use crate::draw::{Job, StepNoise, draw};
use crate::error::{PipelineError, Result};
use crate::lora::{LORA_FILE, arm_model, base_hash, base_model};
use crate::model::{Model, copy_model, read_tensors, replace_weights};
use crate::single_file::{self, About};

/// Formats of [`export`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A model folder in the diffusers layout.
    Diffusers,
    /// A LoRA file in kohya's keys.
    LoraKohya,
    /// A LoRA file in diffusers' keys.
    LoraDiffusers,
    /// One checkpoint file in the keys of the original code.
    SingleFile,
}

/// How an export went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exported {
    /// Parameters that an adapter changes; 0 for a model folder.
    pub adapted: usize,
    /// Share of the squared change of all parameters that is in the export, 0 to 1.
    pub captured: f64,
    /// Mean difference between a picture by the export, read back, and by the tuned model, in grey
    /// levels of 0 to 255.
    pub mean_difference: f64,
    /// The largest such difference.
    pub max_difference: u8,
}

/// Writes the tuned model of a finished run.
///
/// A LoRA file holds the factors of a run that trained some. Of another run it holds the product of
/// `rank` that is nearest to the change of each linear map and convolution; biases and norms have no
/// place in it. A folder of a run that trained factors has them merged in.
///
/// # Errors
/// When the run has no tuned model yet, `out` exists, or a whole model as it was written draws another
/// picture; what was written is then removed.
pub fn export(
    run_dir: &Path,
    format: Format,
    out: &Path,
    rank: usize,
    context: &Context<'_>,
) -> Result<Exported> {
    let (recipe, base, base_dir) = crate::run::model_of(run_dir, context)?;
    let aligned = run_dir.join("aligned");
    if !aligned.join("stage.json").is_file() {
        return Err(PipelineError::Input {
            path: run_dir.to_owned(),
            message: "it has no finished tuned model in aligned/; expected a run whose training is done: run `craft train` on it first".to_owned(),
        });
    }
    if out.exists() {
        return Err(PipelineError::Usage(format!(
            "{}: it exists; expected the name of a new {}: give another, or remove it",
            out.display(),
            if format == Format::Diffusers { "folder" } else { "file" }
        )));
    }
    if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
        atomic::create_dir(parent)?;
    }
    let factors = aligned.join(LORA_FILE);
    let tuned = arm_model(&recipe, &base, &base_dir, &aligned)?;
    let prompts: Vec<Prompt> = jsonl::read(&run_dir.join("prompts/prompts.jsonl"))?;
    let prompt = prompts.first().map_or("", |p| p.text.as_str());
    let expected = picture(&recipe, &tuned, prompt)?;
    if matches!(format, Format::Diffusers | Format::SingleFile) {
        let compare = |model: &Model| Ok(difference(&expected, &picture(&recipe, model, prompt)?));
        if !factors.is_file() {
            drop(tuned);
            return whole(format, &aligned, out, context, compare);
        }
        // A whole model is written from a folder, so the factors are merged into one first.
        let merged = out.with_extension("merging");
        atomic::write_dir_atomically(&merged, |to| merge(&base_dir, &tuned, to))?;
        drop(tuned);
        let written = whole(format, &merged, out, context, compare);
        let _ = std::fs::remove_dir_all(&merged);
        return written;
    }
    drop(tuned);
    check_base(run_dir, &base_hash(&recipe, &base, &base_dir)?, &base_dir)?;
    let mut model = base_model(&recipe, &base, &base_dir)?;
    let (adapter, captured) = if factors.is_file() {
        (crate::lora::read(&factors, &model)?, 1.0)
    } else {
        let tuned = read_tensors(&weights::find(&aligned.join("unet"), DIFFUSERS)?)?;
        nearest(craft_nn::weights::export(&model.unet), &tuned, rank)
    };
    let tensors = match format {
        Format::LoraDiffusers => adapter.to_diffusers(),
        _ => adapter.to_kohya_of(model.second.is_some()),
    };
    let header = header(out, &adapter, &recipe, single_file::about(&base_dir)?);
    let refs: Vec<TensorRef<'_>> = tensors
        .iter()
        .map(|(name, t)| (name.as_str(), t.shape.as_slice(), t.data.as_slice()))
        .collect();
    // Trained factors are written as they are; nearest ones as other tools usually have them.
    let format = if factors.is_file() { Dtype::F32 } else { Dtype::F16 };
    tensors::write(out, &refs, format, &header)?;
    let adapted = crate::lora::apply(&mut model, out, 1.0)?;
    let back = picture(&recipe, &model, prompt)?;
    let (mean_difference, max_difference) = difference(&expected, &back);
    Ok(Exported { adapted, captured, mean_difference, max_difference })
}

/// Writes the whole model, reads it back and compares.
fn whole(
    format: Format,
    aligned: &Path,
    out: &Path,
    context: &Context<'_>,
    compare: impl FnOnce(&Model) -> Result<(f64, u8)>,
) -> Result<Exported> {
    let device = Device::flex();
    let compared = if format == Format::Diffusers {
        atomic::write_dir_atomically(out, |to| link_model(aligned, to))?;
        Model::load(out, &device).and_then(|model| compare(&model))
    } else {
        single_file::export(aligned, out, context.progress)?;
        let back = single_file::import(out, Some(aligned), context.progress);
        back.and_then(|dir| {
            let compared = Model::load(&dir, &device).and_then(|model| compare(&model));
            let _ = std::fs::remove_dir_all(dir);
            compared
        })
    };
    let compared = match compared {
        Ok((mean, most)) if most > 0 => Err(differs(out, mean)),
        other => other,
    };
    if compared.is_err() {
        let _ = if out.is_dir() { std::fs::remove_dir_all(out) } else { std::fs::remove_file(out) };
    }
    let (mean_difference, max_difference) = compared?;
    Ok(Exported { adapted: 0, captured: 1.0, mean_difference, max_difference })
}

/// A LoRA is a difference to the model that the run tuned, so that model must still be as it was.
fn check_base(run_dir: &Path, hash: &str, base_dir: &Path) -> Result<()> {
    // Of several rounds the first began with it.
    let first = run_dir.join("rounds/1/aligned/stage.json");
    let first = if first.exists() { first } else { run_dir.join("aligned/stage.json") };
    let trained: Value = craft_store::manifest::read_json(&first)?;
    if trained["inputs"]["model"] == hash {
        return Ok(());
    }
    Err(PipelineError::Input {
        path: base_dir.to_owned(),
        message: format!(
            "this is not the model that {} tuned (its files have changed since); expected the same files: put them back, or export with --format diffusers, which needs no base model",
            run_dir.display()
        ),
    })
}

fn differs(out: &Path, mean: f64) -> PipelineError {
    PipelineError::Input {
        path: out.to_owned(),
        message: format!(
            "read back, it draws another picture than the tuned model ({mean:.3} grey levels apart on average); expected the same: is the disk sound?"
        ),
    }
}

/// One picture as the run draws its candidates.
fn picture(recipe: &Recipe, model: &Model, prompt: &str) -> Result<RgbImage> {
    let options = crate::stages::generate::options(&recipe.generate, model)?;
    let count = model.latent_shape(options.height, options.width).iter().product();
    let key = Key::new(recipe.seed).stage("export");
    let job = Job {
        prompt,
        negative: recipe.generate.negative(),
        noise: key.standard_normals(count),
        step_noise: StepNoise::Key(key),
    };
    let mut drawn = draw(model, &[job], &options, &mut |_| ())?;
    Ok(drawn.remove(0).image)
}

fn difference(a: &RgbImage, b: &RgbImage) -> (f64, u8) {
    let each: Vec<u8> = a.data.iter().zip(&b.data).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: f64 = each.iter().map(|&d| f64::from(d)).sum();
    (sum / each.len().max(1) as f64, each.into_iter().max().unwrap_or(0))
}

/// The adapter nearest to `tuned − base`, and the share of the squared change that it holds.
fn nearest(base: TensorMap, tuned: &TensorMap, rank: usize) -> (Adapter, f64) {
    let (mut total, mut held) = (0.0, 0.0);
    let mut adapter = Adapter::default();
    for (name, mut change) in base {
        let Some(new) = tuned.get(&name).filter(|t| t.shape == change.shape) else { continue };
        change.data.iter_mut().zip(&new.data).for_each(|(old, new)| *old = new - *old);
        let squares = |t: &HostTensor| t.data.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let before = squares(&change);
        total += before;
        let fits = name.ends_with(".weight") && matches!(change.shape.len(), 2 | 4);
        if before == 0.0 || !fits {
            continue;
        }
        let pair = Pair::nearest(&change, rank);
        pair.add_to(&mut change.data, -1.0);
        held += before - squares(&change);
        adapter.components.entry(Component::Unet).or_default().insert(name, pair);
    }
    (adapter, if total > 0.0 { held / total } else { 1.0 })
}

/// What other tools show about a LoRA file.
fn header(out: &Path, adapter: &Adapter, recipe: &Recipe, base: About) -> BTreeMap<String, String> {
    let pair = adapter.components.values().flat_map(BTreeMap::values).next();
    let rank = pair.map_or(0, Pair::rank);
    let alpha = pair.map_or(0.0, |pair| pair.scale * rank as f32);
    let title = out.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let version = match base.family {
        Family::Sd1 => "sd_v1",
        Family::Sd2 if base.v => "sd_v2_v",
        Family::Sd2 => "sd_v2",
        Family::Sdxl => "sdxl_base_v1-0",
    };
    let texts = [
        ("ss_base_model_version", version.to_owned()),
        ("ss_output_name", title.clone()),
        ("ss_network_module", "networks.lora".to_owned()),
        ("ss_network_dim", rank.to_string()),
        ("ss_network_alpha", alpha.to_string()),
        ("ss_learning_rate", recipe.train.learning_rate.to_string()),
        ("ss_max_train_steps", recipe.train.steps.to_string()),
        ("ss_seed", recipe.seed.to_string()),
        ("ss_training_comment", format!("craft {}", env!("CARGO_PKG_VERSION"))),
    ];
    let mut all = base.modelspec(&title, "/lora");
    all.extend(texts.into_iter().map(|(key, value)| (key.to_owned(), value)));
    all
}

/// Writes the base model's folder with the denoiser and the text encoder of a tuned model.
fn merge(base_dir: &Path, tuned: &Model, to: &Path) -> Result<()> {
    copy_model(base_dir, to)?;
    replace_weights(&to.join("unet"), DIFFUSERS, &craft_nn::weights::export(&tuned.unet))?;
    let text = craft_nn::weights::export(&tuned.text);
    replace_weights(&to.join("text_encoder"), TRANSFORMERS, &text)?;
    if let Some(second) = &tuned.second {
        let text = craft_nn::weights::export(&second.text);
        replace_weights(&to.join("text_encoder_2"), TRANSFORMERS, &text)?;
    }
    Ok(())
}

/// Puts a model's files into another folder, as links where the disk can.
fn link_model(from: &Path, to: &Path) -> Result<()> {
    let failed = |path: PathBuf| {
        move |error: std::io::Error| PipelineError::Input {
            path,
            message: format!("it cannot be copied ({error}); expected a readable model folder"),
        }
    };
    atomic::create_dir(to)?;
    for entry in std::fs::read_dir(from).map_err(failed(from.to_owned()))? {
        let path = entry.map_err(failed(from.to_owned()))?.path();
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if path.is_dir() {
            link_model(&path, &target)?;
        } else if name != "stage.json" && std::fs::hard_link(&path, &target).is_err() {
            std::fs::copy(&path, &target).map_err(failed(path.clone()))?;
        }
    }
    Ok(())
}
