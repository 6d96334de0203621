//! The networks that a training changes, what it changes of them, and the files that hold it.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use craft_core::Key;
use craft_core::recipe::{LoraInit, LoraSection, Precision, Recipe, TrainMode};
use craft_diffusion::optimizer::AdamW;
use craft_model::Denoiser;
use craft_nn::clip::ClipTextModel;
use craft_nn::lora::{self, Adapter, Component, KohyaNames, Pairs, Targets};
use craft_nn::weights::{self, TensorMap};

use crate::error::{PipelineError, Result};
use craft_core::Progress;
use craft_model::model::Model;

/// Parameter names and shapes of a network.
pub(crate) use craft_model::lora::Shapes;

/// Networks on a device with automatic differentiation. Names of parameters begin with the
/// component's folder, such as `unet.`.
#[derive(Module, Debug)]
pub(crate) struct Networks {
    pub(crate) unet: Denoiser,
    /// Where it is trained too.
    pub(crate) text_encoder: Option<ClipTextModel>,
    /// The same of SDXL's second.
    pub(crate) text_encoder_2: Option<ClipTextModel>,
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
    /// Tensors by the names of the file that holds them: a denoiser's, or kohya's with diffusers' names of
    /// modules.
    pub(crate) fn into_tensors(self) -> TensorMap {
        match self {
            Self::Full(tensors) => tensors,
            Self::Lora(adapter) => adapter.to_kohya(&KohyaNames::default()),
        }
    }
}

/// New factors as a section asks for them, for the components of a model ([`craft_model::lora::parts`]). Text
/// encoders get some where the section wants it.
///
/// # Errors
/// When a target is no module, or the rank is larger than a layer.
pub(crate) fn fresh_factors(
    section: &LoraSection,
    seed: u64,
    parts: &[(Component, Shapes)],
) -> Result<Adapter> {
    let mut adapter = Adapter::default();
    for (component, shapes) in parts {
        let component = *component;
        let Some(targets) = targets(section, component) else { continue };
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
        let pairs = targets
            .fresh(&network, shapes, section.rank, scale, &mut draw)
            .map_err(|error| PipelineError::Usage(format!("train.lora: {error}")))?;
        adapter.components.insert(component, pairs);
    }
    Ok(adapter)
}

/// Says which programs leave out modules that a recipe gives factors to.
///
/// # Errors
/// As [`fresh_factors`].
pub(crate) fn say_unplaced(
    section: &LoraSection,
    parts: &[(Component, Shapes)],
    progress: &dyn Progress,
) -> Result<()> {
    let mut chosen: Vec<(Component, String)> = Vec::new();
    for (component, shapes) in parts {
        let Some(targets) = targets(section, *component) else { continue };
        let names = targets
            .choose(component.folder(), shapes, section.rank)
            .map_err(|error| PipelineError::Usage(format!("train.lora: {error}")))?;
        chosen.extend(names.into_iter().map(|name| (*component, name)));
    }
    for lacking in lora::unplaced(chosen.iter().map(|(component, name)| (*component, &**name))) {
        progress.note(&format!(
            "warning: {} has no place for {} in a LoRA and will leave them out; ComfyUI and diffusers read all: choose train.lora.targets without them if that matters",
            lacking.program,
            lacking.modules.join(", ")
        ));
    }
    Ok(())
}

/// What gets factors of a component; `None` where it gets none.
fn targets(section: &LoraSection, component: Component) -> Option<Targets> {
    match component {
        Component::Unet => Some(Targets::new(&section.targets)),
        _ => section.text_encoders.then(|| Targets::new(&section.text_encoder_targets)),
    }
}

impl Networks {
    /// The networks of a model; the rest of it is let go.
    pub(crate) fn of(model: Model) -> Self {
        Self {
            unet: model.denoiser,
            text_encoder: Some(model.text),
            text_encoder_2: model.second.map(|second| second.text),
        }
    }

    /// The networks that a recipe trains, from those of the base model, or from what a checkpoint
    /// holds.
    ///
    /// # Errors
    /// See [`fresh_factors`]; when the checkpoint does not fit the networks.
    pub(crate) fn start(
        recipe: &Recipe,
        base: Self,
        saved: Option<(&Path, TensorMap)>,
        optimizer: &mut AdamW,
    ) -> Result<Self> {
        let train = &recipe.train;
        let narrow = train.precision == Precision::Bf16;
        if train.mode == TrainMode::Full {
            let unet = match saved {
                Some((path, tensors)) => weights::load(base.unet, tensors).map_err(|source| {
                    craft_model::ModelError::Weights { path: path.to_owned(), source }
                })?,
                None => base.unet,
            };
            let networks = Self { unet: unet.train(), text_encoder: None, text_encoder_2: None };
            return Ok(if narrow { optimizer.to_bf16(networks) } else { networks });
        }
        let parts = base.parts();
        let adapter = match saved {
            Some((path, tensors)) => {
                Adapter::from_tensors(tensors, &BTreeMap::new(), &parts).map_err(|error| {
                    PipelineError::Input { path: path.to_owned(), message: error.to_string() }
                })?
            }
            None => fresh_factors(&train.lora, recipe.seed, &parts)?,
        };
        let none = Pairs::new();
        let pairs = |component| adapter.components.get(&component).unwrap_or(&none);
        let unet = if narrow { weights::to_bf16(base.unet) } else { base.unet };
        let encoder = |encoder: Option<ClipTextModel>, component| {
            let encoder = encoder.filter(|_| train.lora.text_encoders)?;
            Some(lora::attach(encoder.train(), pairs(component)))
        };
        Ok(Self {
            unet: lora::attach(unet.train(), pairs(Component::Unet)),
            text_encoder: encoder(base.text_encoder, Component::TextEncoder),
            text_encoder_2: encoder(base.text_encoder_2, Component::TextEncoder2),
        })
    }

    /// The components with the shapes of their parameters.
    fn parts(&self) -> Vec<(Component, Shapes)> {
        let mut parts = vec![(Component::Unet, weights::shapes(&self.unet))];
        let encoders = [
            (Component::TextEncoder, &self.text_encoder),
            (Component::TextEncoder2, &self.text_encoder_2),
        ];
        for (component, encoder) in encoders {
            parts.extend(encoder.as_ref().map(|encoder| (component, weights::shapes(encoder))));
        }
        parts
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
            for component in [Component::Unet, Component::TextEncoder, Component::TextEncoder2] {
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
