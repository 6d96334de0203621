//! SPO: at each step of the sampler several continuations are compared by what they promise to become, and
//! the model learns from the best and the worst.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use craft_core::Key;
use craft_diffusion::ddpo::StochasticStep;
use craft_diffusion::objective::{host_errors, squared_errors};
use craft_diffusion::spo::{SpoConfig, clear_pair, spo};
use craft_model::Denoiser;
use craft_nn::weights::{self, TensorMap};

use super::fit::Fit;
use super::online::{Asked, Online};
use super::shelf::{Shelf, rows, stacked};
use crate::error::{PipelineError, Result};
use crate::stages::{draws, generate};

/// Continuations of one state that are compared (SD 1.5 in the paper).
const CONTINUATIONS: usize = 4;
/// How clear a preference must be (the paper's for SD 1.5, there between scores of its own model).
const THRESHOLD: f64 = 0.3;

/// The first step that is learned from: a fifth of the way, as in the paper.
fn first(steps: usize) -> usize {
    steps / 5
}

/// Steps that are learned from.
fn learned(steps: &[StochasticStep]) -> usize {
    steps[first(steps.len())..].iter().filter(|s| s.std > 0.0).count().max(1)
}

/// Ways through the sampler in an iteration, so many that each of its pairs is learned from about once.
fn ways(batch: usize, iteration: usize, learned: usize) -> usize {
    (pairs_a_step(batch) * iteration).div_ceil(learned.max(1))
}

/// Pairs in a step of `batch` samples.
pub(super) fn pairs_a_step(batch: usize) -> usize {
    (batch / 2).max(1)
}

/// Continuations that an iteration draws and scores, if all its steps have noise.
pub(super) fn images(batch: usize, steps: usize) -> usize {
    let learned = steps - first(steps);
    ways(batch, steps, learned) * learned * CONTINUATIONS
}

/// The name of an iteration's pairs on disk.
pub(super) const PART: &str = "pairs";

/// Two continuations of the same latents.
struct Pair {
    /// Place of its prompt in the training set.
    prompt: usize,
    /// Which step of the sampler.
    step: usize,
    state: Vec<f32>,
    /// What the denoiser would have to say for the preferred and for the rejected one.
    targets: [Vec<f32>; 2],
    /// Squared errors of the frozen reference to these.
    reference: [f32; 2],
}

/// The pairs of an iteration.
pub(super) struct Pairs {
    pairs: Vec<Pair>,
    /// Pictures that were scored.
    images: usize,
}

/// A way through the sampler.
struct Way {
    prompt: usize,
    state: Vec<f32>,
    /// The denoiser's word on the state.
    output: Vec<f32>,
}

impl Pairs {
    /// Draws an iteration with the weights of now.
    pub(super) fn draw(
        online: &Online<'_>,
        fit: &Fit<'_>,
        steps: &[StochasticStep],
        number: usize,
        unet: &Denoiser,
    ) -> Result<Self> {
        let model = fit.model;
        let options = generate::options(&fit.recipe.generate, model)?;
        let size: usize = model.latent_shape(options.height, options.width).iter().product();
        let shelf = Shelf::beside(fit.state);
        let saved = shelf.read(number, PART);
        if let Some(drawn) = saved.and_then(|saved| Self::take_up(&saved, size)) {
            return Ok(drawn);
        }
        let unet = unet.valid();
        let key = Key::new(fit.run.recipe.seed).stage("online");
        let batch = fit.recipe.train.batch;
        let prompts = draws::picks(
            &key,
            number,
            ways(batch, steps.len(), learned(steps)),
            fit.set.units.len(),
        );
        let mut streams: Vec<_> = (0..prompts.len())
            .map(|i| key.clone().stage("spo").step(number as u64).sample(i as u64).stream())
            .collect();
        let mut all: Vec<Way> = prompts
            .iter()
            .zip(&mut streams)
            .map(|(&prompt, stream)| {
                let state = stream.standard_normals(size);
                Way { prompt, state, output: Vec::new() }
            })
            .collect();
        // The word of a denoiser on states with their prompts at a step of the sampler.
        let ask = |unet: &Denoiser, step: usize, asked: &[(usize, &[f32])]| {
            let mut out: Vec<Vec<f32>> = Vec::with_capacity(asked.len());
            for part in asked.chunks(options.batch.max(1)) {
                fit.run.context.check()?;
                let rows = Asked {
                    latents: part.iter().map(|a| a.1).collect(),
                    times: vec![steps[step].timestep as f32; part.len()],
                    texts: part.iter().map(|a| online.text(fit, a.0)).collect(),
                };
                let output = weights::to_vec(online.predict(fit, (unet, &model.device), &rows)?);
                out.extend(output.chunks_exact(size).map(<[f32]>::to_vec));
            }
            Ok::<_, PipelineError>(out)
        };
        let (mut pairs, mut images): (Vec<Pair>, usize) = (Vec::new(), 0);
        let states: Vec<_> = all.iter().map(|w| (w.prompt, w.state.as_slice())).collect();
        let outputs = ask(&unet, 0, &states)?;
        all.iter_mut().zip(outputs).for_each(|(way, output)| way.output = output);
        for (i, step) in steps.iter().enumerate() {
            let compared = i >= first(steps.len()) && step.std > 0.0;
            let n = if compared { CONTINUATIONS } else { 1 };
            let mut next: Vec<(usize, Vec<f32>)> = Vec::with_capacity(n * all.len());
            for (way, stream) in all.iter().zip(&mut streams) {
                let mean = step.mean(&way.state, &way.output);
                for _ in 0..n {
                    let noise = stream.standard_normals(size);
                    let moved = mean.iter().zip(noise).map(|(m, z)| m + step.std as f32 * z);
                    next.push((way.prompt, moved.collect()));
                }
            }
            let last = i + 1 == steps.len();
            let rows: Vec<_> = next.iter().map(|(p, x)| (*p, x.as_slice())).collect();
            let outputs = if last { Vec::new() } else { ask(&unet, i + 1, &rows)? };
            if compared {
                // What a continuation promises: the clean latents that the denoiser sees in it.
                let clean = |(j, (_, x)): (usize, &(usize, Vec<f32>))| {
                    if last { x.clone() } else { steps[i + 1].clean(x, &outputs[j]) }
                };
                let promised: Vec<Vec<f32>> = next.iter().enumerate().map(clean).collect();
                let places: Vec<usize> = next.iter().map(|(p, _)| *p).collect();
                images += promised.len();
                let totals = online.totals(fit, &options, promised, &places)?;
                for (w, way) in all.iter().enumerate() {
                    let own = w * n..(w + 1) * n;
                    let Some(ends) = clear_pair(&totals[own.clone()], THRESHOLD) else { continue };
                    let targets = ends.map(|e| step.target(&way.state, &next[own.start + e].1));
                    pairs.push(Pair {
                        prompt: way.prompt,
                        step: i,
                        state: way.state.clone(),
                        targets,
                        reference: [0.0; 2],
                    });
                }
            }
            for (w, (way, stream)) in all.iter_mut().zip(&mut streams).enumerate() {
                // Any of them goes on, so that the next comparison owes nothing to this one.
                let j = w * n + if n > 1 { stream.index(n) } else { 0 };
                way.state = std::mem::take(&mut next[j].1);
                way.output = outputs.get(j).cloned().unwrap_or_default();
            }
        }
        for i in 0..steps.len() {
            let own: Vec<&mut Pair> = pairs.iter_mut().filter(|p| p.step == i).collect();
            let states: Vec<_> = own.iter().map(|p| (p.prompt, p.state.as_slice())).collect();
            let outputs = ask(&model.denoiser, i, &states)?;
            for (pair, output) in own.into_iter().zip(outputs) {
                let error = |target: &Vec<f32>| host_errors(&output, target, 1)[0];
                pair.reference = [error(&pair.targets[0]), error(&pair.targets[1])];
            }
        }
        key.stage("pairs").step(number as u64).stream().shuffle(&mut pairs);
        let drawn = Self { pairs, images };
        shelf.keep(number, PART, &drawn.put_down())?;
        Ok(drawn)
    }

    fn put_down(&self) -> TensorMap {
        let each = |f: fn(&Pair) -> &[f32]| stacked(self.pairs.iter().map(f));
        let numbers = |pair: &Pair| [pair.prompt as f32, pair.step as f32];
        let numbers: Vec<[f32; 2]> = self.pairs.iter().map(numbers).collect();
        TensorMap::from([
            ("images".to_owned(), stacked([[self.images as f32].as_slice()].into_iter())),
            ("numbers".to_owned(), stacked(numbers.iter().map(<[f32; 2]>::as_slice))),
            ("state".to_owned(), each(|pair| &pair.state)),
            ("preferred".to_owned(), each(|pair| &pair.targets[0])),
            ("rejected".to_owned(), each(|pair| &pair.targets[1])),
            ("reference".to_owned(), each(|pair| &pair.reference)),
        ])
    }

    /// Pairs as they were put down; `None` for others. Numbers of prompts, steps and pictures are small
    /// enough for f32.
    fn take_up(saved: &TensorMap, size: usize) -> Option<Self> {
        let n = saved.get("numbers")?.data.len() / 2;
        let numbers = rows(saved, "numbers", [n, 2])?;
        let each = |name| rows(saved, name, [n, size]);
        let (states, preferred) = (each("state")?, each("preferred")?);
        let rejected = each("rejected")?;
        let reference = rows(saved, "reference", [n, 2])?;
        let parts = states.into_iter().zip(preferred).zip(rejected).zip(reference).zip(numbers);
        let pairs = parts.map(|((((state, preferred), rejected), reference), number)| Pair {
            prompt: number[0] as usize,
            step: number[1] as usize,
            state,
            targets: [preferred, rejected],
            reference: [reference[0], reference[1]],
        });
        let images = *saved.get("images")?.data.first()? as usize;
        Some(Self { pairs: pairs.collect(), images })
    }

    /// Pictures that were scored.
    pub(super) fn images(&self) -> usize {
        self.images
    }

    /// Pairs that a training step learns from.
    pub(super) fn rows(&self, batch: usize) -> usize {
        if self.pairs.is_empty() { 0 } else { pairs_a_step(batch) }
    }

    /// The loss of `range` of the pairs of the iteration's `phase`-th training step. Both continuations of a
    /// pair are judged by one prediction, since they come from the same latents.
    pub(super) fn loss(
        &self,
        online: &Online<'_>,
        fit: &Fit<'_>,
        steps: &[StochasticStep],
        phase: usize,
        range: std::ops::Range<usize>,
        (unet, device): (&Denoiser, &Device),
    ) -> Result<Tensor<1>> {
        let rows = self.rows(fit.recipe.train.batch);
        let pairs: Vec<&Pair> =
            range.map(|i| &self.pairs[(phase * rows + i) % self.pairs.len()]).collect();
        let asked = Asked {
            latents: pairs.iter().map(|p| p.state.as_slice()).collect(),
            times: pairs.iter().map(|p| steps[p.step].timestep as f32).collect(),
            texts: pairs.iter().map(|p| online.text(fit, p.prompt)).collect(),
        };
        let output = online.predict(fit, (unet, device), &asked)?;
        let dims = output.dims();
        let errors = [0, 1].map(|end| {
            let targets: Vec<f32> =
                pairs.iter().flat_map(|p| p.targets[end].iter().copied()).collect();
            let targets = Tensor::<4>::from_data(TensorData::new(targets, dims), device);
            squared_errors(output.clone(), targets).reshape([-1, 1])
        });
        let errors = Tensor::cat(errors.to_vec(), 1).reshape([-1]);
        let reference: Vec<f32> = pairs.iter().flat_map(|p| p.reference).collect();
        let scales: Vec<f32> = pairs.iter().map(|p| steps[p.step].scale() as f32).collect();
        Ok(spo(errors, &reference, &scales, SpoConfig::default(), rows))
    }
}
