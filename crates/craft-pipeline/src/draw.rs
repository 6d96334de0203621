//! Drawing pictures: batched classifier-free guidance around per-picture samplers.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Tensor, TensorData};
use craft_core::Key;
use craft_core::schedule::{NoiseSchedule, ScheduleError, SigmaSpacing};
use craft_diffusion::sampler::{Sampler, Scheduler, guide};
use craft_nn::unet::UNet2DConditionModel;
use craft_nn::weights;
use craft_store::RgbImage;

use crate::error::{PipelineError, Result};
use crate::model::Model;
use crate::text::TextEmbedding;

/// How pictures are drawn.
#[derive(Clone, Copy, Debug)]
pub struct DrawOptions {
    /// Sampler steps.
    pub steps: usize,
    /// Scale of classifier-free guidance; up to 1 is none.
    pub guidance_scale: f64,
    /// Sampler.
    pub scheduler: Scheduler,
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

/// Draws pictures in order; calls `done` with the number of pictures after each batch.
///
/// # Errors
/// When the schedule has no such number of steps, or the size does not fit the model.
pub fn draw(
    model: &Model,
    jobs: &[Job<'_>],
    o: &DrawOptions,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Drawn>> {
    draw_with(model, &model.unet, jobs, o, done)
}

/// [`draw`] with another denoiser in the place of the model's.
///
/// # Errors
/// As [`draw`].
pub fn draw_with(
    model: &Model,
    unet: &UNet2DConditionModel,
    jobs: &[Job<'_>],
    o: &DrawOptions,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Drawn>> {
    let unit = model.vae_config.scale();
    if !o.height.is_multiple_of(unit) || !o.width.is_multiple_of(unit) || o.height * o.width == 0 {
        return Err(PipelineError::Usage(format!(
            "pictures of {}×{} cannot be drawn: expected a height and a width that are multiples of {unit} for this model",
            o.height, o.width
        )));
    }
    let texts = Texts::new(model, jobs);
    let mut out = Vec::with_capacity(jobs.len());
    for part in jobs.chunks(o.batch.max(1)) {
        let latents = denoise(model, unet, part, o, &texts)?;
        out.extend(decode(model, latents, o));
        done(part.len());
    }
    Ok(out)
}

/// Each text is encoded once.
struct Texts<'a> {
    prompts: BTreeMap<&'a str, TextEmbedding>,
    negatives: BTreeMap<Option<&'a str>, TextEmbedding>,
}

impl<'a> Texts<'a> {
    fn new(model: &Model, jobs: &[Job<'a>]) -> Self {
        let prompts: BTreeSet<_> = jobs.iter().map(|j| j.prompt).collect();
        let prompts: Vec<_> = prompts.into_iter().collect();
        let negatives: BTreeSet<_> = jobs.iter().map(|j| j.negative).collect();
        let negatives: Vec<_> = negatives.into_iter().collect();
        Self {
            prompts: prompts.iter().copied().zip(model.encode_texts(&prompts)).collect(),
            negatives: negatives.iter().copied().zip(model.encode_negatives(&negatives)).collect(),
        }
    }
}

fn denoise(
    model: &Model,
    unet: &UNet2DConditionModel,
    jobs: &[Job<'_>],
    o: &DrawOptions,
    texts: &Texts<'_>,
) -> Result<Vec<Vec<f32>>> {
    let [c, h, w] = model.latent_shape(o.height, o.width);
    let n = jobs.len();
    let size = c * h * w;
    let mut samplers: Vec<Box<dyn Sampler>> = Vec::with_capacity(n);
    for _ in 0..n {
        let sampler = o
            .sampler(&model.schedule)
            .map_err(|error| PipelineError::Usage(format!("{} steps: {error}", o.steps)))?;
        samplers.push(sampler);
    }
    let mut latents: Vec<Vec<f32>> = Vec::with_capacity(n);
    for (job, sampler) in jobs.iter().zip(&samplers) {
        if job.noise.len() != size {
            return Err(PipelineError::Usage(format!(
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
    let stochastic = samplers.first().is_some_and(|s| s.is_stochastic());
    let mut rows: Vec<&TextEmbedding> = Vec::with_capacity(2 * n);
    if guided {
        rows.extend(jobs.iter().map(|j| &texts.negatives[&j.negative]));
    }
    rows.extend(jobs.iter().map(|j| &texts.prompts[j.prompt]));
    let condition = model.condition(&rows, [o.height, o.width], &model.device);
    for i in 0..o.steps {
        let t = samplers[0].timesteps()[i] as f32;
        let scale = samplers[0].input_scale(i) as f32;
        let input: Vec<f32> = latents.iter().flatten().map(|v| v * scale).collect();
        let input = Tensor::<4>::from_data(TensorData::new(input, [n, c, h, w]), &model.device);
        // One sample under both texts.
        let output = unet.forward(input, &vec![t; n], &condition.states, condition.added.as_ref());
        let output = weights::to_vec(output);
        let (first, second) = output.split_at(if guided { n * size } else { 0 });
        for (j, (sampler, x)) in samplers.iter_mut().zip(&mut latents).enumerate() {
            let range = j * size..(j + 1) * size;
            let noise = if stochastic { jobs[j].step_noise.at(i, size) } else { Vec::new() };
            if guided {
                let guided = guide(&first[range.clone()], &second[range], o.guidance_scale as f32);
                sampler.step(i, &guided, x, &noise);
            } else {
                sampler.step(i, &second[range], x, &noise);
            }
        }
    }
    Ok(latents)
}

/// Decodes final latents.
pub(crate) fn decode(model: &Model, latents: Vec<Vec<f32>>, o: &DrawOptions) -> Vec<Drawn> {
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

    #[test]
    fn karras_is_the_spacing_of_the_scheduler_file() {
        let plain = NoiseSchedule::stable_diffusion();
        let mut karras = plain.clone();
        karras.sampling.sigma_spacing = SigmaSpacing::Karras;
        for scheduler in [Scheduler::Euler, Scheduler::DpmPlusPlus2M] {
            let options = |karras| DrawOptions {
                steps: 7,
                guidance_scale: 1.0,
                scheduler,
                karras,
                height: 64,
                width: 64,
                batch: 1,
            };
            let steps =
                |karras, schedule| options(karras).sampler(schedule).unwrap().timesteps().to_vec();
            assert_eq!(steps(true, &plain), steps(false, &karras));
            assert_ne!(steps(true, &plain), steps(false, &plain));
        }
    }
}
