//! The LAION aesthetic predictors: v2
//! (github.com/christophschuhmann/improved-aesthetic-predictor, `simple_inference.py`) and the linear heads
//! before it (github.com/LAION-AI/aesthetic-predictor).

mod head;

use std::sync::Arc;

use burn::tensor::Device;
use craft_nn::ops::Act;
use craft_nn::weights::TensorMap;

pub use head::AestheticHead;
use head::{fold, maps, with_relu};
pub(crate) use head::{is_head, take_head};

use crate::clip::{ClipWeights, is_tower, vision_sizes};
use crate::error::RewardError;
use crate::files::RewardFiles;
use crate::preprocess::{Fit, Preprocess};
use crate::reward::{MissingReason, Reward, RgbImageRef, Score};
use crate::tower::{ImageTower, Towers};

/// Aesthetic score of a picture, whatever its prompt: an affine map of CLIP's image embedding of
/// length 1. The published weights give about 4.5 to 7.
///
/// Weights of the head with names `layers.{0,2,4,6,7}.{weight,bias}`, or with a ReLU between the maps
/// `layers.{0,3,6,9,11}.…`, or of one linear map `weight`, `bias`; and of a CLIP image encoder with
/// its projection: OpenAI's ViT-L/14, for the smaller linear heads ViT-B/32 or ViT-B/16. The encoder may be part of a whole CLIP
/// model, with transformers', open_clip's or OpenAI's names; its sizes follow from its `config.json` or
/// from the weights.
#[derive(Debug)]
pub struct Aesthetic {
    name: String,
    tower: Arc<ImageTower>,
    head: Head,
}

/// A head in use.
#[derive(Debug)]
enum Head {
    /// One affine map.
    Affine(AffineHead),
    /// Maps with activations between, as the file has them.
    Relu(TensorMap),
}

impl Aesthetic {
    /// Builds the reward.
    ///
    /// # Errors
    /// When a file is missing, malformed, or does not fit the others.
    pub fn new(
        name: &str,
        mut files: RewardFiles,
        device: &Device,
        towers: &mut Towers,
    ) -> Result<Self, RewardError> {
        let device = device.clone().without_autodiff();
        let head = take_head(name, &mut files)?;
        let tower = "the image encoder with its projection (model.safetensors of CLIP ViT-L/14), in a folder clip-vit-large-patch14 beside the head or named after a comma, HEAD.pth,FOLDER,";
        let tower = files.take_weights(name, tower, is_tower)?;
        let tower = ClipWeights::new(name, tower)?.vision;
        let config = vision_sizes(name, &files, &tower, Act::QuickGelu)?;
        let preprocess = Preprocess::clip(Fit::CentreCropEven, config.image_size);
        let preprocess = preprocess.configured(name, &files)?;
        let head = match maps(name, &head, config.projection_dim)? {
            (_, true) => Head::Relu(head),
            _ => Head::Affine(AffineHead::new(name, &head, config.projection_dim)?),
        };
        let tower = towers.image(name, &config, preprocess, tower, &device)?;
        Ok(Self { name: name.to_owned(), tower, head })
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
        self.tower.embed(images).into_iter().map(|row| Score::new(self.value(&row?))).collect()
    }
}

impl Aesthetic {
    /// The head's value for an embedding brought to length 1.
    fn value(&self, row: &[f32]) -> f64 {
        match &self.head {
            Head::Affine(head) => head.of_unit(row),
            Head::Relu(head) => {
                let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                let unit: Vec<f64> = row.iter().map(|v| f64::from(*v) / length).collect();
                // The shapes were checked when it was built.
                maps(&self.name, head, row.len()).map_or(f64::NAN, |(m, _)| with_relu(&m, &unit))
            }
        }
    }
}

/// The head, folded to one affine map.
#[derive(Debug)]
pub struct AffineHead {
    weights: Vec<f64>,
    bias: f64,
}

impl AffineHead {
    /// Folds a head for embeddings of a width.
    ///
    /// # Errors
    /// When a tensor is missing, unknown or misshapen.
    pub fn new(name: &str, head: &TensorMap, width: usize) -> Result<Self, RewardError> {
        let (maps, relu) = maps(name, head, width)?;
        if relu {
            return Err(RewardError::File {
                reward: name.to_owned(),
                file: "the head".to_owned(),
                found: "the names of a head with activations between its maps".to_owned(),
                expected: "a head without them, layers.{0,2,4,6,7}: use the published head"
                    .to_owned(),
            });
        }
        let (weights, bias) = fold(&maps);
        Ok(Self { weights, bias })
    }

    /// The head's value for an embedding as it is.
    pub fn apply(&self, row: &[f32]) -> f64 {
        self.dot(row) + self.bias
    }

    /// The head's value for an embedding brought to length 1.
    pub(crate) fn of_unit(&self, row: &[f32]) -> f64 {
        let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        self.dot(row) / length + self.bias
    }

    fn dot(&self, row: &[f32]) -> f64 {
        row.iter().zip(&self.weights).map(|(v, w)| f64::from(*v) * w).sum()
    }
}
