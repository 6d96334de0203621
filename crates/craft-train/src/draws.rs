//! What a training step draws: which samples, and for each its timestep, its noise and its text. Every method and both
//! arms of a run see the same draws.

use craft_core::Key;
use craft_core::recipe::{Conditioning, TrainSection};

/// Which of a sample's texts the denoiser reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// No text: unconditional dropout.
    Empty,
    /// The plain prompt.
    Original,
    /// The expansion that it was drawn from.
    Expanded,
}

/// What one place of a step's batch draws.
#[derive(Clone, Debug)]
pub struct Draw {
    /// Its timestep.
    pub timestep: usize,
    /// Which text.
    pub reads: Reads,
    /// Standard normal values, as many as a picture's latents.
    pub noise: Vec<f32>,
}

/// The draws of a training by its seed.
#[derive(Clone, Debug)]
pub struct Draws {
    key: Key,
}

impl Draws {
    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self { key: Key::new(seed).stage("train") }
    }

    /// Which of `n` samples each place of a step takes.
    pub fn picks(&self, step: usize, batch: usize, n: usize) -> Vec<usize> {
        picks(&self.key, step, batch, n)
    }

    /// What place `i` of a step draws, for latents of `size` values.
    pub fn sample(
        &self,
        section: &TrainSection,
        levels: usize,
        (step, i): (usize, usize),
        size: usize,
    ) -> Draw {
        let last = levels;
        let (low, high) = (section.timestep_min, section.timestep_max.unwrap_or(last).min(last));
        let key = self.key.clone().stage("draw").step(step as u64).sample(i as u64);
        let mut stream = key.stream();
        let timestep = low + stream.index(high.saturating_sub(low).max(1));
        let dropped = stream.chance(section.unconditional_dropout);
        let expanded = match section.conditioning {
            Conditioning::Original => false,
            Conditioning::Expanded => true,
            Conditioning::Mixed => stream.chance(0.5),
        };
        let reads = match (dropped, expanded) {
            (true, _) => Reads::Empty,
            (false, true) => Reads::Expanded,
            (false, false) => Reads::Original,
        };
        Draw { timestep, reads, noise: stream.standard_normals(size) }
    }
}

/// Which of `n` things each place of a step takes: epochs over all of them, each in an order of its own.
pub fn picks(key: &Key, step: usize, batch: usize, n: usize) -> Vec<usize> {
    let mut epoch = usize::MAX;
    let mut order: Vec<usize> = Vec::new();
    (step * batch..(step + 1) * batch)
        .map(|draw| {
            if draw / n != epoch {
                epoch = draw / n;
                order = (0..n).collect();
                key.clone().step(epoch as u64).stream().shuffle(&mut order);
            }
            order[draw % n]
        })
        .collect()
}
