//! Both encoders with a common embedding.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};

use super::{
    ClipConfig, TextTransformer, VisionTransformer, drop_buffers, normal_linear, scalar_to_vector,
};
use crate::init::Init;
use crate::layers::Linear;
use crate::weights::{self, TensorMap, WeightError};

const LOGIT_SCALE: &str = "logit_scale";

/// `CLIPModel`.
#[derive(Module, Debug)]
pub struct ClipModel {
    text_model: TextTransformer,
    vision_model: VisionTransformer,
    visual_projection: Linear,
    text_projection: Linear,
    /// Logarithm of the scale of similarities, `[1]` here and 0-d in files.
    pub logit_scale: Param<Tensor<1>>,
}

impl ClipModel {
    /// A network with CLIP's initialisation.
    pub fn new(init: &mut Init, config: &ClipConfig) -> Self {
        let (text, vision) = (&config.text_config, &config.vision_config);
        let project = |init: &mut Init, width: usize| {
            normal_linear(init, width, config.projection_dim, false, 1.0 / (width as f32).sqrt())
        };
        Self {
            text_model: TextTransformer::new(init, text),
            vision_model: VisionTransformer::new(init, vision),
            visual_projection: project(init, vision.hidden_size),
            text_projection: project(init, text.hidden_size),
            logit_scale: init.constant([1], config.logit_scale_init_value as f32),
        }
    }

    /// A network with the weights of a file with transformers' names.
    ///
    /// # Errors
    /// When names or shapes differ from what the config describes.
    pub fn from_tensors(
        config: &ClipConfig,
        mut tensors: TensorMap,
        device: &Device,
    ) -> Result<Self, WeightError> {
        drop_buffers(&mut tensors);
        scalar_to_vector(&mut tensors, LOGIT_SCALE);
        weights::load(Self::new(&mut Init::zeros(device), config), tensors)
    }

    /// The weights with transformers' names and shapes.
    pub fn to_tensors(&self) -> TensorMap {
        let mut tensors = weights::export(self);
        if let Some(scale) = tensors.get_mut(LOGIT_SCALE) {
            scale.shape.clear();
        }
        tensors
    }

    /// Embeddings `[B, projection_dim]` of normalised pixels `[B, 3, image_size, image_size]`.
    pub fn image_features(&self, pixels: Tensor<4>) -> Tensor<2> {
        self.visual_projection.forward(self.vision_model.forward(pixels).1)
    }

    /// Embeddings `[B, projection_dim]` of token ids `[B, L]`.
    pub fn text_features(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        self.text_projection.forward(self.text_model.forward(ids).pooled)
    }

    /// [`ClipModel::image_features`] with length 1.
    pub fn image_embeds(&self, pixels: Tensor<4>) -> Tensor<2> {
        normalise(self.image_features(pixels))
    }

    /// [`ClipModel::text_features`] with length 1.
    pub fn text_embeds(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        normalise(self.text_features(ids))
    }

    /// The scale of similarities, `exp(logit_scale)`, `[1]`.
    pub fn scale(&self) -> Tensor<1> {
        self.logit_scale.val().exp()
    }
}

/// Rows of `[B, D]` divided by their Euclidean lengths.
pub fn normalise(x: Tensor<2>) -> Tensor<2> {
    let length = x.clone().powi_scalar(2).sum_dim(1).sqrt();
    x / length
}
