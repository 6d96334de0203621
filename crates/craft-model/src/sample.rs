//! Drawing pictures: batched classifier-free guidance around per-picture samplers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{Tensor, TensorData};
use craft_core::Key;
use craft_core::sampler::{Sampler, SamplerKind, advance, guide};
use craft_core::schedule::{NoiseSchedule, ScheduleError, SigmaSpacing};
use craft_nn::weights;
use craft_store::RgbImage;

use crate::denoiser::{Denoiser, Input};
use crate::error::{ModelError, Result};
use crate::model::Model;
use crate::text::{Condition, TextEmbedding};

/// How pictures are drawn.
#[derive(Clone, Copy, Debug)]
pub struct DrawOptions {
    /// Sampler steps.
    pub steps: usize,
    /// Scale of classifier-free guidance; up to 1 is none.
    pub guidance_scale: f64,
    /// Sampler.
    pub scheduler: SamplerKind,
    /// Whether its steps are placed as Karras et al. have it, whatever the model's schedule says.
    pub karras: bool,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Pictures at a time. Does not change any picture.
    pub batch: usize,
}

impl DrawOptions {
    /// A sampler over a model's schedule.
    ///
    /// # Errors
    /// When the schedule has no such number of steps, or asks for what this sampler cannot do.
    pub fn sampler(
        &self,
        schedule: &NoiseSchedule,
    ) -> std::result::Result<Box<dyn Sampler>, ScheduleError> {
        if !self.karras {
            return self.scheduler.sampler(schedule, self.steps);
        }
        let mut schedule = schedule.clone();
        schedule.sampling.sigma_spacing = SigmaSpacing::Karras;
        self.scheduler.sampler(&schedule, self.steps)
    }
}

/// One picture to draw.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// What to draw.
    pub prompt: &'a str,
    /// What not to draw; `None` is what the model was trained with for no text, which may be another
    /// thing than the empty text.
    pub negative: Option<&'a str>,
    /// Unit normals, channels · rows · columns of the latents.
    pub noise: Vec<f32>,
    /// Noise of the steps, for samplers that add any.
    pub step_noise: StepNoise,
}

/// Unit normals that a stochastic sampler adds at each step.
#[derive(Clone, Debug)]
pub enum StepNoise {
    /// Drawn from the key with the number of the step.
    Key(Key),
    /// Given, one entry per step.
    Given(Vec<Vec<f32>>),
}

impl StepNoise {
    fn at(&self, step: usize, n: usize) -> Vec<f32> {
        match self {
            Self::Key(key) => key.clone().step(step as u64).standard_normals(n),
            Self::Given(steps) => steps.get(step).cloned().unwrap_or_else(|| vec![0.0; n]),
        }
    }
}

/// A drawn picture.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// Final latents before decoding, as the denoiser has them.
    pub latents: Vec<f32>,
    /// The picture.
    pub image: RgbImage,
}

/// A stop that nobody asks for, for drawing that nothing interrupts.
pub static NEVER: AtomicBool = AtomicBool::new(false);

/// Draws pictures in order; calls `done` with the number of pictures after each batch. For a few; what
/// must not be lost is drawn by [`Painter::batch`], a batch at a time.
///
/// # Errors
/// When the schedule has no such number of steps, or the size does not fit the model.
pub fn draw(
    model: &Model,
    jobs: &[Job<'_>],
    o: &DrawOptions,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Drawn>> {
    let mut painter = Painter::new(model, *o, &NEVER)?;
    let mut out = Vec::with_capacity(jobs.len());
    for part in jobs.chunks(o.batch.max(1)) {
        out.extend(painter.batch(part)?);
        done(part.len());
    }
    Ok(out)
}

/// Draws batch after batch with one model, and stops between two steps of the sampler when it is asked to.
pub struct Painter<'a> {
    model: &'a Model,
    denoiser: &'a Denoiser,
    options: DrawOptions,
    stop: &'a AtomicBool,
    /// Texts of the last batch; those of the next are often the same.
    prompts: BTreeMap<String, TextEmbedding>,
    negatives: BTreeMap<Option<String>, TextEmbedding>,
}

impl<'a> Painter<'a> {
    /// `stop`: set to end a batch before its next step.
    ///
    /// # Errors
    /// When the size does not fit the model.
    pub fn new(model: &'a Model, options: DrawOptions, stop: &'a AtomicBool) -> Result<Self> {
        let unit = model.vae_config.scale();
        let DrawOptions { height, width, .. } = options;
        if !height.is_multiple_of(unit) || !width.is_multiple_of(unit) || height * width == 0 {
            return Err(ModelError::Usage(format!(
                "pictures of {height}×{width} cannot be drawn: expected a height and a width that are multiples of {unit} for this model"
            )));
        }
        let (prompts, negatives) = Default::default();
        Ok(Self { model, denoiser: &model.denoiser, options, stop, prompts, negatives })
    }

    /// With another denoiser in the place of the model's.
    #[must_use]
    pub fn by(self, denoiser: &'a Denoiser) -> Self {
        Self { denoiser, ..self }
    }

    /// How it draws.
    pub fn options(&self) -> &DrawOptions {
        &self.options
    }

    /// Values of one picture's latents.
    pub fn latent_values(&self) -> usize {
        self.model.latent_shape(self.options.height, self.options.width).iter().product()
    }

    /// Draws one batch. Memory grows with it, whatever was drawn before.
    ///
    /// # Errors
    /// When the schedule has no such number of steps, noise has the wrong size, or the batch was stopped;
    /// nothing is left of it then.
    pub fn batch(&mut self, jobs: &[Job<'_>]) -> Result<Vec<Drawn>> {
        self.encode(jobs);
        let latents = self.denoise(jobs)?;
        Ok(decode(self.model, latents, &self.options))
    }

    /// Encodes the texts of a batch that the one before did not have, and forgets the others.
    fn encode(&mut self, jobs: &[Job<'_>]) {
        let prompts: BTreeSet<&str> = jobs.iter().map(|j| j.prompt).collect();
        self.prompts.retain(|text, _| prompts.contains(text.as_str()));
        let new: Vec<&str> =
            prompts.into_iter().filter(|text| !self.prompts.contains_key(*text)).collect();
        let embeddings = self.model.encode_texts(&new);
        self.prompts.extend(new.into_iter().map(str::to_owned).zip(embeddings));
        let negatives: BTreeSet<Option<&str>> = jobs.iter().map(|j| j.negative).collect();
        let known = |text: &Option<String>| negatives.contains(&text.as_deref());
        self.negatives.retain(|text, _| known(text));
        for text in negatives {
            let key = text.map(str::to_owned);
            if !self.negatives.contains_key(&key) {
                self.negatives.insert(key, self.model.encode_negatives(&[text]).remove(0));
            }
        }
    }

    fn condition(&self, jobs: &[Job<'_>], guided: bool) -> Condition {
        let mut rows: Vec<&TextEmbedding> = Vec::with_capacity(2 * jobs.len());
        if guided {
            let negatives = jobs.iter().map(|j| j.negative.map(str::to_owned));
            rows.extend(negatives.map(|text| &self.negatives[&text]));
        }
        rows.extend(jobs.iter().map(|j| &self.prompts[j.prompt]));
        self.model.condition(&rows, [self.options.height, self.options.width], &self.model.device)
    }

    fn denoise(&self, jobs: &[Job<'_>]) -> Result<Vec<Vec<f32>>> {
        let (model, o) = (self.model, &self.options);
        let [c, h, w] = model.latent_shape(o.height, o.width);
        let n = jobs.len();
        let size = c * h * w;
        let mut samplers: Vec<Box<dyn Sampler>> = Vec::with_capacity(n);
        for _ in 0..n {
            let sampler = o
                .sampler(&model.schedule)
                .map_err(|error| ModelError::Usage(format!("{} steps: {error}", o.steps)))?;
            samplers.push(sampler);
        }
        let mut latents: Vec<Vec<f32>> = Vec::with_capacity(n);
        for (job, sampler) in jobs.iter().zip(&samplers) {
            if job.noise.len() != size {
                return Err(ModelError::Usage(format!(
                    "initial latents have {} values, but pictures of {}×{} need {size} ({c}×{h}×{w})",
                    job.noise.len(),
                    o.height,
                    o.width
                )));
            }
            let scale = sampler.init_scale() as f32;
            latents.push(job.noise.iter().map(|v| v * scale).collect());
        }
        // As diffusers has it: a scale of at most 1 means no guidance.
        let guided = o.guidance_scale > 1.0;
        let stochastic = o.scheduler.stochastic;
        let process = model.schedule.process();
        let calls = samplers.first().map_or(0, |sampler| sampler.calls());
        let condition = self.condition(jobs, guided);
        for i in 0..calls {
            if self.stop.load(Ordering::Relaxed) {
                return Err(ModelError::Interrupted);
            }
            let call = samplers[0].call(i);
            let (t, scale) = (call.level.time as f32, call.scale as f32);
            let input: Vec<f32> = latents.iter().flatten().map(|v| v * scale).collect();
            let input = Tensor::<4>::from_data(TensorData::new(input, [n, c, h, w]), &model.device);
            // One sample under both texts.
            let input = Input { latents: input, times: &vec![t; n], condition: &condition };
            let output = weights::to_vec(self.denoiser.predict(input));
            let (first, second) = output.split_at(if guided { n * size } else { 0 });
            for (j, (sampler, x)) in samplers.iter_mut().zip(&mut latents).enumerate() {
                let range = j * size..(j + 1) * size;
                let noise = if stochastic { jobs[j].step_noise.at(i, size) } else { Vec::new() };
                let mixed;
                let output = if guided {
                    let scale = o.guidance_scale as f32;
                    mixed = guide(&first[range.clone()], &second[range], scale);
                    &mixed
                } else {
                    &second[range]
                };
                advance(sampler.as_mut(), process.as_ref(), i, output, x, &noise);
            }
        }
        Ok(latents)
    }
}

/// Decodes final latents.
pub fn decode(model: &Model, latents: Vec<Vec<f32>>, o: &DrawOptions) -> Vec<Drawn> {
    let [c, h, w] = model.latent_shape(o.height, o.width);
    let data: Vec<f32> = latents.iter().flatten().copied().collect();
    let tensor =
        Tensor::<4>::from_data(TensorData::new(data, [latents.len(), c, h, w]), &model.device);
    let latents_of_vae = model.vae_config.unscale_latents(tensor);
    let images = weights::to_vec(model.vae_parts.decode(&model.vae, latents_of_vae));
    let planes = o.height * o.width * 3;
    latents
        .into_iter()
        .zip(images.chunks_exact(planes))
        .filter_map(|(latents, planes)| {
            // The planes have the length that the sides say, and those were checked.
            let image = RgbImage::from_planes(o.width, o.height, planes)?;
            Some(Drawn { latents, image })
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use craft_core::sampler::SAMPLERS;

    #[test]
    fn karras_is_the_spacing_of_the_scheduler_file() {
        let plain = NoiseSchedule::stable_diffusion();
        let mut karras = plain.clone();
        karras.sampling.sigma_spacing = SigmaSpacing::Karras;
        for &scheduler in SAMPLERS.iter().filter(|kind| kind.karras()) {
            let options = |karras| DrawOptions {
                steps: 7,
                guidance_scale: 1.0,
                scheduler,
                karras,
                height: 64,
                width: 64,
                batch: 1,
            };
            let steps = |karras, schedule| {
                let sampler = options(karras).sampler(schedule).unwrap();
                (0..sampler.calls()).map(|i| sampler.call(i)).collect::<Vec<_>>()
            };
            assert_eq!(steps(true, &plain), steps(false, &karras));
            assert_ne!(steps(true, &plain), steps(false, &plain));
        }
    }
}
