//! CLIP weights as they are published, under any of their names, with or without a config.

use craft_nn::bounds::Bounds;
use craft_nn::clip::{ClipConfig, ClipTextConfig, ClipVisionConfig, drop_buffers};
use craft_nn::open_clip::{OpenClipConfig, to_transformers, unwrap_prefix};
use craft_nn::ops::Act;
use craft_nn::weights::TensorMap;

use crate::error::RewardError;
use crate::files::RewardFiles;

/// Wrappers that published files carry around a CLIP model.
const WRAPPERS: [&str; 4] = ["model.", "module.", "clip.", "clip_model."];

/// Whether a name is of a CLIP image encoder with a projection.
pub(crate) fn is_tower(name: &str) -> bool {
    let name = WRAPPERS.iter().find_map(|w| name.strip_prefix(w)).unwrap_or(name);
    matches!(name, "visual_projection.weight" | "visual.proj")
}

/// A CLIP model's weights with transformers' names, apart by encoder.
#[derive(Debug)]
pub(crate) struct ClipWeights {
    pub(crate) text: TensorMap,
    pub(crate) vision: TensorMap,
    pub(crate) logit_scale: Option<f32>,
}

impl ClipWeights {
    /// Takes the CLIP model out of a reward's files.
    pub(crate) fn take(reward: &str, files: &mut RewardFiles) -> Result<Self, RewardError> {
        let what = "weights of a CLIP model (model.safetensors, or open_clip's .pt)";
        let tensors = files.take_weights(reward, what, is_tower)?;
        Self::new(reward, tensors)
    }

    /// Sorts the tensors of one model, of open_clip's, OpenAI's or transformers' names.
    pub(crate) fn new(reward: &str, tensors: TensorMap) -> Result<Self, RewardError> {
        let mut tensors = unwrap_prefix(tensors, &WRAPPERS);
        if !tensors.keys().any(|n| n.starts_with("vision_model.") || n.starts_with("text_model.")) {
            tensors = to_transformers(tensors)
                .map_err(|source| RewardError::OpenClip { reward: reward.to_owned(), source })?;
        }
        drop_buffers(&mut tensors);
        let logit_scale = tensors.remove("logit_scale").and_then(|t| t.data.first().copied());
        let (mut text, mut vision) = (TensorMap::new(), TensorMap::new());
        for (name, tensor) in tensors {
            let is_text = name.starts_with("text_model.") || name.starts_with("text_projection.");
            if is_text { &mut text } else { &mut vision }.insert(name, tensor);
        }
        Ok(Self { text, vision, logit_scale })
    }
}

/// Sizes of a CLIP model, and the normalisation of pixels where the config says it.
#[derive(Debug)]
pub(crate) struct ClipSizes {
    pub(crate) text: ClipTextConfig,
    pub(crate) vision: ClipVisionConfig,
    pub(crate) mean: Option<[f32; 3]>,
    pub(crate) std: Option<[f32; 3]>,
}

impl ClipSizes {
    /// From `open_clip_config.json` or `config.json` of open_clip's or transformers' form; without
    /// one, from the shapes of the weights and the activation that such models have.
    pub(crate) fn of(
        reward: &str,
        files: &RewardFiles,
        weights: &ClipWeights,
        act: Act,
    ) -> Result<Self, RewardError> {
        let wrap = |source| RewardError::Config { reward: reward.to_owned(), source };
        let (config, mean, std) = match config(files) {
            Some(json) if json.contains("\"model_cfg\"") => {
                let config = OpenClipConfig::from_json(json).map_err(wrap)?;
                (config.clip, config.mean, config.std)
            }
            Some(json) => (ClipConfig::from_json(json).map_err(wrap)?, None, None),
            None => {
                let text = ClipTextConfig::from_weights(&weights.text, act).map_err(wrap)?;
                let vision = ClipVisionConfig::from_weights(&weights.vision, act).map_err(wrap)?;
                let dim = vision.projection_dim;
                (ClipConfig::new(text, vision, dim).map_err(wrap)?, None, None)
            }
        };
        config.text_config.fits(&bounds(&weights.text)).map_err(wrap)?;
        config.vision_config.fits(&bounds(&weights.vision)).map_err(wrap)?;
        Ok(Self { text: config.text_config, vision: config.vision_config, mean, std })
    }
}

/// Sizes of an image encoder alone.
pub(crate) fn vision_sizes(
    reward: &str,
    files: &RewardFiles,
    vision: &TensorMap,
    act: Act,
) -> Result<ClipVisionConfig, RewardError> {
    let wrap = |source| RewardError::Config { reward: reward.to_owned(), source };
    let sizes = match config(files) {
        Some(json) if json.contains("\"model_cfg\"") => {
            OpenClipConfig::from_json(json).map_err(wrap)?.clip.vision_config
        }
        Some(json) => ClipVisionConfig::from_json(json).map_err(wrap)?,
        None => ClipVisionConfig::from_weights(vision, act).map_err(wrap)?,
    };
    sizes.fits(&bounds(vision)).map_err(wrap)?;
    Ok(sizes)
}

/// What weights say of the numbers of a config, before anything is built from it.
fn bounds(weights: &TensorMap) -> Bounds {
    Bounds::of(&weights.iter().map(|(name, t)| (name.clone(), t.shape.clone())).collect())
}

/// The text of the config, if one of the files describes a CLIP model.
fn config(files: &RewardFiles) -> Option<&str> {
    let describes = |json: &&str| {
        ["\"model_cfg\"", "\"vision_config\"", "\"patch_size\""].iter().any(|k| json.contains(k))
    };
    files.text("open_clip_config.json").or_else(|| files.text("config.json").filter(describes))
}
