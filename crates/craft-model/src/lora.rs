//! LoRA files merged into a loaded model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use craft_nn::lora::{self, Adapter, Component, Pairs};
use craft_nn::weights;

use crate::error::Result;
use crate::lora_files;
use crate::model::Model;

pub use crate::lora_files::hash;

/// Parameter names and shapes of a network.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Reads a LoRA, a file or the folder that a tool saved it in, for a model.
///
/// # Errors
/// When the file is torn or not finite, is no LoRA, or was made for another model; the message lists the
/// first keys that do not fit.
pub fn read(path: &Path, model: &Model) -> Result<Adapter> {
    lora_files::read(path, &parts(model))
}

/// The components of a model that LoRAs change, with the shapes of their parameters.
pub fn parts(model: &Model) -> Vec<(Component, Shapes)> {
    let mut parts = vec![
        (Component::Unet, weights::shapes(&model.denoiser)),
        (Component::TextEncoder, weights::shapes(&model.text)),
    ];
    if let Some(second) = &model.second {
        parts.push((Component::TextEncoder2, weights::shapes(&second.text)));
    }
    parts
}

/// Merges a LoRA file into a model, multiplied by `strength`. Returns how many parameters changed.
///
/// # Errors
/// As [`read`]; the model is then unchanged.
pub fn apply(model: &mut Model, path: &Path, strength: f32) -> Result<usize> {
    let adapter = read(path, model)?;
    merge(model, &adapter, strength);
    Ok(adapter.len())
}

/// Merges an adapter that fits the model into it, multiplied by `strength`.
pub fn merge(model: &mut Model, adapter: &Adapter, strength: f32) {
    let none = Pairs::new();
    let pairs = |component| adapter.components.get(&component).unwrap_or(&none);
    model.denoiser = lora::merge(model.denoiser.clone(), pairs(Component::Unet), strength);
    model.text = lora::merge(model.text.clone(), pairs(Component::TextEncoder), strength);
    if let Some(second) = &mut model.second {
        let pairs = pairs(Component::TextEncoder2);
        second.text = lora::merge(second.text.clone(), pairs, strength);
    }
}

/// File of the factors that a run trained, in its stage's folder and in kohya's keys.
pub const LORA_FILE: &str = "lora.safetensors";

/// File or folder and scale of `FILE` or `FILE:SCALE`; one whose name has a colon is taken as it is.
///
/// # Errors
/// When the scale is not between -100 and 100; the message says so without naming who asked.
pub fn parse(text: &str, base: &Path) -> std::result::Result<(PathBuf, f32), String> {
    let whole = base.join(text);
    let Some((file, scale)) = text.rsplit_once(':').filter(|_| !whole.exists()) else {
        return Ok((whole, 1.0));
    };
    match scale.parse::<f32>() {
        Ok(scale) if scale.is_finite() && scale.abs() <= 100.0 => Ok((base.join(file), scale)),
        Ok(scale) => Err(format!("the scale is {scale}; expected -100 to 100")),
        Err(_) => Ok((whole, 1.0)),
    }
}
