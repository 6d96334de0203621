//! Methods that draw as they go: the model draws, its pictures are scored, and it learns from its own steps,
//! again and again. DDPO is here, SPO in `step_aware`.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use craft_core::Key;
use craft_core::select::group_advantages;
use craft_diffusion::ddpo::{StochasticStep, ddpo, stochastic_steps};
use craft_diffusion::objective::{host_errors, squared_errors};
use craft_model::Denoiser;
use craft_model::denoiser::Input;
use craft_nn::weights::{self, TensorMap};

use super::fit::Fit;
use super::judge::Judge;
use super::methods::Loss;
use super::shelf::{Shelf, rows, stacked};
use super::step_aware::{self, Pairs};
use crate::error::{PipelineError, Result};
use crate::stages::draws;
use crate::stages::score::Pictures;
use craft_model::sample::{DrawOptions, decode};
use craft_model::text::TextEmbedding;

/// Pictures of a prompt that are compared with each other.
const GROUP: usize = 4;
/// How far DDPO's ratio counts on either side of 1.
const DDPO_CLIP: f64 = 1e-4;
/// Advantages count up to this size.
const ADVANTAGE_LIMIT: f64 = 5.0;

/// Who scores what is drawn: mean, deviation and weight of each training reward.
pub(super) struct Online<'a> {
    judge: &'a Judge<'a>,
    terms: Vec<Term>,
    negative: TextEmbedding,
}

/// What a denoiser is asked about: latents, timestep and text of each row.
pub(super) struct Asked<'a> {
    pub(super) latents: Vec<&'a [f32]>,
    pub(super) times: Vec<f32>,
    pub(super) texts: Vec<&'a TextEmbedding>,
}

/// What was drawn in an iteration.
pub(super) enum Drawn {
    /// For DDPO.
    Paths(Rollout),
    /// For SPO.
    Pairs(Pairs),
}

impl Drawn {
    /// Pictures that were scored.
    pub(super) fn images(&self) -> usize {
        match self {
            Self::Paths(rollout) => rollout.paths.len(),
            Self::Pairs(pairs) => pairs.images(),
        }
    }

    /// Rows that a training step of `batch` samples learns from.
    pub(super) fn rows(&self, batch: usize) -> usize {
        match self {
            Self::Paths(rollout) => rollout.paths.len(),
            Self::Pairs(pairs) => pairs.rows(batch),
        }
    }

    /// The loss of `range` of the rows of the iteration's `phase`-th training step.
    pub(super) fn loss(
        &self,
        online: &Online<'_>,
        fit: &Fit<'_>,
        steps: &[StochasticStep],
        phase: usize,
        range: Range<usize>,
        network: (&Denoiser, &Device),
    ) -> Result<Tensor<1>> {
        match self {
            Self::Paths(rollout) => rollout.loss(online, fit, steps, phase, range, network),
            Self::Pairs(pairs) => pairs.loss(online, fit, steps, phase, range, network),
        }
    }
}

/// A reward's part in the total.
pub(super) struct Term {
    pub(super) name: String,
    pub(super) mean: f64,
    pub(super) std: f64,
    pub(super) weight: f64,
}

/// A picture's way from noise.
struct Path {
    /// Place of its prompt in the training set.
    prompt: usize,
    /// Latents before the first step and after each.
    states: Vec<Vec<f32>>,
    /// Squared error of each step's output to its target, when it was drawn.
    before: Vec<f32>,
    advantage: f32,
    /// In which order its steps are learned from.
    order: Vec<usize>,
}

/// The pictures of an iteration.
pub(super) struct Rollout {
    paths: Vec<Path>,
}

/// Steps of the sampler with all the noise of the reverse process. Those that add any are learned from.
pub(super) fn iteration(fit: &Fit<'_>) -> Result<Vec<StochasticStep>> {
    let schedule = &fit.model.schedule;
    let steps = stochastic_steps(schedule, fit.recipe.generate.steps, 1.0)
        .map_err(|error| PipelineError::Usage(format!("{}: generate.steps: {error}", fit.name)))?;
    if steps.iter().all(|step| step.std == 0.0) {
        return Err(PipelineError::Usage(format!(
            "{}: no step of the sampler has noise with generate.steps = {}; take more steps",
            fit.name, fit.recipe.generate.steps
        )));
    }
    Ok(steps)
}

/// Prompts of an iteration.
fn groups(fit: &Fit<'_>) -> usize {
    (fit.recipe.train.batch / GROUP).max(1)
}

/// Names of an iteration's batches.
fn part_names(fit: &Fit<'_>, batch: usize) -> impl Iterator<Item = String> {
    let n = groups(fit) * GROUP;
    (0..n).step_by(batch).map(move |first| format!("{first}-{}", (first + batch).min(n)))
}

/// A batch of ways as tensors.
fn put_down(part: &[Path]) -> TensorMap {
    let states = part.iter().flat_map(|path| path.states.iter().map(Vec::as_slice));
    let before = part.iter().map(|path| path.before.as_slice());
    TensorMap::from([
        ("states".to_owned(), stacked(states)),
        ("before".to_owned(), stacked(before)),
    ])
}

/// Takes a batch of ways up as it was put down; `false` where it is another.
fn take_up(part: &mut [Path], saved: &TensorMap, steps: usize, size: usize) -> bool {
    let states = rows(saved, "states", [part.len() * (steps + 1), size]);
    let before = rows(saved, "before", [part.len(), steps]);
    let (Some(states), Some(before)) = (states, before) else { return false };
    for ((path, states), before) in part.iter_mut().zip(states.chunks(steps + 1)).zip(before) {
        path.states = states.to_vec();
        path.before = before;
    }
    true
}

impl<'a> Online<'a> {
    /// Whether all that an iteration draws is on disk.
    pub(super) fn has_drawn(&self, fit: &Fit<'_>, number: usize) -> Result<bool> {
        let shelf = Shelf::beside(fit.state);
        if matches!(fit.loss, Loss::Spo) {
            return Ok(shelf.has(number, step_aware::PART));
        }
        let options = crate::stages::generate::options(&fit.recipe.generate, fit.model)?;
        Ok(part_names(fit, options.batch.max(1)).all(|name| shelf.has(number, &name)))
    }

    /// `negative`: what the recipe steers away from.
    pub(super) fn new(judge: &'a Judge<'a>, terms: Vec<Term>, negative: Option<&str>) -> Self {
        Self { judge, terms, negative: judge.model.encode_negatives(&[negative]).remove(0) }
    }

    /// Draws and scores the pictures of an iteration with the weights of now.
    pub(super) fn draw(
        &self,
        fit: &Fit<'_>,
        steps: &[StochasticStep],
        number: usize,
        unet: &Denoiser,
    ) -> Result<Drawn> {
        Ok(match fit.loss {
            Loss::Spo => Drawn::Pairs(Pairs::draw(self, fit, steps, number, unet)?),
            _ => Drawn::Paths(self.rollout(fit, steps, number, unet)?),
        })
    }

    fn rollout(
        &self,
        fit: &Fit<'_>,
        steps: &[StochasticStep],
        number: usize,
        unet: &Denoiser,
    ) -> Result<Rollout> {
        let model = fit.model;
        let options = crate::stages::generate::options(&fit.recipe.generate, model)?;
        let [c, h, w] = model.latent_shape(options.height, options.width);
        let unet = unet.valid();
        let key = Key::new(fit.run.recipe.seed).stage("online");
        let groups = groups(fit);
        let prompts = draws::picks(&key, number, groups, fit.set.units.len());
        let places: Vec<usize> = prompts.into_iter().flat_map(|p| [p; GROUP]).collect();
        let mut streams: Vec<_> = (0..places.len())
            .map(|i| key.clone().stage("rollout").step(number as u64).sample(i as u64).stream())
            .collect();
        let mut paths: Vec<Path> = places
            .iter()
            .zip(&mut streams)
            .map(|(&prompt, stream)| {
                let mut order: Vec<usize> =
                    (0..steps.len()).filter(|i| steps[*i].std > 0.0).collect();
                stream.shuffle(&mut order);
                let first = stream.standard_normals(c * h * w);
                Path { prompt, states: vec![first], before: Vec::new(), advantage: 0.0, order }
            })
            .collect();
        let shelf = Shelf::beside(fit.state);
        let batch = options.batch.max(1);
        for ((part, streams), name) in
            paths.chunks_mut(batch).zip(streams.chunks_mut(batch)).zip(part_names(fit, batch))
        {
            let saved = shelf.read(number, &name);
            if saved.is_some_and(|saved| take_up(part, &saved, steps.len(), c * h * w)) {
                continue;
            }
            for (i, step) in steps.iter().enumerate() {
                fit.run.context.check()?;
                let asked = Asked {
                    latents: part.iter().map(|p| p.states[i].as_slice()).collect(),
                    times: vec![step.timestep as f32; part.len()],
                    texts: part.iter().map(|p| self.text(fit, p.prompt)).collect(),
                };
                let output = weights::to_vec(self.predict(fit, (&unet, &model.device), &asked)?);
                let size = c * h * w;
                for ((path, stream), output) in
                    part.iter_mut().zip(&mut *streams).zip(output.chunks_exact(size))
                {
                    let mut next = step.mean(&path.states[i], output);
                    if step.std > 0.0 {
                        let noise = stream.standard_normals(size);
                        next.iter_mut().zip(noise).for_each(|(x, z)| *x += step.std as f32 * z);
                    }
                    let target = step.target(&path.states[i], &next);
                    path.before.push(host_errors(output, &target, 1)[0]);
                    path.states.push(next);
                }
            }
            shelf.keep(number, &name, &put_down(part))?;
        }
        self.score(fit, &options, &mut paths)?;
        Ok(Rollout { paths })
    }

    /// r_total of final latents under the prompts at these places; NaN where a score is missing.
    pub(super) fn totals(
        &self,
        fit: &Fit<'_>,
        options: &DrawOptions,
        latents: Vec<Vec<f32>>,
        prompts: &[usize],
    ) -> Result<Vec<f64>> {
        let mut pictures = Vec::with_capacity(latents.len());
        for part in latents.chunks(options.batch.max(1)) {
            fit.run.context.check()?;
            pictures.extend(decode(fit.model, part.to_vec(), options).into_iter().map(|d| d.image));
        }
        let texts: Vec<&str> =
            prompts.iter().map(|p| fit.set.samples[*p].original.as_str()).collect();
        let mut totals = vec![0.0; pictures.len()];
        for term in self.terms.iter().filter(|t| t.std > 0.0) {
            let scores = self.judge.scores(&term.name, Pictures::Memory(&pictures), &texts)?;
            for (total, score) in totals.iter_mut().zip(scores) {
                // A picture without a score lies in the middle of none.
                *total += score.map_or(f64::NAN, |s| term.weight * (s - term.mean) / term.std);
            }
        }
        Ok(totals)
    }

    fn score(&self, fit: &Fit<'_>, options: &DrawOptions, paths: &mut [Path]) -> Result<()> {
        let latents = paths.iter().filter_map(|p| p.states.last().cloned()).collect();
        let prompts: Vec<usize> = paths.iter().map(|p| p.prompt).collect();
        let totals = self.totals(fit, options, latents, &prompts)?;
        for (paths, totals) in paths.chunks_mut(GROUP).zip(totals.chunks(GROUP)) {
            let whole = totals.iter().all(|t| t.is_finite());
            let found =
                if whole { group_advantages(totals).unwrap_or_default() } else { Vec::new() };
            for (path, advantage) in paths.iter_mut().zip(found) {
                path.advantage = advantage.clamp(-ADVANTAGE_LIMIT, ADVANTAGE_LIMIT) as f32;
            }
        }
        Ok(())
    }

    /// The text of a prompt of the training set.
    pub(super) fn text<'f>(&self, fit: &'f Fit<'_>, prompt: usize) -> &'f TextEmbedding {
        &fit.set.texts[&fit.set.samples[prompt].original]
    }

    /// Guided predictions, with the prompts' and the negative prompt's halves in one batch.
    pub(super) fn predict(
        &self,
        fit: &Fit<'_>,
        (unet, device): (&Denoiser, &Device),
        asked: &Asked<'_>,
    ) -> Result<Tensor<4>> {
        let model = fit.model;
        let options = crate::stages::generate::options(&fit.recipe.generate, model)?;
        let [c, h, w] = model.latent_shape(options.height, options.width);
        let n = asked.latents.len();
        let guided = options.guidance_scale > 1.0;
        let data = TensorData::new(asked.latents.concat(), [n, c, h, w]);
        let input = Tensor::<4>::from_data(data, device);
        let mut rows = vec![&self.negative; if guided { n } else { 0 }];
        rows.extend(&asked.texts);
        let condition = model.condition(&rows, [options.height, options.width], device);
        let input = Input { latents: input, times: &asked.times, condition: &condition };
        let output = unet.predict(input);
        if !guided {
            return Ok(output);
        }
        let (without, with) = (output.clone().narrow(0, 0, n), output.narrow(0, n, n));
        Ok(without.clone() + (with - without).mul_scalar(options.guidance_scale))
    }
}

impl Rollout {
    fn loss(
        &self,
        online: &Online<'_>,
        fit: &Fit<'_>,
        steps: &[StochasticStep],
        phase: usize,
        range: Range<usize>,
        (unet, device): (&Denoiser, &Device),
    ) -> Result<Tensor<1>> {
        let paths = &self.paths[range];
        let at = |path: &Path| path.order[phase % path.order.len()];
        let asked = Asked {
            latents: paths.iter().map(|p| p.states[at(p)].as_slice()).collect(),
            times: paths.iter().map(|p| steps[at(p)].timestep as f32).collect(),
            texts: paths.iter().map(|p| online.text(fit, p.prompt)).collect(),
        };
        let output = online.predict(fit, (unet, device), &asked)?;
        let targets = paths
            .iter()
            .flat_map(|p| steps[at(p)].target(&p.states[at(p)], &p.states[at(p) + 1]))
            .collect::<Vec<f32>>();
        let targets = Tensor::<4>::from_data(TensorData::new(targets, output.dims()), device);
        let before: Vec<f32> = paths.iter().map(|p| p.before[at(p)]).collect();
        let scales: Vec<f32> = paths.iter().map(|p| steps[at(p)].scale() as f32).collect();
        let advantages: Vec<f32> = paths.iter().map(|p| p.advantage).collect();
        let errors = squared_errors(output, targets);
        Ok(ddpo(errors, &before, &scales, &advantages, DDPO_CLIP, self.paths.len()))
    }
}
