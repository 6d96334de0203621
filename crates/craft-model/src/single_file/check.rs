//! What can be wrong with a single file, found before anything is written to the cache.

use std::collections::BTreeMap;

use burn::tensor::Device;
use craft_core::schedule::NoiseSchedule;
use craft_nn::bounds::Bounds;
use craft_nn::clip::{ClipTextConfig, ClipTextModel};
use craft_nn::config::ConfigError;
use craft_nn::init::Init;
use craft_nn::ldm::{Checkpoint, Part};
use craft_nn::vae::{AutoencoderKL, VaeConfig};
use craft_nn::weights::{self, WeightError};
use serde_json::Value;

use super::import::Tokenizers;
use super::shape_in_diffusers;
use crate::component::{self, Config};
use crate::fitting::Parts;
use crate::sd;

type Shapes = BTreeMap<String, Vec<usize>>;
type Checked<T> = Result<T, String>;

/// Compares the networks that the configs describe with the tensors of the file and with each other.
///
/// # Errors
/// What is wrong, with the names that the file has.
pub(super) fn networks(found: &Checkpoint, shapes: &Shapes) -> Checked<()> {
    let mut have: BTreeMap<Part, Shapes> = BTreeMap::new();
    for (source, pieces) in &found.pieces {
        for piece in pieces {
            let shape = shape_in_diffusers(piece.take, &shapes[source]);
            have.entry(piece.part).or_default().insert(piece.name.clone(), shape);
        }
    }
    let mut of = |part| have.remove(&part).unwrap_or_default();
    let device = &Device::flex();
    let init = || Init::zeros(device);
    let configs = &found.configs;

    let tensors = of(Part::Unet);
    let unet: sd::Config = read(Part::Unet, &configs.unet, &tensors)?;
    let net = weights::shapes(&sd::UNet::new(&mut init(), &unet));
    same(found, Part::Unet, &net, &tensors)?;

    let tensors = of(Part::Vae);
    let vae: VaeConfig = read(Part::Vae, &configs.vae, &tensors)?;
    let net = weights::shapes(&AutoencoderKL::new(&mut init(), &vae));
    same(found, Part::Vae, &net, &tensors)?;

    let mut text = |part, config: &Value| -> Checked<(ClipTextConfig, usize)> {
        let tensors = of(part);
        let config: ClipTextConfig = read(part, config, &tensors)?;
        let projects = tensors.contains_key("text_projection.weight");
        let net = weights::shapes(&ClipTextModel::new(&mut init(), &config, projects));
        same(found, part, &net, &tensors)?;
        let pooled = if projects { config.projection_dim } else { config.hidden_size };
        Ok((config, pooled))
    };
    let (first, _) = text(Part::Text, &configs.text)?;
    let second = match &configs.text_2 {
        Some(config) => Some(text(Part::Text2, config)?),
        None => None,
    };
    let second = second.as_ref().map(|(config, pooled)| (config, *pooled));
    Parts { unet: &unet, vae: &vae, text: &first, second }
        .check()
        .map_err(|(part, message)| format!("{part}/config.json: {message}"))?;
    NoiseSchedule::from_json(&configs.scheduler.to_string())
        .map(drop)
        .map_err(|error| format!("scheduler/scheduler_config.json: {error}"))
}

/// A config that the file's tensors can have.
fn read<C: Config>(part: Part, config: &Value, tensors: &Shapes) -> Checked<C> {
    let wrong = |error: ConfigError| format!("{}/config.json: {error}", part.folder());
    let config = C::parse(&config.to_string()).map_err(wrong)?;
    config.fits(&Bounds::of(tensors)).map_err(wrong)?;
    Ok(config)
}

fn same(found: &Checkpoint, part: Part, want: &Shapes, have: &Shapes) -> Checked<()> {
    weights::check(want, have).map_err(|error| in_file_names(found, part, error).to_string())
}

/// The same error with the names that the file has.
fn in_file_names(found: &Checkpoint, part: Part, error: WeightError) -> WeightError {
    let old = |name: String| found.names.to_ldm(part, &name).map_or(name, |(old, _)| old);
    let all = |names: Vec<String>| {
        let mut names: Vec<String> = names.into_iter().map(old).collect();
        names.dedup();
        names
    };
    match error {
        WeightError::Names { missing, unused } => {
            WeightError::Names { missing: all(missing), unused: all(unused) }
        }
        WeightError::Shape { name, found, expected } => {
            WeightError::Shape { name: old(name), found, expected }
        }
    }
}

/// Builds the tokenizers that are going to be copied, for their text encoders.
///
/// # Errors
/// What is wrong with one.
pub(super) fn tokenizers(found: &Checkpoint, files: &Tokenizers) -> Checked<()> {
    for (folder, files) in files {
        let config = match *folder {
            "tokenizer" => Some(&found.configs.text),
            _ => found.configs.text_2.as_ref(),
        };
        let Some(config) = config else { continue };
        let config = ClipTextConfig::from_json(&config.to_string())
            .map_err(|error| format!("the text encoder of {folder}/: {error}"))?;
        let read = |name: &str| {
            let bytes = files.iter().find(|(file, _)| file == name).map(|(_, bytes)| bytes.clone());
            bytes
                .map(String::from_utf8)
                .transpose()
                .map_err(|_| format!("{folder}/{name} is not UTF-8"))
        };
        component::tokenizer_of(read, &config)?.map_err(|error| format!("{folder}/: {error}"))?;
    }
    Ok(())
}
