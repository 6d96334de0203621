//! What fixtures/layouts says about a published model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use craft_store::raw::Format;
use serde_json::Value;

/// A tensor's number format and shape.
pub(super) type Tensor = (Format, Vec<usize>);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// A published model.
pub(super) struct Facts(Value);

impl Facts {
    pub(super) fn of(model: &str) -> Self {
        let path = fixtures().join(format!("layouts/models/{model}.json"));
        Self(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
    }

    /// Every model.
    pub(super) fn all() -> Vec<String> {
        let dir = std::fs::read_dir(fixtures().join("layouts/models")).unwrap();
        let name =
            |e: std::fs::DirEntry| e.path().file_stem().unwrap().to_str().unwrap().to_owned();
        let mut all: Vec<String> = dir.map(|entry| name(entry.unwrap())).collect();
        all.sort();
        all
    }

    /// Its text files, parsed.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0["texts"].as_object().unwrap().iter()
    }

    pub(super) fn text(&self, path: &str) -> &Value {
        let found = &self.0["texts"][path];
        assert!(!found.is_null(), "{path}");
        found
    }

    /// Paths of its weight files.
    pub(super) fn files(&self) -> impl Iterator<Item = &String> {
        self.0["weights"].as_object().unwrap().keys()
    }

    pub(super) fn weights(&self, path: &str) -> Weights<'_> {
        let found = &self.0["weights"][path];
        assert!(!found.is_null(), "{path}");
        Weights(found)
    }
}

/// A weight file of a published model.
pub(super) struct Weights<'a>(&'a Value);

impl Weights<'_> {
    /// The key under which `torch.save` files have their tensors.
    pub(super) fn nested(&self) -> Option<&str> {
        self.0["nested"].as_str()
    }

    /// Published length in bytes, where a file as the safetensors library writes it has that length.
    pub(super) fn exact_length(&self) -> Option<u64> {
        self.0["bytes"].as_u64().filter(|_| self.0["off"].is_null())
    }

    /// Its tensors, at the published sizes or small ones.
    pub(super) fn tensors(&self, size: Size) -> BTreeMap<String, Tensor> {
        let mut all = BTreeMap::new();
        for part in self.0["parts"].as_array().unwrap() {
            let [prefix, list, kind] = [0, 1, 2].map(|i| part[i].as_str().unwrap());
            let dotless = part[3] == "dotless";
            for (name, shape) in expand(list) {
                let name = if dotless { name.replace('.', "") } else { name };
                let shape = shape.into_iter().map(|n| size.of(list, n)).collect();
                all.insert(format!("{prefix}{name}"), (format(kind), shape));
            }
        }
        for (name, tensor) in self.0["extra"].as_object().into_iter().flatten() {
            let axes = tensor[1].as_array().unwrap().iter();
            let shape = axes.map(|n| size.of("", n.as_u64().unwrap() as usize)).collect();
            all.insert(name.clone(), (format(tensor[0].as_str().unwrap()), shape));
        }
        all
    }
}

fn format(name: &str) -> Format {
    match name {
        "F32" => Format::F32,
        "F16" => Format::F16,
        "I64" => Format::I64,
        "I32" => Format::I32,
        other => panic!("{other}"),
    }
}

/// Published sizes, or small ones with the same names, ranks and structure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Published,
    Small,
}

impl Size {
    /// The length of an axis of a list's tensors.
    fn of(self, list: &str, n: usize) -> usize {
        if self == Self::Published { n } else { small(list, n) }
    }
}

/// Text encoders become 64 wide with one head, denoisers a tenth, autoencoders a quarter. Vocabularies,
/// positions, patches and numbers of layers stay.
pub(super) fn small(list: &str, n: usize) -> usize {
    if list.contains("unet") {
        return match n {
            0..=16 => n,
            768 | 1024 => 64,
            2048 => 128,
            2816 => 64 + 6 * 16,
            _ => n / 10,
        };
    }
    if list.contains("vae") {
        return if n > 8 { n / 4 } else { n };
    }
    let qkv = list.starts_with("open-clip") || list == "imagereward";
    match n {
        512 | 768 | 1024 | 1280 if list != "imagereward" || n != 512 => 64,
        3072 | 3840 if qkv => 192,
        2048 | 3072 | 4096 | 5120 => 256,
        _ => n,
    }
}

/// Names and shapes of a list of fixtures/layouts/tensors.
pub(super) fn expand(list: &str) -> Vec<(String, Vec<usize>)> {
    let path = fixtures().join(format!("layouts/tensors/{list}.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let mut all = vec![];
    for line in text.lines() {
        let (shape, pattern) = line.split_once(' ').unwrap();
        let shape: Vec<usize> = serde_json::from_str(shape).unwrap();
        all.extend(braces(pattern).into_iter().map(|name| (name, shape.clone())));
    }
    all
}

/// All texts of a pattern with `{a,b}` and `{0..3}`.
fn braces(pattern: &str) -> Vec<String> {
    let Some((head, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let (options, tail) = rest.split_once('}').unwrap();
    let options: Vec<String> = match options.split_once("..") {
        Some((from, to)) => {
            let [from, to] = [from, to].map(|n| n.parse::<usize>().unwrap());
            (from..=to).map(|n| n.to_string()).collect()
        }
        None => options.split(',').map(str::to_owned).collect(),
    };
    let tails = braces(tail);
    options.iter().flat_map(|o| tails.iter().map(move |t| format!("{head}{o}{t}"))).collect()
}

/// A config with the sizes that [`small`] gives the tensors.
pub(super) fn small_config(path: &str, config: &Value) -> Value {
    let mut config = config.clone();
    let map = config.as_object_mut().unwrap();
    let scale = |value: &mut Value, f: &dyn Fn(usize) -> usize| match value {
        Value::Array(list) => {
            list.iter_mut().for_each(|v| *v = f(v.as_u64().unwrap() as usize).into());
        }
        value => {
            if let Some(n) = value.as_u64() {
                *value = f(n as usize).into();
            }
        }
    };
    let list = if path.starts_with("unet/") {
        "unet"
    } else if path.starts_with("vae/") {
        "vae"
    } else {
        "text"
    };
    for (key, value) in map.iter_mut() {
        match key.as_str() {
            "text_config" | "vision_config" | "text_config_dict" | "vision_config_dict"
            | "model_cfg" | "vision_cfg" | "text_cfg" => {
                *value = small_config(path, value);
            }
            "block_out_channels"
            | "cross_attention_dim"
            | "projection_class_embeddings_input_dim"
            | "hidden_size"
            | "projection_dim"
            | "embed_dim"
            | "width" => scale(value, &|n| small(list, n)),
            "intermediate_size" => {
                scale(value, &|n| if path == "med_config.json" { 192 } else { small(list, n) });
            }
            "attention_head_dim" if value.is_array() => scale(value, &|n| n / 5),
            "addition_time_embed_dim" => scale(value, &|_| 16),
            "num_attention_heads" | "heads" if list == "text" => scale(value, &|_| 1),
            "head_width" => scale(value, &|_| 64),
            "sample_size" if list == "unet" => scale(value, &|n| n / 8),
            _ => {}
        }
    }
    config
}
