//! Stage 2: one candidate picture per wording and noise, from the base model.

use craft_core::recipe::GenerateSection;
use craft_core::{Candidate, CandidateId, Key};
use craft_store::{Manifest, Stage};

use crate::error::{PipelineError, Result};
use crate::stages::candidates::CandidateWriter;
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

/// Calls with each candidate of a run in their order, which is that of the wordings.
fn each(run: &Run<'_>, take: &mut dyn FnMut(Candidate) -> Result<()>) -> Result<()> {
    expand::each(run, |wording| {
        for sample in 0..run.recipe.generate.samples {
            let prompt = wording.prompt_id.clone();
            let id = CandidateId::new(prompt, wording.variant, sample as u32);
            take(Candidate::new(id, wording.text.clone()))?;
        }
        Ok(())
    })
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
        let batch = painter.options().batch.max(1);
        let shape = model.latent_shape(painter.options().height, painter.options().width);
        let mut n = 0;
        expand::each(run, |_| {
            n += section.samples;
            Ok(())
        })?;
        run.context.progress.start("generate", n as u64, "images");
        let mut files = CandidateWriter::open(writer, n, shape)?;
        let mut first = 0;
        let mut part = Vec::with_capacity(batch);
        let mut draw = |part: &mut Vec<Candidate>| -> Result<()> {
            let items: Vec<Item<'_>> = part.iter().map(|c| item(run, &files, c)).collect();
            let series = Series { recipe: run.recipe, items: &items, model: "" };
            let rows = Some((first, &mut files.latents));
            series.draw_part(&mut painter, rows, run.context.progress)?;
            first += part.len();
            part.clear();
            Ok(())
        };
        each(run, &mut |candidate| {
            part.push(candidate);
            if part.len() == batch { draw(&mut part) } else { Ok(()) }
        })?;
        draw(&mut part)?;
        files.finish(|put| each(run, &mut |candidate| put(&candidate)))?;
        Ok(Outcome::default().count("candidates", n).say(format!("{n} candidates")))
    })
}

fn item<'a>(run: &Run<'_>, files: &CandidateWriter<'_>, candidate: &'a Candidate) -> Item<'a> {
    Item {
        file: files.picture(candidate),
        prompt: &candidate.text,
        key: noise(run.recipe.seed, &candidate.id, run.recipe.generate.shared_noise),
        place: format!("Candidate: {}", candidate.id),
    }
}
