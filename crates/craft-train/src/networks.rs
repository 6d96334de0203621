//! The networks that a training changes, what it changes of them, and the files that hold it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::optimizer::AdamW;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use craft_core::recipe::{LoraInit, LoraSection, Precision, Recipe, TrainMode};
use craft_core::{Key, Progress};
use craft_model::{Denoiser, Model, ModelError};
use craft_nn::clip::ClipTextModel;
use craft_nn::lora::{self, Adapter, Component, KohyaNames, Pairs, Targets};
use craft_nn::weights::{self, ParamMapper, TensorMap};

use crate::error::{Result, TrainError};

/// Parameter names and shapes of a network.
pub use craft_model::lora::Shapes;

/// Networks on a device with automatic differentiation. Names of parameters begin with the
/// component's folder, such as `unet.`.
#[derive(Module, Debug)]
pub struct Networks {
    /// The denoiser.
    pub unet: Denoiser,
    /// The text encoder, where it is trained too.
    pub text_encoder: Option<ClipTextModel>,
    /// The same of SDXL's second.
    pub text_encoder_2: Option<ClipTextModel>,
}

struct Put<'a>(&'a BTreeMap<String, Vec<f32>>);

impl ParamMapper for Put<'_> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.get(name) {
            Some(values) => weights::replace(param, values.clone()),
            None => param,
        }
    }
}

/// A network with the average that an optimizer keeps in the place of its weights; as it is, where there is none.
pub fn averaged<M: Module>(module: M, optimizer: &AdamW) -> M {
    match optimizer.ema() {
        Some(averages) => weights::map(module, &mut Put(averages)),
        None => module,
    }
}

/// What a training made.
#[derive(Debug)]
pub enum Trained {
    /// The denoiser's parameters.
    Full(TensorMap),
    /// Factors beside the base model's parameters.
    Lora(Adapter),
}

impl Trained {
    /// Tensors by the names of the file that holds them: a denoiser's, or kohya's with diffusers' names of
    /// modules.
    pub fn into_tensors(self) -> TensorMap {
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
pub fn fresh_factors(
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
            .map_err(|error| TrainError::Usage(format!("train.lora: {error}")))?;
        adapter.components.insert(component, pairs);
    }
    Ok(adapter)
}

/// Says which programs leave out modules that a recipe gives factors to.
///
/// # Errors
/// As [`fresh_factors`].
pub fn say_unplaced(
    section: &LoraSection,
    parts: &[(Component, Shapes)],
    progress: &dyn Progress,
) -> Result<()> {
    let mut chosen: Vec<(Component, String)> = Vec::new();
    for (component, shapes) in parts {
        let Some(targets) = targets(section, *component) else { continue };
        let names = targets
            .choose(component.folder(), shapes, section.rank)
            .map_err(|error| TrainError::Usage(format!("train.lora: {error}")))?;
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
    pub fn of(model: Model) -> Self {
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
    pub fn start(
        recipe: &Recipe,
        base: Self,
        saved: Option<(&Path, TensorMap)>,
        optimizer: &mut AdamW,
    ) -> Result<Self> {
        let train = &recipe.train;
        let narrow = train.precision == Precision::Bf16;
        if train.mode == TrainMode::Full {
            let unet = match saved {
                Some((path, tensors)) => weights::load(base.unet, tensors)
                    .map_err(|source| ModelError::Weights { path: path.to_owned(), source })?,
                None => base.unet,
            };
            let networks = Self { unet: unet.train(), text_encoder: None, text_encoder_2: None };
            return Ok(if narrow { optimizer.to_bf16(networks) } else { networks });
        }
        let parts = base.parts();
        let adapter = match saved {
            Some((path, tensors)) => {
                Adapter::from_tensors(tensors, &BTreeMap::new(), &parts).map_err(|error| {
                    ModelError::Input { path: path.to_owned(), message: error.to_string() }
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

    /// A model that draws as these networks stand, or with the average that the optimizer keeps. It shares the weights.
    pub fn model(&self, base: &Model, optimizer: &AdamW) -> Model {
        let networks = averaged(self.clone(), optimizer).valid();
        let mut model = Model { denoiser: networks.unet, ..base.clone() };
        if let Some(text) = networks.text_encoder {
            model.text = text;
        }
        if let (Some(own), Some(text)) = (&mut model.second, networks.text_encoder_2) {
            own.text = text;
        }
        model
    }

    /// What training has made so far: the parameters as they are, or their average.
    pub fn trained(&self, recipe: &Recipe, optimizer: &AdamW, average: bool) -> Trained {
        let mut tensors = match recipe.train.mode {
            TrainMode::Full => optimizer.export(self),
            // The base model's weights are frozen: their shapes do.
            TrainMode::Lora => weights::export_some(self, lora::is_factor),
        };
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
