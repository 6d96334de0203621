//! Noise of `craft sample`: drawn, or of a file.

use std::path::Path;

use craft_core::TorchRng;
use craft_core::rng::Key;
use craft_model::sample::StepNoise;
use craft_store::tensors::TensorReader;

use crate::cli::{Rng, SampleArgs};
use crate::exit::input;

/// Noise that is drawn.
pub(super) enum Source {
    /// From a key of each picture's own.
    Keys { key: Key, size: usize },
    /// Tensors of `size` normals per picture, drawn by PyTorch's generator: the initial one, then one
    /// per step.
    Torch { tensors: Vec<Vec<f32>>, size: usize, initial: bool },
}

impl Source {
    pub(super) fn new(
        args: &SampleArgs,
        noisy_calls: usize,
        [count, size]: [usize; 2],
        initial: bool,
    ) -> Self {
        match args.rng {
            Rng::Craft => Self::Keys { key: Key::new(args.seed).stage("sample"), size },
            Rng::Torch => {
                let mut rng = TorchRng::new(args.seed);
                let n = usize::from(initial) + noisy_calls;
                let tensors = (0..n).map(|_| rng.randn(count * size)).collect();
                Self::Torch { tensors, size, initial }
            }
        }
    }

    pub(super) fn initial(&self, i: usize) -> Vec<f32> {
        match self {
            Self::Keys { key, size } => key.clone().sample(i as u64).standard_normals(*size),
            Self::Torch { tensors, size, .. } => tensors[0][i * size..(i + 1) * size].to_vec(),
        }
    }

    pub(super) fn steps(&self, i: usize) -> StepNoise {
        match self {
            Self::Keys { key, .. } => StepNoise::Key(key.clone().sample(i as u64)),
            Self::Torch { tensors, size, initial } => {
                let steps = tensors[usize::from(*initial)..].iter();
                StepNoise::Given(steps.map(|t| t[i * size..(i + 1) * size].to_vec()).collect())
            }
        }
    }
}

/// Initial noise of a file.
pub(super) struct Noise {
    pub(super) shape: [usize; 4],
    data: Vec<f32>,
}

impl Noise {
    /// The noise of picture `i`; of the only one, if there is one.
    pub(super) fn picture(&self, i: usize) -> Vec<f32> {
        let size = self.data.len() / self.shape[0];
        let i = i.min(self.shape[0] - 1);
        self.data[i * size..(i + 1) * size].to_vec()
    }
}

pub(super) fn read(path: &Path) -> anyhow::Result<Noise> {
    let tensor = TensorReader::open(path)?.read("latents")?;
    let about = |found: String| {
        input(format!(
            "{}: tensor `latents` {found}; expected unit normals of shape [B, 4, h, w]",
            path.display()
        ))
    };
    let Ok(shape) = <[usize; 4]>::try_from(tensor.shape.clone()) else {
        return Err(about(format!("has shape {:?}", tensor.shape)));
    };
    if tensor.data.is_empty() {
        return Err(about(format!("has shape {shape:?}, no values")));
    }
    if let Some(value) = tensor.data.iter().find(|v| !v.is_finite()) {
        return Err(about(format!("holds {value}")));
    }
    Ok(Noise { shape, data: tensor.data })
}
