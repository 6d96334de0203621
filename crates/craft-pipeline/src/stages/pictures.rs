//! Pictures that lie on disk as soon as they are drawn, so that a stop loses a batch at most and what is
//! there can be looked at.

use std::path::{Path, PathBuf};

use craft_core::{Key, Recipe};
use craft_store::image;
use craft_store::rows::RowWriter;
use rayon::prelude::*;

use crate::error::{PipelineError, Result};
use craft_core::Progress;
use craft_model::parameters::Parameters;
use craft_model::sample::{Drawn, Job, Painter, StepNoise};

/// A picture to be.
pub struct Item<'a> {
    /// Where it is to lie, as PNG.
    pub file: PathBuf,
    /// What it is to show.
    pub prompt: &'a str,
    /// What its noise is drawn from.
    pub key: Key,
    /// What its text says of that, beside the seed.
    pub place: String,
}

impl Item<'_> {
    /// Whether the picture is there and whole.
    pub(crate) fn exists(&self) -> bool {
        image::is_whole_png(&self.file)
    }
}

/// A series of pictures by one model.
pub(crate) struct Series<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) items: &'a [Item<'a>],
    /// Which of a run's models draws, such as `tuned`.
    pub(crate) model: &'a str,
}

impl Series<'_> {
    /// Draws the pictures that are not there; where their latents are kept as well, those whose row is not.
    ///
    /// Batches lie on a grid, so that a series that is continued draws what one without a stop does. A
    /// picture that is there stays as it is. Latents are flushed before the picture gets its name.
    ///
    /// # Errors
    /// Those of drawing and writing, and when it was stopped; what was drawn before is kept.
    pub(crate) fn draw(
        &self,
        painter: &mut Painter<'_>,
        mut latents: Option<&mut RowWriter>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let batch = painter.options().batch.max(1);
        for (number, part) in self.items.chunks(batch).enumerate() {
            let first = number * batch;
            let mut open = Vec::new();
            for (i, item) in part.iter().enumerate() {
                let kept = match &mut latents {
                    Some(rows) if item.exists() => rows.has(first + i)?,
                    Some(_) => false,
                    None => item.exists(),
                };
                if !kept {
                    open.push(i);
                }
            }
            if !open.is_empty() {
                let drawn = self.batch(painter, part)?;
                if let Some(rows) = &mut latents {
                    for &i in &open {
                        if drawn[i].latents.iter().any(|v| !v.is_finite()) {
                            return Err(not_finite(&part[i].file));
                        }
                        rows.put(first + i, &drawn[i].latents)?;
                    }
                    rows.sync()?;
                }
                self.write(painter, part, &drawn, &open)?;
            }
            progress.advance(part.len() as u64);
        }
        Ok(())
    }

    fn batch(&self, painter: &mut Painter<'_>, part: &[Item<'_>]) -> Result<Vec<Drawn>> {
        let size = painter.latent_values();
        let jobs: Vec<Job<'_>> = part
            .iter()
            .map(|item| Job {
                prompt: item.prompt,
                negative: self.recipe.generate.negative(),
                noise: item.key.standard_normals(size),
                step_noise: StepNoise::Key(item.key.clone()),
            })
            .collect();
        Ok(painter.batch(&jobs)?)
    }

    fn write(
        &self,
        painter: &Painter<'_>,
        part: &[Item<'_>],
        drawn: &[Drawn],
        open: &[usize],
    ) -> Result<()> {
        let path = Path::new(&self.recipe.model.path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let model = match self.model {
            "" | "base" => name.into_owned(),
            own => format!("{name} ({own})"),
        };
        let parameters = Parameters {
            negative: self.recipe.generate.negative(),
            options: painter.options(),
            model: &model,
            loras: &[],
        };
        let seed = self.recipe.seed;
        open.par_iter().try_for_each(|&i| {
            let Item { file, prompt, place, .. } = &part[i];
            let text = parameters.of(prompt, &format!("Seed: {seed}, {place}"));
            Ok(image::write_png(file, &drawn[i].image, Some(&text))?)
        })
    }
}

fn not_finite(file: &Path) -> PipelineError {
    PipelineError::Input {
        path: file.to_owned(),
        message: "its latents are not finite numbers: expected numbers to train on; its weights are damaged, diverged or too large for the number format (try another model, fewer guidance, or --matmul-precision f32)".to_owned(),
    }
}
