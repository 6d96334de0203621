//! Reading the tensors of a LoRA file.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::{self, Part};
use super::names::{Shapes, Table, Target};
use super::settings::Settings;
use super::{Adapter, Component, LoraError, Pair, kinds};
use crate::weights::{HostTensor, TensorMap};

#[derive(Default)]
struct Parts {
    down: Option<HostTensor>,
    mid: Option<HostTensor>,
    up: Option<HostTensor>,
    alpha: Option<f32>,
}

impl Adapter {
    /// Reads the tensors and header texts of a LoRA file for a model whose parameters have these
    /// names and shapes. Without any alpha in tensors or header the product is taken as it is.
    ///
    /// # Errors
    /// As [`Adapter::read`].
    pub fn from_tensors(
        tensors: TensorMap,
        metadata: &BTreeMap<String, String>,
        model: &[(Component, BTreeMap<String, Vec<usize>>)],
    ) -> Result<Self, LoraError> {
        Self::read(tensors, &Settings::of_header(metadata)?, model)
    }

    /// Reads the tensors of a LoRA file with its settings.
    ///
    /// # Errors
    /// When keys name no module of the model, are of another kind of adapter, lack their other
    /// half, or have shapes or settings that do not fit.
    pub fn read(
        tensors: TensorMap,
        settings: &Settings,
        model: &[(Component, BTreeMap<String, Vec<usize>>)],
    ) -> Result<Self, LoraError> {
        let allowed = model.iter().filter(|(component, _)| settings.allows(*component));
        let table = Table::new(allowed);
        if tensors.is_empty() {
            return Err(LoraError::Empty(table.example()));
        }
        let modules = modules(tensors, &table)?;
        let mut adapter = Self::default();
        for (module, parts) in modules {
            let (component, parameter) = target(&table, &module, &parts, settings, model)?;
            let pair = pair(&module, parts, shape(model, component, &parameter), |rank| {
                settings.scale(component, &parameter, rank)
            })?;
            adapter.components.entry(component).or_default().insert(parameter, pair);
        }
        Ok(adapter)
    }
}

/// Tensors by the module that they belong to.
fn modules(tensors: TensorMap, table: &Table) -> Result<BTreeMap<String, Parts>, LoraError> {
    let total = tensors.len();
    let flat = tensors.iter().all(|(name, t)| t.shape.len() <= 2 && !name.contains('.'));
    let (mut foreign, mut other) = (Vec::new(), Vec::new());
    let mut adapters = BTreeSet::new();
    let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
    for (name, tensor) in tensors {
        let Some(key) = keys::split(&name) else {
            other.push(name);
            continue;
        };
        adapters.extend(key.adapter);
        if table.find(&key.module).is_empty() {
            foreign.push(name);
            continue;
        }
        let parts = modules.entry(key.module).or_default();
        match key.part {
            Part::Down => parts.down = Some(tensor),
            Part::Mid => parts.mid = Some(tensor),
            Part::Up => parts.up = Some(tensor),
            Part::Alpha => parts.alpha = tensor.data.first().copied(),
        }
    }
    if !other.is_empty() {
        let whole = other.len() == total;
        return Err(kinds::refuse(other, whole, flat));
    }
    if adapters.len() > 1 {
        let names = adapters.into_iter().collect::<Vec<_>>().join(", ");
        return Err(LoraError::Several(names));
    }
    if !foreign.is_empty() {
        return Err(LoraError::Foreign { keys: foreign, total, example: table.example() });
    }
    Ok(modules)
}

/// The parameter that a module stands for. Names of a text encoder fit both of SDXL's, whose shapes
/// differ.
fn target(
    table: &Table,
    module: &str,
    parts: &Parts,
    settings: &Settings,
    model: &[(Component, Shapes)],
) -> Result<Target, LoraError> {
    let mut targets: Vec<&Target> = table.find(module).iter().collect();
    if targets.len() > 1 {
        let fits = |(component, name): &Target| match (&parts.down, &parts.up) {
            (Some(down), Some(up)) => fits(down, up, shape(model, *component, name)),
            _ => true,
        };
        if targets.iter().any(|target| fits(target)) {
            targets.retain(|target| fits(target));
        }
        if targets.iter().any(|target| settings.prefers(target.0)) {
            targets.retain(|target| settings.prefers(target.0));
        }
    }
    match targets[..] {
        [one] => Ok(one.clone()),
        _ => Err(LoraError::Ambiguous {
            module: module.to_owned(),
            candidates: targets
                .iter()
                .map(|(component, name)| format!("{}.{name}", component.folder()))
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

fn shape<'a>(model: &'a [(Component, Shapes)], component: Component, name: &str) -> &'a [usize] {
    let shapes = model.iter().find(|(c, _)| *c == component).map(|(_, shapes)| shapes);
    shapes.and_then(|s| s.get(name)).map_or(&[], Vec::as_slice)
}

/// Values of a slice of the first axis.
fn row(shape: &[usize]) -> usize {
    shape.iter().skip(1).product()
}

/// Whether a product of factors has the shape of a weight. A 1×1 convolution's factors come with
/// and without the two axes of size 1.
fn fits(down: &HostTensor, up: &HostTensor, weight: &[usize]) -> bool {
    let rank = down.shape.first().copied().unwrap_or(0);
    let sizes = rank > 0
        && weight.len() >= 2
        && row(&down.shape) == row(weight)
        && up.shape.first() == weight.first()
        && up.shape.get(1) == Some(&rank)
        && row(&up.shape) == rank;
    let axes = weight.len() == 2 || down.shape.len() == 2 || down.shape[1..] == weight[1..];
    sizes && axes && [down, up].iter().all(|t| t.data.len() == t.shape.iter().product::<usize>())
}

fn pair(
    module: &str,
    parts: Parts,
    weight: &[usize],
    default_scale: impl Fn(usize) -> Result<f32, LoraError>,
) -> Result<Pair, LoraError> {
    let half = |missing| LoraError::Half { module: module.to_owned(), missing };
    let mut down = parts.down.ok_or_else(|| half("lora_down (lora_A)"))?;
    let up = parts.up.ok_or_else(|| half("lora_up (lora_B)"))?;
    let wrong = |down: &HostTensor| LoraError::Shape {
        module: module.to_owned(),
        down: down.shape.clone(),
        up: up.shape.clone(),
        weight: weight.to_vec(),
    };
    // Alpha is measured by the rank of the file's own down, as LyCORIS does.
    let rank = down.shape.first().copied().unwrap_or(0);
    if let Some(mid) = parts.mid {
        down = with_core(&mid, &down).ok_or_else(|| wrong(&down))?;
    }
    if !fits(&down, &up, weight) {
        return Err(wrong(&down));
    }
    let scale = match parts.alpha {
        Some(alpha) => alpha / rank as f32,
        None => default_scale(rank)?,
    };
    Ok(Pair { down, up, scale })
}

/// LyCORIS' Tucker form of a convolution as a plain one: the core `[rank, rank, kh, kw]` times down
/// `[rank, in, 1, 1]` is a down of `[rank, in, kh, kw]`. `None` where shapes do not fit.
fn with_core(mid: &HostTensor, down: &HostTensor) -> Option<HostTensor> {
    let ([outer, inner, height, width], [rank, input, 1, 1] | [rank, input]) =
        (&mid.shape[..], &down.shape[..])
    else {
        return None;
    };
    let (outer, inner, height, width) = (*outer, *inner, *height, *width);
    let (rank, input) = (*rank, *input);
    let window = height * width;
    let whole = mid.data.len() == outer * inner * window && down.data.len() == rank * input;
    if inner != rank || !whole {
        return None;
    }
    let mut data = vec![0f32; outer * input * window];
    for o in 0..outer {
        for i in 0..input {
            for w in 0..window {
                let sum: f64 = (0..inner)
                    .map(|j| {
                        let core = mid.data[(o * inner + j) * window + w];
                        f64::from(core) * f64::from(down.data[j * input + i])
                    })
                    .sum();
                data[(o * input + i) * window + w] = sum as f32;
            }
        }
    }
    Some(HostTensor { shape: vec![outer, input, height, width], data })
}
