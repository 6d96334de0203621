//! Stage 2: one candidate picture per wording and noise, from the base model.

use craft_core::recipe::GenerateSection;
use craft_core::{Candidate, CandidateId, Key, PromptId};
use craft_store::rows::RowWriter;
use craft_store::{Manifest, Stage, StageWriter, jsonl};

use crate::error::{PipelineError, Result};
use crate::stages::pictures::{Item, Series};
use crate::stages::{Outcome, Run, expand, inputs};
use crate::start::Start;
use craft_model::model::Model;
use craft_model::sample::{DrawOptions, Painter};
use craft_model::schedule::{Advice, Intended, advice};

/// Drawing options of a recipe for a model.
pub(crate) fn options(section: &GenerateSection, model: &Model) -> Result<DrawOptions> {
    let [height, width] = model.default_size();
    let options = DrawOptions {
        steps: section.steps,
        guidance_scale: section.guidance_scale,
        scheduler: section.scheduler,
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
    let intended = Intended {
        scheduler: section.scheduler,
        steps: section.steps,
        guidance_scale: section.guidance_scale,
        chosen: [false; 3],
    };
    let keys = ["generate.scheduler", "generate.steps", "generate.guidance_scale"];
    match advice(&model.schedule, intended, keys)? {
        Advice::Warning(text) => Some(format!("warning: {text}")),
        Advice::Note(text) => Some(text),
    }
}

/// What the noise of a candidate is drawn from: prompt and sample, and wording unless noise is shared.
fn noise(seed: u64, id: &CandidateId, shared: bool) -> Key {
    let key = Key::new(seed).stage("generate").prompt(&id.prompt).sample(u64::from(id.sample));
    if shared { key } else { key.variant(u64::from(id.variant)) }
}

/// All candidates of a run in their order.
fn candidates(run: &Run<'_>) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::new();
    for (prompt, texts) in expand::read(run)? {
        let prompt = PromptId::new(prompt).map_err(|e| PipelineError::Usage(e.to_string()))?;
        for (variant, text) in texts.iter().enumerate() {
            for sample in 0..run.recipe.generate.samples {
                let id = CandidateId::new(prompt.clone(), variant as u32, sample as u32);
                candidates.push(Candidate::new(id, text.clone()));
            }
        }
    }
    Ok(candidates)
}

/// Draws all candidates. Each lies on disk as soon as its batch is drawn, its latents in one file for all
/// and its picture under its own name, so that an interrupted stage continues where it stopped.
pub(crate) fn run(run: &Run<'_>, start: &Start, expanded: &Manifest) -> Result<Manifest> {
    let section = &run.recipe.generate;
    let mut inputs = inputs(&[expanded]);
    inputs.insert("model".to_owned(), start.hash.clone());
    // The batch size does not change a picture.
    let config = (GenerateSection { batch: 1, ..section.clone() }, run.recipe.seed);
    run.stage(Stage::GENERATE, &config, inputs, |writer| {
        let model = start.model(run.recipe, run.base)?;
        if let Some(text) = advise(section, &model) {
            run.context.progress.note(&text);
        }
        let mut painter = Painter::new(&model, options(section, &model)?, run.context.stop)?;
        let [c, h, w] = model.latent_shape(painter.options().height, painter.options().width);
        let candidates = candidates(run)?;
        let n = candidates.len();
        run.context.progress.start("generate", n as u64, "images");
        craft_store::atomic::create_dir(&writer.join("images"))?;
        let latents = writer.join("latents.safetensors");
        let mut rows = RowWriter::open(&latents, "latents", &[n, c, h, w])?;
        let items: Vec<Item<'_>> = candidates.iter().map(|c| item(run, writer, c)).collect();
        let series = Series { recipe: run.recipe, items: &items, model: "" };
        series.draw(&mut painter, Some(&mut rows), run.context.progress)?;
        rows.finish()?;
        jsonl::write(&writer.join("candidates.jsonl"), &candidates)?;
        Ok(Outcome::default().count("candidates", n).say(format!("{n} candidates")))
    })
}

fn item<'a>(run: &Run<'_>, writer: &StageWriter, candidate: &'a Candidate) -> Item<'a> {
    Item {
        file: writer.join(&candidate.image),
        prompt: &candidate.text,
        key: noise(run.recipe.seed, &candidate.id, run.recipe.generate.shared_noise),
        place: format!("Candidate: {}", candidate.id),
    }
}
