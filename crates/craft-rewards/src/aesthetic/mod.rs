//! The LAION aesthetic predictor v2
//! (github.com/christophschuhmann/improved-aesthetic-predictor, `simple_inference.py`).

mod head;

use burn::tensor::Device;
use craft_nn::clip::{ClipVisionConfig, ClipVisionModel};

pub use head::AestheticHead;

use crate::dual::score_images;
use crate::error::RewardError;
use crate::files::RewardFiles;
use crate::preprocess::{Fit, Preprocess};
use crate::reward::{MissingReason, Reward, RgbImageRef, Score};

/// Aesthetic score of a picture, whatever its prompt: an affine map of CLIP's image embedding of
/// length 1. The published weights give about 4.5 to 7.
///
/// `config.json` and weights of a `CLIPVisionModelWithProjection` or a `CLIPModel`; weights of the head
/// with names `layers.{0,2,4,6,7}.{weight,bias}`.
#[derive(Debug)]
pub struct Aesthetic {
    name: String,
    model: ClipVisionModel,
    preprocess: Preprocess,
    device: Device,
    weights: Vec<f64>,
    bias: f64,
}

impl Aesthetic {
    /// Builds the reward.
    ///
    /// # Errors
    /// When a file is missing, malformed, or does not fit the others.
    pub fn new(name: &str, mut files: RewardFiles, device: &Device) -> Result<Self, RewardError> {
        let device = device.clone().without_autodiff();
        let reward = || name.to_owned();
        let config = ClipVisionConfig::from_json(files.required(name, "config.json")?)
            .map_err(|source| RewardError::Config { reward: reward(), source })?;
        let preprocess = Preprocess::clip(Fit::CentreCropEven, config.image_size);
        let preprocess = preprocess.configured(name, &files)?;
        let head = files
            .take_weights(name, "the head (head.safetensors)", |key| key.starts_with("layers."))?;
        let tower = "the image encoder with its visual_projection (model.safetensors)";
        let tower = files.take_weights(name, tower, |key| key == "visual_projection.weight")?;
        let model = ClipVisionModel::from_tensors(&config, tower, &device)
            .map_err(|source| RewardError::Weights { reward: reward(), source })?;
        let (weights, bias) = head::fold(name, &head, config.projection_dim)?;
        Ok(Self { name: reward(), model, preprocess, device, weights, bias })
    }
}

impl Reward for Aesthetic {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        "aesthetic-2"
    }

    fn score(&self, images: &[RgbImageRef<'_>], _: &[&str]) -> Vec<Result<Score, MissingReason>> {
        let embed = |pixels| {
            let out = self.model.forward(pixels);
            // The constructor saw to it that there is a projection.
            out.image_embeds.unwrap_or(out.pooled)
        };
        score_images(images, &self.preprocess, &self.device, embed, |_, row| {
            let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let dot: f64 = row.iter().zip(&self.weights).map(|(v, w)| f64::from(*v) * w).sum();
            Score::new(dot / length + self.bias)
        })
    }
}
