//! Which pipeline a model folder is for, from its `model_index.json`.

use std::path::{Path, PathBuf};

use craft_nn::config::shorten;
use serde_json::{Map, Value};

use crate::error::{ModelError, Result};
use crate::model::read_text;

/// What can be run, for messages.
const KNOWN: &str = "StableDiffusionPipeline (Stable Diffusion 1.x and 2.x) or StableDiffusionXLPipeline (SDXL base)";

/// Pipelines that are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// Stable Diffusion 1.x and 2.x.
    StableDiffusion,
    /// SDXL.
    StableDiffusionXl {
        /// Whether an empty negative prompt is all zeros.
        zero_empty: bool,
    },
}

/// Components by name, with the classes that can be loaded.
const COMPONENTS: [(&str, &[&str]); 7] = [
    ("unet", &[crate::sd::CLASS]),
    ("vae", &["AutoencoderKL"]),
    ("text_encoder", &["CLIPTextModel", "CLIPTextModelWithProjection"]),
    ("text_encoder_2", &["CLIPTextModelWithProjection", "CLIPTextModel"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("tokenizer_2", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    // Any with betas: the scheduler's own config is checked where it is read.
    ("scheduler", &[]),
];
/// Components and settings that do not change the pictures of a prompt.
const IGNORED: [&str; 5] = [
    "safety_checker",
    "feature_extractor",
    "requires_safety_checker",
    "image_encoder",
    "force_zeros_for_empty_prompt",
];

/// Reads `model_index.json` and refuses what is not run, by name.
///
/// # Errors
/// When there is none, or it names another pipeline, a component of another class, or a setting that
/// is not known.
pub(crate) fn of_folder(dir: &Path) -> Result<Architecture> {
    let path = dir.join("model_index.json");
    let refused = |message: String| ModelError::Input { path: path.clone(), message };
    if !path.is_file() {
        return Err(refused(format!(
            "it is missing{}; expected a model folder in the diffusers layout",
            what_else(dir)
        )));
    }
    let index: Map<String, Value> = serde_json::from_str(&read_text(&path)?).map_err(|error| {
        refused(format!("it is not a JSON object: {}", shorten(&error.to_string())))
    })?;
    let class = index.get("_class_name").and_then(Value::as_str).unwrap_or("none");
    let architecture = match class {
        "StableDiffusionPipeline" => Architecture::StableDiffusion,
        "StableDiffusionXLPipeline" => Architecture::StableDiffusionXl {
            zero_empty: index.get("force_zeros_for_empty_prompt") != Some(&Value::Bool(false)),
        },
        other => {
            return Err(refused(format!(
                "_class_name is {}{}; expected {KNOWN}: use a model of one of these architectures",
                shorten(other),
                title(other)
            )));
        }
    };
    if index.get("requires_aesthetics_score") == Some(&Value::Bool(true)) {
        return Err(refused(
            "requires_aesthetics_score is true: this is a refiner; expected a base model"
                .to_owned(),
        ));
    }
    for (key, value) in &index {
        let off = value.is_null() || *value == Value::Bool(false);
        let absent = value.get(1).is_some_and(Value::is_null);
        if key.starts_with('_') || off || absent || IGNORED.contains(&key.as_str()) {
            continue;
        }
        let Some((_, classes)) = COMPONENTS.iter().find(|(name, _)| name == key) else {
            return Err(refused(format!(
                "{} = {} is not supported; expected the components {}",
                shorten(key),
                shorten(&value.to_string()),
                COMPONENTS.map(|c| c.0).join(", ")
            )));
        };
        let class = value.get(1).and_then(Value::as_str).unwrap_or_default();
        if !classes.is_empty() && !classes.contains(&class) {
            return Err(refused(format!(
                "{key} = {} is not supported; expected the class {}",
                shorten(&value.to_string()),
                classes.join(" or ")
            )));
        }
    }
    Ok(architecture)
}

/// The class of the scheduler that `model_index.json` names.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn scheduler_class(dir: &Path) -> Result<Option<String>> {
    let path = dir.join("model_index.json");
    let index: Value = serde_json::from_str(&read_text(&path)?).unwrap_or_default();
    Ok(index["scheduler"][1].as_str().map(str::to_owned))
}

/// What is known of other pipelines by the beginnings of their names.
fn title(class: &str) -> &'static str {
    const OTHERS: [(&str, &str); 12] = [
        ("StableDiffusion3", " (Stable Diffusion 3)"),
        ("StableDiffusionXL", " (a variant of SDXL that takes more than a prompt)"),
        ("StableDiffusion", " (a variant of Stable Diffusion that takes more than a prompt)"),
        ("Flux", " (Flux)"),
        ("PixArt", " (PixArt)"),
        ("Kandinsky", " (Kandinsky)"),
        ("AuraFlow", " (AuraFlow)"),
        ("StableCascade", " (Stable Cascade)"),
        ("Wuerstchen", " (Würstchen)"),
        ("IF", " (DeepFloyd IF)"),
        ("Sana", " (Sana)"),
        ("QwenImage", " (Qwen-Image)"),
    ];
    OTHERS.iter().find(|(start, _)| class.starts_with(start)).map_or("", |(_, title)| title)
}

/// What a folder without `model_index.json` seems to be.
fn what_else(dir: &Path) -> String {
    let name = |path: PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    let found = craft_store::atomic::list(dir).unwrap_or_default();
    let mut names: Vec<String> = found.into_iter().filter_map(name).collect();
    names.sort();
    let has = |wanted: &str| names.iter().any(|n| n == wanted);
    let single = names.iter().find(|n| n.ends_with(".safetensors") || n.ends_with(".ckpt"));
    if has("adapter_config.json") || has("pytorch_lora_weights.safetensors") {
        return ": the folder holds a LoRA, which goes with --lora beside a model".to_owned();
    }
    if has("config.json") {
        let class = read_text(&dir.join("config.json")).ok();
        let class: Value = class.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
        let class = class["_class_name"].as_str().or_else(|| class["architectures"][0].as_str());
        let class = class.unwrap_or("one network").to_owned();
        return format!(": the folder holds {class} alone, a part of a model");
    }
    match single {
        Some(file) => {
            format!(": the folder holds {file}; to load it as a checkpoint, name the file itself")
        }
        None => String::new(),
    }
}
