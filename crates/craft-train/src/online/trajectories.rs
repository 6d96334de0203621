//! DDPO: whole trajectories of the sampler, whose steps are learned from in any order.

use std::ops::Range;

use crate::loss::{host_errors, squared_errors};
use crate::online::stochastic::ddpo;
use crate::optimizer::GradMap;
use craft_core::select::group_advantages;
use craft_nn::weights::TensorMap;

use super::shelf::{rows, stacked};
use super::{Online, like};
use crate::error::Result;
use crate::networks::Networks;
use crate::pass::Rows;
use crate::set::Text;

/// Pictures of a prompt that are compared with each other.
const GROUP: usize = 4;
/// How far the ratio counts on either side of 1.
const CLIP: f64 = 1e-4;
/// Advantages count up to this size.
const ADVANTAGE_LIMIT: f64 = 5.0;

/// A picture's way from noise.
struct Trajectory {
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

impl Trajectory {
    /// The step of the sampler that a phase of the iteration learns from.
    fn at(&self, phase: usize) -> usize {
        self.order[phase % self.order.len()]
    }
}

/// The trajectories of an iteration.
pub(super) struct Trajectories(Vec<Trajectory>);

/// Prompts of an iteration.
fn groups(online: &Online<'_>) -> usize {
    (online.recipe.train.batch / GROUP).max(1)
}

/// Names of an iteration's batches on the shelf.
pub(super) fn part_names(online: &Online<'_>) -> impl Iterator<Item = String> + use<> {
    let (n, batch) = (groups(online) * GROUP, online.options.batch.max(1));
    (0..n).step_by(batch).map(move |first| format!("{first}-{}", (first + batch).min(n)))
}

/// A batch as tensors.
fn put_down(part: &[Trajectory]) -> TensorMap {
    let states = part.iter().flat_map(|path| path.states.iter().map(Vec::as_slice));
    let before = part.iter().map(|path| path.before.as_slice());
    TensorMap::from([
        ("states".to_owned(), stacked(states)),
        ("before".to_owned(), stacked(before)),
    ])
}

/// Takes a batch up as it was put down; `false` where it is another.
fn take_up(part: &mut [Trajectory], saved: &TensorMap, steps: usize, size: usize) -> bool {
    let states = rows(saved, "states", [part.len() * (steps + 1), size]);
    let before = rows(saved, "before", [part.len(), steps]);
    let (Some(states), Some(before)) = (states, before) else { return false };
    for ((path, states), before) in part.iter_mut().zip(states.chunks(steps + 1)).zip(before) {
        path.states = states.to_vec();
        path.before = before;
    }
    true
}

impl Trajectories {
    /// Draws and scores the pictures of an iteration with the weights of now.
    pub(super) fn draw(online: &Online<'_>, iteration: usize, networks: &Networks) -> Result<Self> {
        let size = online.frame.size();
        let steps = &online.steps;
        let key = online.key();
        let prompts = online.prompts(iteration, groups(online));
        let places: Vec<usize> = prompts.into_iter().flat_map(|p| [p; GROUP]).collect();
        let mut streams: Vec<_> = (0..places.len())
            .map(|i| key.clone().stage("rollout").step(iteration as u64).sample(i as u64).stream())
            .collect();
        let mut paths: Vec<Trajectory> = places
            .iter()
            .zip(&mut streams)
            .map(|(&prompt, stream)| {
                let mut order: Vec<usize> =
                    (0..steps.len()).filter(|i| steps[*i].std > 0.0).collect();
                stream.shuffle(&mut order);
                let first = stream.standard_normals(size);
                let (states, before) = (vec![first], Vec::new());
                Trajectory { prompt, states, before, advantage: 0.0, order }
            })
            .collect();
        let batch = online.options.batch.max(1);
        for ((part, streams), name) in
            paths.chunks_mut(batch).zip(streams.chunks_mut(batch)).zip(part_names(online))
        {
            let saved = online.shelf.read(iteration, &name);
            if saved.is_some_and(|saved| take_up(part, &saved, steps.len(), size)) {
                continue;
            }
            for (i, step) in steps.iter().enumerate() {
                online.check()?;
                let latents: Vec<&[f32]> = part.iter().map(|p| p.states[i].as_slice()).collect();
                let texts: Vec<&Text> = part.iter().map(|p| online.text(p.prompt)).collect();
                let output = online.predict(networks, &latents, step.timestep, &texts);
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
            online.shelf.keep(iteration, &name, &put_down(part))?;
        }
        let mut drawn = Self(paths);
        drawn.score(online)?;
        Ok(drawn)
    }

    fn score(&mut self, online: &Online<'_>) -> Result<()> {
        let latents = self.0.iter().filter_map(|p| p.states.last().cloned()).collect();
        let prompts: Vec<usize> = self.0.iter().map(|p| p.prompt).collect();
        let totals = online.totals(latents, &prompts)?;
        for (paths, totals) in self.0.chunks_mut(GROUP).zip(totals.chunks(GROUP)) {
            let whole = totals.iter().all(|t| t.is_finite());
            let found =
                if whole { group_advantages(totals).unwrap_or_default() } else { Vec::new() };
            for (path, advantage) in paths.iter_mut().zip(found) {
                path.advantage = advantage.clamp(-ADVANTAGE_LIMIT, ADVANTAGE_LIMIT) as f32;
            }
        }
        Ok(())
    }

    /// Pictures that were scored; as many rows does every training step learn from.
    pub(super) fn images(&self) -> usize {
        self.0.len()
    }

    /// Adds the gradients of `range` of the rows of the iteration's `phase`-th training step.
    pub(super) fn accumulate(
        &self,
        online: &Online<'_>,
        phase: usize,
        range: Range<usize>,
        networks: &Networks,
        grads: &mut GradMap,
    ) -> f64 {
        let (paths, steps) = (&self.0[range], &online.steps);
        let latents: Vec<f32> =
            paths.iter().flat_map(|p| p.states[p.at(phase)].iter().copied()).collect();
        let times: Vec<f32> = paths.iter().map(|p| steps[p.at(phase)].timestep as f32).collect();
        let texts: Vec<&Text> = paths.iter().map(|p| online.text(p.prompt)).collect();
        let guidance = online.guidance();
        let rows = Rows { latents: &latents, times: &times, texts: &texts, guidance };
        let targets: Vec<f32> = paths
            .iter()
            .flat_map(|p| {
                let at = p.at(phase);
                steps[at].target(&p.states[at], &p.states[at + 1])
            })
            .collect();
        let before: Vec<f32> = paths.iter().map(|p| p.before[p.at(phase)]).collect();
        let scales: Vec<f32> = paths.iter().map(|p| steps[p.at(phase)].scale() as f32).collect();
        let advantages: Vec<f32> = paths.iter().map(|p| p.advantage).collect();
        let loss = |output| {
            let targets = like(&output, targets);
            let errors = squared_errors(output, targets);
            ddpo(errors, &before, &scales, &advantages, CLIP, self.0.len())
        };
        let recompute = online.recipe.train.gradient_checkpointing;
        online.frame.backward(networks, &rows, recompute, loss, grads)
    }
}
