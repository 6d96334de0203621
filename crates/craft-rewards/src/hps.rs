//! HPSv2 and v2.1 (github.com/tgxs002/HPSv2, `hpsv2/img_score.py`): cosine of an open_clip model that
//! was tuned on human choices.

use burn::tensor::Device;
use craft_nn::clip::{ClipConfig, ClipModel};
use craft_nn::open_clip::{OpenClipConfig, to_transformers};

use crate::dual::DualEncoder;
use crate::error::RewardError;
use crate::files::RewardFiles;
use crate::preprocess::{Fit, Preprocess};
use crate::reward::{MissingReason, Reward, RgbImageRef, Score};

/// HPSv2: the cosine of picture and text, in −1..1 (published tables show it times 100).
///
/// Weights have open_clip's names (transformers' are taken too); the model is described by
/// `open_clip_config.json`, or by a `config.json` of open_clip's or transformers' form. Pictures are
/// resized with antialiasing; `"antialias": false` in `preprocessor_config.json` gives the scores of
/// the time before torchvision 0.17.
#[derive(Debug)]
pub struct HpsV2 {
    name: String,
    encoder: DualEncoder,
}

impl HpsV2 {
    /// Builds the reward.
    ///
    /// # Errors
    /// When a file is missing, malformed, or does not fit the others.
    pub fn new(name: &str, mut files: RewardFiles, device: &Device) -> Result<Self, RewardError> {
        let device = device.clone().without_autodiff();
        let reward = || name.to_owned();
        let config_error = |source| RewardError::Config { reward: reward(), source };
        let json = match files.text("open_clip_config.json") {
            Some(json) => json,
            None => files.required(name, "config.json")?,
        };
        let (config, mean, std) = if json.contains("\"model_cfg\"") {
            let config = OpenClipConfig::from_json(json).map_err(config_error)?;
            (config.clip, config.mean, config.std)
        } else {
            (ClipConfig::from_json(json).map_err(config_error)?, None, None)
        };
        let mut preprocess = Preprocess::clip(Fit::Pad, config.vision_config.image_size);
        preprocess.mean = mean.unwrap_or(preprocess.mean);
        preprocess.std = std.unwrap_or(preprocess.std);
        let preprocess = preprocess.configured(name, &files)?;
        let tokenizer = files.tokenizer(name, &config.text_config)?.with_pad(0);
        let weights = files.take_weights(name, "the weights (model.safetensors)", |key| {
            key.ends_with("logit_scale")
        })?;
        let weights = if weights.keys().any(|key| key.starts_with("text_model.")) {
            weights
        } else {
            to_transformers(weights)
                .map_err(|source| RewardError::OpenClip { reward: reward(), source })?
        };
        let model = ClipModel::from_tensors(&config, weights, &device)
            .map_err(|source| RewardError::Weights { reward: reward(), source })?;
        let encoder = DualEncoder { model, tokenizer, preprocess, device };
        Ok(Self { name: reward(), encoder })
    }
}

impl Reward for HpsV2 {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        "hps-1"
    }

    fn score(
        &self,
        images: &[RgbImageRef<'_>],
        prompts: &[&str],
    ) -> Vec<Result<Score, MissingReason>> {
        self.encoder.score(images, prompts, 1.0)
    }
}
