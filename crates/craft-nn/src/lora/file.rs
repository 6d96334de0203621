//! Reading the tensors of a LoRA file.

use std::collections::BTreeMap;

use serde_json::Value;

use super::names::{Shapes, Table, Target};
use super::{Adapter, Component, LoraError, Pair};
use crate::weights::{HostTensor, TensorMap};

/// Parts of an adapted module.
#[derive(Clone, Copy)]
enum Part {
    Down,
    Up,
    Alpha,
}

/// Endings of keys.
const ENDINGS: [(&str, Part); 11] = [
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    ("_lora.down.weight", Part::Down),
    ("_lora.up.weight", Part::Up),
    (".alpha", Part::Alpha),
];

/// The module and the part that a key names; `None` for keys of other kinds of adapters.
fn split(key: &str) -> Option<(String, Part)> {
    let (stem, part) = ENDINGS
        .iter()
        .find_map(|(ending, part)| key.strip_suffix(ending).map(|stem| (stem, *part)))?;
    // diffusers before PEFT: `….attn1.processor.to_out_lora.down.weight`.
    let Some((attention, projection)) = stem.split_once(".processor.") else {
        return Some((stem.to_owned(), part));
    };
    let projection = if projection == "to_out" { "to_out.0" } else { projection };
    Some((format!("{attention}.{projection}"), part))
}

#[derive(Default)]
struct Parts {
    down: Option<HostTensor>,
    up: Option<HostTensor>,
    alpha: Option<f32>,
}

impl Adapter {
    /// Reads the tensors and header texts of a LoRA file for a model whose parameters have these
    /// names and shapes. Without any alpha in tensors or header the product is taken as it is.
    ///
    /// # Errors
    /// When keys name no module of the model, are of another kind of adapter, lack their other half,
    /// or have shapes that do not fit.
    pub fn from_tensors(
        tensors: TensorMap,
        metadata: &BTreeMap<String, String>,
        model: &[(Component, BTreeMap<String, Vec<usize>>)],
    ) -> Result<Self, LoraError> {
        let table = Table::new(model);
        if tensors.is_empty() {
            return Err(LoraError::Empty(table.example()));
        }
        let total = tensors.len();
        let (mut foreign, mut other) = (Vec::new(), Vec::new());
        let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
        for (key, tensor) in tensors {
            let Some((module, part)) = split(&key) else {
                other.push(key);
                continue;
            };
            if table.find(&module).is_empty() {
                foreign.push(key);
                continue;
            }
            let parts = modules.entry(module).or_default();
            match part {
                Part::Down => parts.down = Some(tensor),
                Part::Up => parts.up = Some(tensor),
                Part::Alpha => parts.alpha = tensor.data.first().copied(),
            }
        }
        if !other.is_empty() {
            return Err(LoraError::Kind { keys: other });
        }
        if !foreign.is_empty() {
            return Err(LoraError::Foreign { keys: foreign, total, example: table.example() });
        }
        let settings = Settings::new(metadata)?;
        let mut adapter = Self::default();
        for (module, parts) in modules {
            let (component, parameter) = target(&table, &module)?;
            let pair = pair(&module, parts, shape(model, component, &parameter), |rank| {
                settings.scale(component, &parameter, rank)
            })?;
            adapter.components.entry(component).or_default().insert(parameter, pair);
        }
        Ok(adapter)
    }
}

fn target(table: &Table, module: &str) -> Result<Target, LoraError> {
    match table.find(module) {
        [one] => Ok(one.clone()),
        many => Err(LoraError::Ambiguous {
            module: module.to_owned(),
            candidates: many.iter().map(|t| t.1.as_str()).collect::<Vec<_>>().join(", "),
        }),
    }
}

fn shape<'a>(model: &'a [(Component, Shapes)], component: Component, name: &str) -> &'a [usize] {
    let shapes = model.iter().find(|(c, _)| *c == component).map(|(_, shapes)| shapes);
    shapes.and_then(|s| s.get(name)).map_or(&[], Vec::as_slice)
}

fn pair(
    module: &str,
    parts: Parts,
    weight: &[usize],
    default_scale: impl Fn(usize) -> f32,
) -> Result<Pair, LoraError> {
    let half = |missing| LoraError::Half { module: module.to_owned(), missing };
    let down = parts.down.ok_or_else(|| half("lora_down (lora_A)"))?;
    let up = parts.up.ok_or_else(|| half("lora_up (lora_B)"))?;
    let rank = down.shape.first().copied().unwrap_or(0);
    let out = weight.first().copied().unwrap_or(0);
    let row = |shape: &[usize]| shape.iter().skip(1).product::<usize>();
    // A 1×1 convolution's halves come with and without the two axes of size 1.
    let sizes = (rank > 0 && row(&down.shape) == row(weight))
        && up.shape.first() == Some(&out)
        && up.shape.get(1) == Some(&rank)
        && row(&up.shape) == rank;
    let axes = weight.len() == 2 || down.shape.len() == 2 || down.shape[1..] == weight[1..];
    let whole = [&down, &up].iter().all(|t| t.data.len() == t.shape.iter().product::<usize>());
    if !(sizes && axes && whole) {
        return Err(LoraError::Shape {
            module: module.to_owned(),
            down: down.shape,
            up: up.shape,
            weight: weight.to_vec(),
        });
    }
    let scale = parts.alpha.map_or_else(|| default_scale(rank), |alpha| alpha / rank as f32);
    Ok(Pair { down, up, scale })
}

/// What PEFT writes beside the tensors: JSON with keys such as `unet.lora_alpha`.
struct Settings(Value);

impl Settings {
    fn new(metadata: &BTreeMap<String, String>) -> Result<Self, LoraError> {
        let Some(text) = metadata.get("lora_adapter_metadata") else {
            return Ok(Self(Value::Null));
        };
        let value: Value = serde_json::from_str(text)
            .map_err(|e| LoraError::Metadata(format!("is not JSON ({e})")))?;
        for (key, set) in value.as_object().into_iter().flatten() {
            if key.ends_with(".use_dora") && set.as_bool() == Some(true) {
                let text = format!("has {key} = true, which is not supported; expected plain LoRA");
                return Err(LoraError::Metadata(text));
            }
        }
        Ok(Self(value))
    }

    /// alpha / rank, or alpha / √rank for rank-stabilised adapters; 1 where the header says nothing.
    fn scale(&self, component: Component, parameter: &str, rank: usize) -> f32 {
        let get = |key: &str| &self.0[format!("{}.{key}", component.folder())];
        let module = parameter.strip_suffix(".weight").unwrap_or(parameter);
        let special = get("alpha_pattern").as_object().into_iter().flatten().find(|(name, _)| {
            module
                .strip_suffix(name.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        let alpha = special.map(|(_, alpha)| alpha).unwrap_or_else(|| get("lora_alpha"));
        let Some(alpha) = alpha.as_f64() else { return 1.0 };
        let rank = rank as f64;
        let stabilised = get("use_rslora").as_bool() == Some(true);
        (alpha / if stabilised { rank.sqrt() } else { rank }) as f32
    }
}
