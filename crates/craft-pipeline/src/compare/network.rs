//! The denoiser that a method trains: all of it, or low-rank factors beside the base model's weights.
//!
//! With factors the base model is in memory once: it is the frozen reference, the network under the factors,
//! and what draws for the judges.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use craft_core::Recipe;
use craft_core::recipe::TrainMode;
use craft_diffusion::optimizer::AdamW;
use craft_model::Denoiser;
use craft_nn::lora::{self, Adapter, Component, KohyaNames, Pairs};
use craft_nn::weights::{self, TensorMap};

use crate::error::{PipelineError, Result};
use crate::networks::fresh_factors;
use craft_model::lora::LORA_FILE;
use craft_model::model::{DIFFUSION_WEIGHTS, Model};

/// The file of what a method trained.
pub(super) fn file(recipe: &Recipe) -> &'static str {
    match recipe.train.mode {
        TrainMode::Full => DIFFUSION_WEIGHTS,
        TrainMode::Lora => LORA_FILE,
    }
}

/// The denoiser of `model`, ready to be trained, as it was saved ([`tensors`] in a file) or anew.
///
/// # Errors
/// When the saved tensors or the recipe's factors do not fit the model.
pub(super) fn start(
    recipe: &Recipe,
    model: &Model,
    saved: Option<(&Path, TensorMap)>,
) -> Result<Denoiser> {
    let unet = model.denoiser.clone();
    if recipe.train.mode == TrainMode::Full {
        let unet = match saved {
            Some((path, tensors)) => weights::load(unet, tensors).map_err(|source| {
                craft_model::ModelError::Weights { path: path.to_owned(), source }
            })?,
            None => unet,
        };
        return Ok(unet.train());
    }
    let parts = [(Component::Unet, weights::shapes(&unet))];
    let adapter = match saved {
        Some((path, tensors)) => {
            Adapter::from_tensors(tensors, &BTreeMap::new(), &parts).map_err(|error| {
                PipelineError::Input { path: path.to_owned(), message: error.to_string() }
            })?
        }
        None => fresh_factors(&recipe.train.lora, recipe.seed, &parts)?,
    };
    let none = Pairs::new();
    let pairs = adapter.components.get(&Component::Unet).unwrap_or(&none);
    Ok(lora::attach(unet.train(), pairs))
}

/// What is trained, under the names of the file that holds it: a denoiser's, or kohya's.
pub(super) fn tensors(recipe: &Recipe, unet: &Denoiser) -> TensorMap {
    named(recipe, weights::export(unet))
}

fn named(recipe: &Recipe, tensors: TensorMap) -> TensorMap {
    match recipe.train.mode {
        TrainMode::Full => tensors,
        TrainMode::Lora => {
            let pairs = lora::pairs(&tensors, recipe.train.lora.scale() as f32);
            let names = KohyaNames::of(&tensors);
            Adapter { components: BTreeMap::from([(Component::Unet, pairs)]) }.to_kohya(&names)
        }
    }
}

/// The denoiser as it stands, or as the average that the optimizer keeps, for drawing. It shares the weights
/// of the one that is trained.
///
/// # Errors
/// See [`start`].
pub(super) fn snapshot(
    recipe: &Recipe,
    model: &Model,
    unet: &Denoiser,
    adam: &AdamW,
) -> Result<Denoiser> {
    let Some(averages) = adam.ema() else { return Ok(unet.valid()) };
    let mut tensors = weights::export(unet);
    for (name, average) in averages {
        if let Some(tensor) = tensors.get_mut(name) {
            tensor.data.clone_from(average);
        }
    }
    let path = Path::new("the average of the weights");
    Ok(start(recipe, model, Some((path, named(recipe, tensors))))?.valid())
}
