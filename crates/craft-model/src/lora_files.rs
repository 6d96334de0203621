//! The files of a LoRA: one file, or the folder that a tool saved an adapter in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use craft_nn::lora::{Adapter, Component, Settings};
use craft_nn::weights::HostTensor;
use craft_store::hash::{sha256_bytes, sha256_file};
use craft_store::raw::RawReader;
use craft_store::tensors;

use crate::error::{ModelError, Result};
use crate::lora::Shapes;
use crate::model::read_text;

/// What PEFT writes beside an adapter.
const CONFIG: &str = "adapter_config.json";
/// What PEFT and diffusers call a LoRA's file in a folder, in the order in which they look for it.
const NAMES: [&str; 4] = [
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
];
/// Networks whose adapters training scripts save in folders of their own.
const COMPONENTS: [Component; 3] =
    [Component::Unet, Component::TextEncoder, Component::TextEncoder2];

/// One file of a LoRA.
struct Part {
    file: PathBuf,
    /// Its settings, where the file does not hold them itself.
    config: Option<PathBuf>,
    /// The network that it is for, where its folder says so.
    component: Option<Component>,
}

fn input(path: &Path, message: impl Into<String>) -> ModelError {
    ModelError::Input { path: path.to_owned(), message: message.into() }
}

/// Reads the LoRA of a file or folder for a model of these components.
///
/// # Errors
/// When it is torn or not finite, is no LoRA, or was made for another model.
pub(crate) fn read(path: &Path, model: &[(Component, Shapes)]) -> Result<Adapter> {
    let mut adapter = Adapter::default();
    for part in parts(path)? {
        let settings = settings(&part)?;
        let tensors = tensors::read_finite(&part.file)?
            .into_iter()
            .map(|(name, t)| (name, HostTensor { shape: t.shape, data: t.data }))
            .collect();
        let read = Adapter::read(tensors, &settings, model)
            .map_err(|error| input(&part.file, error.to_string()))?;
        for (component, pairs) in read.components {
            adapter.components.entry(component).or_default().extend(pairs);
        }
    }
    Ok(adapter)
}

/// Hash of all that reading a LoRA takes; of a single file its own.
///
/// # Errors
/// When a file cannot be read.
pub fn hash(path: &Path) -> Result<String> {
    let mut hashes = Vec::new();
    for part in parts(path)? {
        hashes.push(sha256_file(&part.file)?);
        if let Some(config) = &part.config {
            hashes.push(sha256_file(config)?);
        }
    }
    Ok(if hashes.len() == 1 { hashes.remove(0) } else { sha256_bytes(hashes.join(" ")) })
}

fn settings(part: &Part) -> Result<Settings> {
    let settings = match &part.config {
        Some(config) => Settings::of_peft(&read_text(config)?)
            .map_err(|error| input(config, error.to_string()))?,
        None => {
            let reader = RawReader::open(&part.file)?;
            let settings = Settings::of_header(reader.metadata())
                .map_err(|error| input(&part.file, error.to_string()))?;
            if settings.is_empty() && is_peft(&part.file, &reader) {
                say_once(&part.file);
            }
            settings
        }
    };
    Ok(match part.component {
        Some(component) => settings.within(component),
        None => settings,
    })
}

/// Whether PEFT's own `save_pretrained` wrote a file, which says its alpha elsewhere.
fn is_peft(file: &Path, reader: &RawReader) -> bool {
    let shapes = reader.shapes();
    !shapes.keys().any(|key| key.ends_with(".alpha"))
        && (file.file_stem().is_some_and(|stem| stem == "adapter_model")
            || shapes.keys().any(|key| key.contains("base_model.model.")))
}

fn say_once(file: &Path) {
    static SAID: LazyLock<Mutex<BTreeSet<PathBuf>>> = LazyLock::new(Mutex::default);
    if SAID.lock().is_ok_and(|mut said| said.insert(file.to_owned())) {
        tracing::warn!(
            "{}: there is no {CONFIG} beside it that says alpha; the rank is taken, as PEFT does where they are equal: put the file that was saved with the adapter beside it",
            file.display()
        );
    }
}

/// The files of a LoRA.
fn parts(path: &Path) -> Result<Vec<Part>> {
    if path.file_name().is_some_and(|name| name == CONFIG) && path.is_file() {
        return parts(
            path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        );
    }
    if !path.is_dir() {
        return Ok(vec![with_config(path.to_owned(), None)?]);
    }
    if let Some(file) = adapter_in(path) {
        return Ok(vec![with_config(file, None)?]);
    }
    let mut parts = Vec::new();
    for component in COMPONENTS {
        if let Some(file) = adapter_in(&path.join(component.folder())) {
            parts.push(with_config(file, Some(component))?);
        }
    }
    if parts.is_empty() {
        parts.push(with_config(only_one(path)?, None)?);
    }
    Ok(parts)
}

fn adapter_in(dir: &Path) -> Option<PathBuf> {
    NAMES.iter().map(|name| dir.join(name)).find(|file| file.is_file())
}

/// A file with the config beside it, where the file has settings of no other kind.
fn with_config(file: PathBuf, component: Option<Component>) -> Result<Part> {
    let beside = file.with_file_name(CONFIG);
    let mut config = None;
    if beside.is_file() {
        let reader = RawReader::open(&file)?;
        let named = file.file_stem().is_some_and(|stem| stem == "adapter_model");
        let peft = reader.shapes().keys().any(|key| {
            key.contains(".lora_A.")
                || key.contains(".lora_B.")
                || key.contains("base_model.model.")
        });
        let own = reader.metadata().contains_key("lora_adapter_metadata");
        config = (named || (peft && !own)).then_some(beside);
    }
    Ok(Part { file, config, component })
}

/// The LoRA in a folder whose files have names of their own: the only one, or that of the only folder in it
/// (PEFT saves an adapter that is not called `default` in a folder of its name).
fn only_one(dir: &Path) -> Result<PathBuf> {
    let expected = format!(
        "expected {} with {CONFIG}, {}, or one safetensors file: name the file itself",
        NAMES[0], NAMES[2]
    );
    if dir.join("model_index.json").is_file() {
        return Err(input(
            dir,
            format!("it is a model's folder, no LoRA; {expected}, or give the folder as the model"),
        ));
    }
    let mut paths = craft_store::atomic::list(dir)
        .map_err(|error| input(dir, format!("it cannot be read ({error}); {expected}")))?;
    paths.sort();
    let files = paths.iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
    let mut found: Vec<PathBuf> = files.filter(|path| path.is_file()).cloned().collect();
    if found.is_empty() {
        found = paths.iter().filter_map(|path| adapter_in(path)).collect();
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(input(dir, format!("the folder holds no LoRA; {expected}"))),
        n => {
            let name =
                |path: &PathBuf| path.strip_prefix(dir).unwrap_or(path).display().to_string();
            let names: Vec<String> = found.iter().take(6).map(name).collect();
            Err(input(
                dir,
                format!("the folder holds {n} LoRA files ({}); {expected}", names.join(", ")),
            ))
        }
    }
}
