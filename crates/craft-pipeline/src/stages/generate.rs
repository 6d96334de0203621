//! Stage 2: one candidate picture per wording and noise, from the base model.

use std::collections::BTreeMap;

use craft_core::recipe::GenerateSection;
use craft_core::{Candidate, CandidateId, Key, PromptId};
use craft_diffusion::sampler::Scheduler;
use craft_nn::weights::{HostTensor, TensorMap};
use craft_store::{Manifest, Stage, image, jsonl};
use rayon::prelude::*;

use crate::draw::{DrawOptions, Job, StepNoise, draw};
use crate::error::{PipelineError, Result};
use crate::lora::Start;
use crate::model::{Model, read_tensors, write_tensors};
use crate::schedule::{Advice, Drawing, advice};
use crate::stages::{Outcome, Run, expand, inputs};

/// Candidates between two saved parts.
const PART: usize = 64;

/// Drawing options of a recipe for a model.
pub(crate) fn options(section: &GenerateSection, model: &Model) -> Result<DrawOptions> {
    let [height, width] = model.default_size();
    let options = DrawOptions {
        steps: section.steps,
        guidance_scale: section.guidance_scale,
        scheduler: Scheduler::from(section.scheduler),
        karras: section.karras,
        height: section.height.unwrap_or(height),
        width: section.width.unwrap_or(width),
        batch: section.batch,
    };
    // Refuses what the scheduler's configuration asks for and the sampler cannot do.
    options
        .sampler(&model.schedule)
        .map_err(|error| PipelineError::Usage(format!("generate.scheduler: {error}")))?;
    Ok(options)
}

/// What the user should know where the model was made for another way of drawing. A recipe does not
/// tell what was chosen from what is the default.
pub(crate) fn advise(section: &GenerateSection, model: &Model) -> Option<String> {
    let drawing = Drawing {
        scheduler: Scheduler::from(section.scheduler),
        steps: section.steps,
        guidance_scale: section.guidance_scale,
        chosen: [false; 3],
    };
    let keys = ["generate.scheduler", "generate.steps", "generate.guidance_scale"];
    match advice(&model.schedule, drawing, keys)? {
        Advice::Warning(text) => Some(format!("warning: {text}")),
        Advice::Note(text) => Some(text),
    }
}

/// What the noise of a candidate is drawn from: prompt and sample, and wording unless noise is shared.
fn noise(seed: u64, id: &CandidateId, shared: bool) -> Key {
    let key = Key::new(seed).stage("generate").prompt(&id.prompt).sample(u64::from(id.sample));
    if shared { key } else { key.variant(u64::from(id.variant)) }
}

/// Draws all candidates in parts, so that an interrupted stage continues where it stopped.
pub(crate) fn run(run: &Run<'_>, start: &Start, expanded: &Manifest) -> Result<Manifest> {
    let section = &run.recipe.generate;
    let mut inputs = inputs(&[expanded]);
    inputs.insert("model".to_owned(), start.hash.clone());
    // The batch size does not change a picture.
    let config = (GenerateSection { batch: 1, ..section.clone() }, run.recipe.seed);
    run.stage(Stage::GENERATE, &config, inputs, |writer| {
        let model = start.model(run.recipe, run.base)?;
        let options = options(section, &model)?;
        if let Some(text) = advise(section, &model) {
            run.context.progress.note(&text);
        }
        let [c, h, w] = model.latent_shape(options.height, options.width);
        let mut candidates = Vec::new();
        for (prompt, texts) in expand::read(run)? {
            let prompt = PromptId::new(prompt).map_err(|e| PipelineError::Usage(e.to_string()))?;
            for (variant, text) in texts.iter().enumerate() {
                for sample in 0..section.samples {
                    let id = CandidateId::new(prompt.clone(), variant as u32, sample as u32);
                    candidates.push(Candidate::new(id, text.clone()));
                }
            }
        }
        craft_store::atomic::create_dir(&writer.join("images"))?;
        run.context.progress.start("generate", candidates.len() as u64, "images");
        let parts: Vec<&[Candidate]> = candidates.chunks(PART).collect();
        for (i, part) in parts.iter().enumerate() {
            let path = writer.join(format!(".part-{i:06}.safetensors"));
            if path.exists() {
                run.context.progress.advance(part.len() as u64);
                continue;
            }
            run.context.check()?;
            let jobs: Vec<Job<'_>> = part
                .iter()
                .map(|candidate| {
                    let key = noise(run.recipe.seed, &candidate.id, section.shared_noise);
                    Job {
                        prompt: &candidate.text,
                        negative: section.negative(),
                        noise: key.standard_normals(c * h * w),
                        step_noise: StepNoise::Key(key),
                    }
                })
                .collect();
            let progress = run.context.progress;
            let drawn = draw(&model, &jobs, &options, &mut |n| progress.advance(n as u64))?;
            part.par_iter().zip(&drawn).try_for_each(|(candidate, drawn)| {
                let path = writer.join(&candidate.image);
                image::write_png(&path, &drawn.image, None)
            })?;
            let data = drawn.into_iter().flat_map(|d| d.latents).collect();
            write_tensors(&path, &latents(data, part.len(), [c, h, w]))?;
        }
        let mut all = Vec::with_capacity(candidates.len() * c * h * w);
        for i in 0..parts.len() {
            let path = writer.join(format!(".part-{i:06}.safetensors"));
            all.extend(read_tensors(&path)?.remove("latents").map(|t| t.data).unwrap_or_default());
        }
        write_tensors(
            &writer.join("latents.safetensors"),
            &latents(all, candidates.len(), [c, h, w]),
        )?;
        jsonl::write(&writer.join("candidates.jsonl"), &candidates)?;
        for i in 0..parts.len() {
            let _ = std::fs::remove_file(writer.join(format!(".part-{i:06}.safetensors")));
        }
        let n = candidates.len();
        Ok(Outcome::default().count("candidates", n).say(format!("{n} candidates")))
    })
}

fn latents(data: Vec<f32>, n: usize, [c, h, w]: [usize; 3]) -> TensorMap {
    BTreeMap::from([("latents".to_owned(), HostTensor { shape: vec![n, c, h, w], data })])
}
