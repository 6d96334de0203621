//! PickScore v1 (github.com/yuvalkirstain/PickScore): scaled cosine of a CLIP model that was tuned on
//! human choices.

use burn::tensor::Device;
use craft_nn::clip::{ClipConfig, ClipModel};
use craft_nn::weights::to_vec;

use crate::dual::DualEncoder;
use crate::error::RewardError;
use crate::files::RewardFiles;
use crate::preprocess::{Fit, Preprocess};
use crate::reward::{MissingReason, Reward, RgbImageRef, Score};

/// PickScore: `exp(logit_scale)` times the cosine of picture and text.
///
/// Weights and config of a transformers `CLIPModel`.
#[derive(Debug)]
pub struct PickScore {
    name: String,
    encoder: DualEncoder,
    scale: f64,
}

impl PickScore {
    /// Builds the reward.
    ///
    /// # Errors
    /// When a file is missing, malformed, or does not fit the others.
    pub fn new(name: &str, mut files: RewardFiles, device: &Device) -> Result<Self, RewardError> {
        let device = device.clone().without_autodiff();
        let reward = || name.to_owned();
        let config = ClipConfig::from_json(files.required(name, "config.json")?)
            .map_err(|source| RewardError::Config { reward: reward(), source })?;
        let preprocess = Preprocess::clip(Fit::CentreCrop, config.vision_config.image_size);
        let preprocess = preprocess.configured(name, &files)?;
        let tokenizer = files.tokenizer(name, &config.text_config)?;
        let weights = files
            .take_weights(name, "the weights (model.safetensors)", |key| key == "logit_scale")?;
        let model = ClipModel::from_tensors(&config, weights, &device)
            .map_err(|source| RewardError::Weights { reward: reward(), source })?;
        let log_scale = to_vec(model.logit_scale.val())[0];
        let encoder = DualEncoder { model, tokenizer, preprocess, device };
        Ok(Self { name: reward(), encoder, scale: f64::from(log_scale).exp() })
    }
}

impl Reward for PickScore {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        "pickscore-1"
    }

    fn score(
        &self,
        images: &[RgbImageRef<'_>],
        prompts: &[&str],
    ) -> Vec<Result<Score, MissingReason>> {
        self.encoder.score(images, prompts, self.scale)
    }
}
