//! SPO: at each step of the sampler several continuations are compared by what they promise to become, and
//! the model learns from the best and the worst.

use std::ops::Range;

use crate::loss::{host_errors, squared_errors};
use crate::methods::spo::{SpoConfig, clear_pair, spo};
use crate::online::stochastic::StochasticStep;
use crate::optimizer::GradMap;
use burn::tensor::Tensor;
use craft_nn::weights::TensorMap;

use super::shelf::{rows, stacked};
use super::{Online, like};
use crate::error::Result;
use crate::networks::Networks;
use crate::pass::Rows;
use crate::set::Text;

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
pub fn images(batch: usize, steps: usize) -> usize {
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
pub(super) struct Continuations {
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

impl Continuations {
    /// Draws an iteration with the weights of now.
    pub(super) fn draw(online: &Online<'_>, iteration: usize, networks: &Networks) -> Result<Self> {
        let size = online.frame.size();
        let saved = online.shelf.read(iteration, PART);
        if let Some(drawn) = saved.and_then(|saved| Self::take_up(&saved, size)) {
            return Ok(drawn);
        }
        let (mut pairs, images) = compare(online, iteration, networks)?;
        for (i, step) in online.steps.iter().enumerate() {
            let own: Vec<&mut Pair> = pairs.iter_mut().filter(|p| p.step == i).collect();
            let states: Vec<_> = own.iter().map(|p| (p.prompt, p.state.as_slice())).collect();
            let frozen =
                |x: &[&[f32]], texts: &[&Text]| online.predict_frozen(x, step.timestep, texts);
            let outputs = ask(online, &states, frozen)?;
            for (pair, output) in own.into_iter().zip(outputs) {
                let error = |target: &Vec<f32>| host_errors(&output, target, 1)[0];
                pair.reference = [error(&pair.targets[0]), error(&pair.targets[1])];
            }
        }
        let key = online.key().stage("pairs").step(iteration as u64);
        key.stream().shuffle(&mut pairs);
        let drawn = Self { pairs, images };
        online.shelf.keep(iteration, PART, &drawn.put_down())?;
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

    /// Adds the gradients of `range` of the pairs of the iteration's `phase`-th training step. Both continuations of a
    /// pair are judged by one prediction, since they come from the same latents.
    pub(super) fn accumulate(
        &self,
        online: &Online<'_>,
        phase: usize,
        range: Range<usize>,
        networks: &Networks,
        grads: &mut GradMap,
    ) -> f64 {
        let (steps, n) = (&online.steps, self.rows(online.recipe.train.batch));
        let pairs: Vec<&Pair> =
            range.map(|i| &self.pairs[(phase * n + i) % self.pairs.len()]).collect();
        let latents: Vec<f32> = pairs.iter().flat_map(|p| p.state.iter().copied()).collect();
        let times: Vec<f32> = pairs.iter().map(|p| steps[p.step].timestep as f32).collect();
        let texts: Vec<&Text> = pairs.iter().map(|p| online.text(p.prompt)).collect();
        let guidance = online.guidance();
        let rows = Rows { latents: &latents, times: &times, texts: &texts, guidance };
        let reference: Vec<f32> = pairs.iter().flat_map(|p| p.reference).collect();
        let scales: Vec<f32> = pairs.iter().map(|p| steps[p.step].scale() as f32).collect();
        let loss = |output: Tensor<4>| {
            let errors = [0, 1].map(|end| {
                let targets = pairs.iter().flat_map(|p| p.targets[end].iter().copied());
                let targets = like(&output, targets.collect());
                squared_errors(output.clone(), targets).reshape([-1, 1])
            });
            let errors = Tensor::cat(errors.to_vec(), 1).reshape([-1]);
            spo(errors, &reference, &scales, SpoConfig::default(), n)
        };
        let recompute = online.recipe.train.gradient_checkpointing;
        online.frame.backward(networks, &rows, recompute, loss, grads)
    }
}

/// What networks say to states with the prompts at these places, in batches.
fn ask(
    online: &Online<'_>,
    asked: &[(usize, &[f32])],
    predict: impl Fn(&[&[f32]], &[&Text]) -> Vec<f32>,
) -> Result<Vec<Vec<f32>>> {
    let mut out: Vec<Vec<f32>> = Vec::with_capacity(asked.len());
    for part in asked.chunks(online.options.batch.max(1)) {
        online.check()?;
        let latents: Vec<&[f32]> = part.iter().map(|a| a.1).collect();
        let texts: Vec<&Text> = part.iter().map(|a| online.text(a.0)).collect();
        let output = predict(&latents, &texts);
        out.extend(output.chunks_exact(online.frame.size()).map(<[f32]>::to_vec));
    }
    Ok(out)
}

/// Goes through the sampler with all prompts of an iteration and compares continuations on the way. Returns the clear
/// pairs, without the reference's errors, and how many pictures were scored.
fn compare(
    online: &Online<'_>,
    iteration: usize,
    networks: &Networks,
) -> Result<(Vec<Pair>, usize)> {
    let (size, steps) = (online.frame.size(), &online.steps);
    let own = |i: usize, asked: &[(usize, &[f32])]| {
        ask(online, asked, |x, texts| online.predict(networks, x, steps[i].timestep, texts))
    };
    let n = ways(online.recipe.train.batch, steps.len(), learned(steps));
    let prompts = online.prompts(iteration, n);
    let key = online.key().stage("spo").step(iteration as u64);
    let mut streams: Vec<_> =
        (0..prompts.len()).map(|i| key.clone().sample(i as u64).stream()).collect();
    let mut all: Vec<Way> = prompts
        .iter()
        .zip(&mut streams)
        .map(|(&prompt, stream)| {
            let state = stream.standard_normals(size);
            Way { prompt, state, output: Vec::new() }
        })
        .collect();
    let (mut pairs, mut images): (Vec<Pair>, usize) = (Vec::new(), 0);
    let states: Vec<_> = all.iter().map(|w| (w.prompt, w.state.as_slice())).collect();
    let outputs = own(0, &states)?;
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
        let outputs = if last { Vec::new() } else { own(i + 1, &rows)? };
        if compared {
            // What a continuation promises: the clean latents that the denoiser sees in it.
            let clean = |(j, (_, x)): (usize, &(usize, Vec<f32>))| {
                if last { x.clone() } else { steps[i + 1].clean(x, &outputs[j]) }
            };
            let promised: Vec<Vec<f32>> = next.iter().enumerate().map(clean).collect();
            let places: Vec<usize> = next.iter().map(|(p, _)| *p).collect();
            images += promised.len();
            let totals = online.totals(promised, &places)?;
            for (w, way) in all.iter().enumerate() {
                let own = w * n..(w + 1) * n;
                let Some(ends) = clear_pair(&totals[own.clone()], THRESHOLD) else { continue };
                let targets = ends.map(|e| step.target(&way.state, &next[own.start + e].1));
                let (prompt, state) = (way.prompt, way.state.clone());
                pairs.push(Pair { prompt, step: i, state, targets, reference: [0.0; 2] });
            }
        }
        for (w, (way, stream)) in all.iter_mut().zip(&mut streams).enumerate() {
            // Any of them goes on, so that the next comparison owes nothing to this one.
            let j = w * n + if n > 1 { stream.index(n) } else { 0 };
            way.state = std::mem::take(&mut next[j].1);
            way.output = outputs.get(j).cloned().unwrap_or_default();
        }
    }
    Ok((pairs, images))
}
