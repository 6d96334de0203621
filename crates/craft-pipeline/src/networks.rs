//! The networks that a training changes, what it changes of them, and the files that hold it.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use craft_core::Key;
use craft_core::recipe::{LoraInit, LoraSection, Precision, Recipe, TrainMode};
use craft_diffusion::optimizer::AdamW;
use craft_nn::clip::ClipTextModel;
use craft_nn::lora::{self, Adapter, Component, Pairs, Targets};
use craft_nn::unet::UNet2DConditionModel;
use craft_nn::weights::{self, TensorMap};

use crate::error::{PipelineError, Result};

/// Parameter names and shapes of a network.
pub(crate) type Shapes = BTreeMap<String, Vec<usize>>;

/// Networks on a device with automatic differentiation. Names of parameters begin with the
/// component's folder, `unet.` or `text_encoder.`.
#[derive(Module, Debug)]
pub(crate) struct Networks {
    pub(crate) unet: UNet2DConditionModel,
    /// Where it is trained too.
    pub(crate) text_encoder: Option<ClipTextModel>,
}

/// What a training made.
#[derive(Debug)]
pub(crate) enum Trained {
    /// The denoiser's parameters.
    Full(TensorMap),
    /// Factors beside the base model's parameters.
    Lora(Adapter),
}

impl Trained {
    /// Tensors by the names of the file that holds them: a denoiser's, or kohya's.
    pub(crate) fn into_tensors(self) -> TensorMap {
        match self {
            Self::Full(tensors) => tensors,
            Self::Lora(adapter) => adapter.to_kohya(),
        }
    }
}

/// New factors as a section asks for them. The text encoder gets some where the section wants it.
///
/// # Errors
/// When a target is no module, or the rank is larger than a layer.
pub(crate) fn fresh_factors(
    section: &LoraSection,
    seed: u64,
    unet: &Shapes,
    text: &Shapes,
) -> Result<Adapter> {
    let mut parts = vec![(Component::Unet, &section.targets, unet)];
    if section.text_encoders {
        parts.push((Component::TextEncoder, &section.text_encoder_targets, text));
    }
    let mut adapter = Adapter::default();
    for (component, targets, shapes) in parts {
        let mut draw = |parameter: &str, [rank, columns]: [usize; 2]| {
            let name = format!("{}.{parameter}", component.folder());
            let mut stream = Key::new(seed).stage("lora").prompt(name).stream();
            match section.init {
                LoraInit::Gaussian => {
                    let values = stream.standard_normals(rank * columns);
                    values.into_iter().map(|v| v / rank as f32).collect()
                }
                LoraInit::Kaiming => {
                    let bound = 1.0 / (columns as f64).sqrt();
                    let uniform = |_| stream.uniform_in(-bound, bound) as f32;
                    (0..rank * columns).map(uniform).collect()
                }
            }
        };
        let network = format!("the model's {}", component.folder());
        let scale = section.scale() as f32;
        let pairs = Targets::new(targets)
            .fresh(&network, shapes, section.rank, scale, &mut draw)
            .map_err(|error| PipelineError::Usage(format!("train.lora: {error}")))?;
        adapter.components.insert(component, pairs);
    }
    Ok(adapter)
}

impl Networks {
    /// The networks that a recipe trains, from the base model's or from a checkpoint.
    ///
    /// # Errors
    /// See [`fresh_factors`]; when the checkpoint does not fit the networks.
    pub(crate) fn start(
        recipe: &Recipe,
        unet: UNet2DConditionModel,
        text: ClipTextModel,
        saved: Option<(&Path, TensorMap)>,
        optimizer: &mut AdamW,
    ) -> Result<Self> {
        let train = &recipe.train;
        let narrow = train.precision == Precision::Bf16;
        if train.mode == TrainMode::Full {
            let unet = match saved {
                Some((path, tensors)) => weights::load(unet, tensors)
                    .map_err(|source| PipelineError::Weights { path: path.to_owned(), source })?,
                None => unet,
            };
            let networks = Self { unet: unet.train(), text_encoder: None };
            return Ok(if narrow { optimizer.to_bf16(networks) } else { networks });
        }
        let (unet_shapes, text_shapes) = (weights::shapes(&unet), weights::shapes(&text));
        let adapter = match saved {
            Some((path, tensors)) => {
                let parts = [(Component::Unet, unet_shapes), (Component::TextEncoder, text_shapes)];
                Adapter::from_tensors(tensors, &BTreeMap::new(), &parts).map_err(|error| {
                    PipelineError::Input { path: path.to_owned(), message: error.to_string() }
                })?
            }
            None => fresh_factors(&train.lora, recipe.seed, &unet_shapes, &text_shapes)?,
        };
        let none = Pairs::new();
        let pairs = |component| adapter.components.get(&component).unwrap_or(&none);
        let unet = if narrow { weights::to_bf16(unet) } else { unet };
        let text_encoder = train
            .lora
            .text_encoders
            .then(|| lora::attach(text.train(), pairs(Component::TextEncoder)));
        Ok(Self { unet: lora::attach(unet.train(), pairs(Component::Unet)), text_encoder })
    }

    /// What training has made so far: the parameters as they are, or their average.
    pub(crate) fn trained(&self, recipe: &Recipe, optimizer: &AdamW, average: bool) -> Trained {
        let mut tensors = optimizer.export(self);
        if average {
            for (name, values) in optimizer.ema().into_iter().flatten() {
                if let Some(tensor) = tensors.get_mut(name) {
                    tensor.data.clone_from(values);
                }
            }
        }
        let mut parts: BTreeMap<Component, TensorMap> = BTreeMap::new();
        for (name, tensor) in tensors {
            for component in [Component::Unet, Component::TextEncoder] {
                let prefix = format!("{}.", component.folder());
                if let Some(rest) = name.strip_prefix(&prefix) {
                    parts.entry(component).or_default().insert(rest.to_owned(), tensor);
                    break;
                }
            }
        }
        match recipe.train.mode {
            TrainMode::Full => Trained::Full(parts.remove(&Component::Unet).unwrap_or_default()),
            TrainMode::Lora => {
                let scale = recipe.train.lora.scale() as f32;
                let components = parts
                    .into_iter()
                    .map(|(component, tensors)| (component, lora::pairs(&tensors, scale)))
                    .collect();
                Trained::Lora(Adapter { components })
            }
        }
    }
}
