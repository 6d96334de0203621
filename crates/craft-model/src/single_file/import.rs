//! A single file copied once into a model folder of the cache; everything else then reads folders
//! only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use craft_nn::ldm::{self, Checkpoint, Family, Given, Part, Take};
use craft_nn::vae_names;
use craft_store::hash::{sha256_bytes, sha256_dir, sha256_samples};
use craft_store::lock::FolderLock;
use craft_store::raw::{self, Entry, RawReader};
use craft_store::{StoreError, atomic, cache, input, space};
use serde_json::{Value, json};

use super::{bytes_in_diffusers, check, shape_in_diffusers};
use crate::clip_vocabulary;
use crate::component;
use crate::error::{ModelError, Result};
use crate::model::read_text;
use craft_core::Progress;

/// Changes when copies of earlier versions must not be used any more.
const LAYOUT: u32 = 2;

/// The model folder of a single file. `config` is a diffusers folder whose component configs,
/// tokenizers and schedule win over what is found in the file.
///
/// # Errors
/// When the file is damaged or of another architecture, a setting cannot be found out, no tokenizer
/// is at hand, or the disk is full.
pub fn import(file: &Path, config: Option<&Path>, progress: &dyn Progress) -> Result<PathBuf> {
    import_into(&cache::dir().join("models"), file, config, progress)
}

/// [`import`] into a folder in `place`.
///
/// # Errors
/// As [`import`].
pub fn import_into(
    place: &Path,
    file: &Path,
    config: Option<&Path>,
    progress: &dyn Progress,
) -> Result<PathBuf> {
    let input = |message: String| ModelError::Input { path: file.to_owned(), message };
    let mut reader = RawReader::open(file)?;
    reader.rename(vae_names::original)?;
    let shapes = reader.shapes();
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = place.join(format!("{stem}-{}", &identity(file, config)?[..16]));
    if folder.join("model_index.json").is_file() {
        return Ok(folder);
    }

    component::refuse_quantised(file, shapes.keys())?;
    let given = given(config)?;
    let metadata = reader.metadata().clone();
    let mut values = |name: &str| reader.read(name).ok()?.to_f32().ok();
    let found = ldm::inspect(&shapes, &metadata, &given, &mut values)
        .map_err(|error| input(error.to_string()))?;
    reader.require_weights(found.pieces.iter().map(|(name, _)| name))?;
    let with = config.map_or(String::new(), |c| format!(" (with the configs of {})", c.display()));
    check::networks(&found, &shapes).map_err(|error| input(format!("{error}{with}")))?;
    let bytes: usize = parts(&found, &reader).values().flatten().map(|t| t.entry.len()).sum();
    let tokenizers = tokenizers(&found, config).map_err(|error| match error {
        ModelError::Usage(message) => input(message),
        other => other,
    })?;
    check::tokenizers(&found, &tokenizers).map_err(|error| input(format!("{error}{with}")))?;
    progress.note(&format!(
        "{}: {}, {} prediction; {} tensors, {} of no network left out; copied once to {}",
        file.display(),
        found.family.title(),
        found.configs.scheduler["prediction_type"].as_str().unwrap_or("epsilon"),
        found.pieces.len(),
        found.ignored,
        folder.display()
    ));
    atomic::create_dir(place)?;
    let _lock = FolderLock::acquire(place, &mut || {
        progress.note("another process copies a checkpoint; waiting for it");
    })?;
    if folder.join("model_index.json").is_file() {
        return Ok(folder);
    }
    atomic::remove_leftovers(place)?;
    space::require_free(place, bytes as u64 + (16 << 20))?;
    progress.start("copy checkpoint", bytes as u64, "bytes");
    atomic::write_dir_atomically(&folder, |to| {
        write(to, &found, &mut reader, &tokenizers, progress)
    })?;
    progress.finish("copy checkpoint: done");
    Ok(folder)
}

/// What a copy depends on, without reading gigabytes: the file's place, length and time of change,
/// samples of its content, and the texts of the configs given.
fn identity(file: &Path, config: Option<&Path>) -> Result<String> {
    let unreadable = |error: std::io::Error| ModelError::Input {
        path: file.to_owned(),
        message: format!("it cannot be read ({error}); expected a checkpoint file"),
    };
    let full = file.canonicalize().map_err(unreadable)?;
    let about = full.metadata().map_err(unreadable)?;
    let changed = about.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    let content = sha256_samples(&full)?;
    let mut text =
        format!("{LAYOUT}\n{}\n{}\n{changed:?}\n{content}\n", full.display(), about.len());
    if let Some(config) = config {
        for name in CONFIGS.iter().chain(&["tokenizer", "tokenizer_2"]) {
            let path = config.join(name);
            if path.is_dir() {
                text.push_str(&sha256_dir(&path)?);
            } else if path.is_file() {
                text.push_str(&read_text(&path)?);
            }
            text.push('\n');
        }
    }
    Ok(sha256_bytes(text))
}

const CONFIGS: [&str; 5] = [
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "scheduler/scheduler_config.json",
];

fn given(config: Option<&Path>) -> Result<Given> {
    let Some(dir) = config else { return Ok(Given::default()) };
    let mut found: Vec<Option<Value>> = Vec::with_capacity(CONFIGS.len());
    for name in CONFIGS {
        let path = dir.join(name);
        if !path.is_file() {
            found.push(None);
            continue;
        }
        let value = serde_json::from_str(&read_text(&path)?).map_err(|error| {
            ModelError::Input { path: path.clone(), message: format!("it is not JSON: {error}") }
        })?;
        found.push(Some(value));
    }
    let tokenizer = ["tokenizer", "tokenizer_2"].iter().any(|name| dir.join(name).is_dir());
    if found.iter().all(Option::is_none) && !tokenizer {
        return Err(ModelError::Input {
            path: dir.to_owned(),
            message: format!(
                "it has neither a tokenizer/ nor one of {}; expected a model folder in the diffusers layout (weights are not needed)",
                CONFIGS.join(", ")
            ),
        });
    }
    let mut next = found.into_iter();
    let mut take = || next.next().flatten();
    Ok(Given { unet: take(), vae: take(), text: take(), text_2: take(), scheduler: take() })
}

/// A tensor of the copy and where it comes from.
struct Target {
    entry: Entry,
    source: String,
    take: Take,
}

/// The tensors of each network, sorted by name.
fn parts(found: &Checkpoint, reader: &RawReader) -> BTreeMap<Part, Vec<Target>> {
    let shapes = reader.shapes();
    let mut parts: BTreeMap<Part, Vec<Target>> = BTreeMap::new();
    for (source, pieces) in &found.pieces {
        let Some(format) = reader.format(source) else { continue };
        for piece in pieces {
            let entry = Entry {
                name: piece.name.clone(),
                shape: shape_in_diffusers(piece.take, &shapes[source]),
                format,
            };
            let target = Target { entry, source: source.clone(), take: piece.take };
            parts.entry(piece.part).or_default().push(target);
        }
    }
    for targets in parts.values_mut() {
        targets.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
    }
    parts
}

/// Files of a tokenizer by folder.
pub(super) type Tokenizers = BTreeMap<&'static str, Vec<(String, Vec<u8>)>>;

/// The tokenizers of the model: those of the folder of configs, else CLIP's, which is embedded.
fn tokenizers(found: &Checkpoint, config: Option<&Path>) -> Result<Tokenizers> {
    let mut wanted = vec![("tokenizer", &found.configs.text, found.family == Family::Sd2)];
    if let Some(text_2) = &found.configs.text_2 {
        wanted.push(("tokenizer_2", text_2, true));
    }
    let mut all = Tokenizers::new();
    for (folder, text, pads_with_zero) in wanted {
        if let Some(dir) = config
            .map(|c| c.join(folder))
            .filter(|d| ["vocab.json", "tokenizer.json"].iter().any(|name| d.join(name).is_file()))
        {
            all.insert(folder, read_files(&dir)?);
            continue;
        }
        let known = clip_vocabulary::TOKENS as u64;
        let vocabulary = text["vocab_size"].as_u64().unwrap_or(known);
        if vocabulary != known {
            return Err(ModelError::Usage(format!(
                "its text encoder knows {vocabulary} tokens, CLIP's tokenizer has {known}; expected a model folder with the {folder}/ of this model: name it with --model-config DIR (model.config in a recipe)"
            )));
        }
        let mut files: Vec<_> = clip_vocabulary::files()?
            .map(|(name, text)| (name.to_owned(), text.into_bytes()))
            .into();
        // open_clip pads with id 0, `!`; CLIP with its end token.
        let pad = if pads_with_zero { "!" } else { "<|endoftext|>" };
        let special = json!({
            "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>", "pad_token": pad,
        });
        let mut config = special.clone();
        config["model_max_length"] = text["max_position_embeddings"].clone();
        config["tokenizer_class"] = json!("CLIPTokenizer");
        for (name, value) in
            [("special_tokens_map.json", special), ("tokenizer_config.json", config)]
        {
            files.push((name.to_owned(), format!("{value:#}\n").into_bytes()));
        }
        all.insert(folder, files);
    }
    Ok(all)
}

/// The plain files of a folder.
fn read_files(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error: StoreError| ModelError::Input {
            path,
            message: format!("it cannot be read ({error}); expected a tokenizer's folder"),
        }
    };
    let mut files = Vec::new();
    for path in craft_store::atomic::list(dir).map_err(unreadable(dir))? {
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            let bytes = input::read(&path, input::MAX_TEXT).map_err(unreadable(&path))?;
            files.push((name.to_string_lossy().into_owned(), bytes));
        }
    }
    files.sort();
    Ok(files)
}

fn write(
    to: &Path,
    found: &Checkpoint,
    reader: &mut RawReader,
    tokenizers: &Tokenizers,
    progress: &dyn Progress,
) -> Result<()> {
    let json = |path: &Path, value: &Value| -> Result<()> {
        if let Some(parent) = path.parent() {
            atomic::create_dir(parent)?;
        }
        Ok(atomic::write(path, format!("{value:#}\n").as_bytes())?)
    };
    let configs = &found.configs;
    for (part, targets) in parts(found, reader) {
        let (config, file) = match part {
            Part::Unet => (Some(&configs.unet), "diffusion_pytorch_model.safetensors"),
            Part::Vae => (Some(&configs.vae), "diffusion_pytorch_model.safetensors"),
            Part::Text => (Some(&configs.text), "model.safetensors"),
            Part::Text2 => (configs.text_2.as_ref(), "model.safetensors"),
        };
        let dir = to.join(part.folder());
        json(&dir.join("config.json"), config.unwrap_or(&Value::Null))?;
        let sources: BTreeMap<&str, (&str, Take)> =
            targets.iter().map(|t| (t.entry.name.as_str(), (t.source.as_str(), t.take))).collect();
        let entries: Vec<Entry> = targets.iter().map(|t| t.entry.clone()).collect();
        raw::write(&dir.join(file), &entries, &BTreeMap::new(), |entry| -> Result<Vec<u8>> {
            let (source, take) = sources[entry.name.as_str()];
            progress.advance(entry.len() as u64);
            let raw = reader.read(source)?;
            raw.require_finite(reader.path(), source)?;
            Ok(bytes_in_diffusers(take, raw))
        })?;
    }
    for (folder, files) in tokenizers {
        let dir = to.join(folder);
        atomic::create_dir(&dir)?;
        for (name, bytes) in files {
            atomic::write(&dir.join(name), bytes)?;
        }
    }
    json(&to.join("scheduler/scheduler_config.json"), &configs.scheduler)?;
    json(&to.join("model_index.json"), &configs.model_index)
}
