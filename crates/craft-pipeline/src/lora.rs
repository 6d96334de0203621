//! LoRA files merged into a loaded model.

use std::path::Path;

use craft_nn::lora::{self, Adapter, Component, Pairs};
use craft_nn::weights::{self, HostTensor};
use craft_store::tensors::{self, TensorReader};

use crate::error::{PipelineError, Result};
use crate::model::Model;

/// Reads a LoRA file for a model.
///
/// # Errors
/// When the file is torn or not finite, or was made for another model; the message lists the first
/// keys that do not fit.
pub fn read(path: &Path, model: &Model) -> Result<Adapter> {
    let header = TensorReader::open(path)?.metadata();
    let tensors = tensors::read_finite(path)?
        .into_iter()
        .map(|(name, t)| (name, HostTensor { shape: t.shape, data: t.data }))
        .collect();
    let mut parts = vec![
        (Component::Unet, weights::shapes(&model.unet)),
        (Component::TextEncoder, weights::shapes(&model.text)),
    ];
    if let Some(second) = &model.second {
        parts.push((Component::TextEncoder2, weights::shapes(&second.text)));
    }
    Adapter::from_tensors(tensors, &header, &parts)
        .map_err(|error| PipelineError::Input { path: path.to_owned(), message: error.to_string() })
}

/// Merges a LoRA file into a model, multiplied by `strength`. Returns how many parameters changed.
///
/// # Errors
/// As [`read`]; the model is then unchanged.
pub fn apply(model: &mut Model, path: &Path, strength: f32) -> Result<usize> {
    let adapter = read(path, model)?;
    let none = Pairs::new();
    let pairs = |component| adapter.components.get(&component).unwrap_or(&none);
    model.unet = lora::merge(model.unet.clone(), pairs(Component::Unet), strength);
    model.text = lora::merge(model.text.clone(), pairs(Component::TextEncoder), strength);
    if let Some(second) = &mut model.second {
        let pairs = pairs(Component::TextEncoder2);
        second.text = lora::merge(second.text.clone(), pairs, strength);
    }
    Ok(adapter.len())
}
