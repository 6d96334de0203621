//! The image encoder.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::encoder::{ClipEncoder, Tower};
use super::{ClipVisionConfig, drop_buffers, name_tower, normal_linear};
use crate::init::Init;
use crate::layers::{Conv2d, Embedding, LayerNorm, Linear};
use crate::ops;
use crate::weights::{self, TensorMap, WeightError};

/// Patches, the class token, and positions.
#[derive(Module, Debug)]
pub struct VisionEmbeddings {
    class_embedding: Param<Tensor<1>>,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
}

impl VisionEmbeddings {
    fn new(init: &mut Init, config: &ClipVisionConfig) -> Self {
        let (width, patch) = (config.hidden_size, config.patch_size);
        let tokens = (config.image_size / patch).pow(2) + 1;
        let mut patch_embedding = Conv2d::new(init, [3, width], patch, patch, [0; 4], false);
        patch_embedding.weight = init.normal([width, 3, patch, patch], 0.02);
        Self {
            class_embedding: init.normal([width], 1.0 / (width as f32).sqrt()),
            patch_embedding,
            position_embedding: Embedding::new(init, tokens, width, 0.02),
        }
    }

    fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        let batch = pixels.dims()[0];
        let patches = ops::to_tokens(self.patch_embedding.forward(pixels));
        let width = patches.dims()[2];
        let class = self.class_embedding.val().reshape([1, 1, width]).expand([batch, 1, width]);
        let positions = self.position_embedding.weight.val().unsqueeze::<3>();
        Tensor::cat(vec![class, patches], 1) + positions
    }
}

/// The image tower up to the pooled state.
#[derive(Module, Debug)]
pub struct VisionTransformer {
    embeddings: VisionEmbeddings,
    // Spelled so in every file there is.
    pre_layrnorm: LayerNorm,
    encoder: ClipEncoder,
    post_layernorm: LayerNorm,
}

impl VisionTransformer {
    pub(super) fn new(init: &mut Init, config: &ClipVisionConfig) -> Self {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let tower = Tower {
            width,
            inner: config.intermediate_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            act: config.hidden_act,
            eps,
        };
        Self {
            embeddings: VisionEmbeddings::new(init, config),
            pre_layrnorm: LayerNorm::new(init, width, eps),
            encoder: ClipEncoder::new(init, tower),
            post_layernorm: LayerNorm::new(init, width, eps),
        }
    }

    /// The last hidden state `[B, 1 + patches, width]` and the normed state of the class token.
    pub(super) fn forward(&self, pixels: Tensor<4>) -> (Tensor<3>, Tensor<2>) {
        let x = self.pre_layrnorm.forward(self.embeddings.forward(pixels));
        let (_, last) = self.encoder.forward(x, false);
        let [batch, _, width] = last.dims();
        let class = last.clone().narrow(1, 0, 1).reshape([batch, width]);
        (last, self.post_layernorm.forward(class))
    }
}

/// What an image encoder gives.
#[derive(Clone, Debug)]
pub struct ClipVisionOutput {
    /// States of the last layer, without layer norm, `[B, 1 + patches, width]`; the class token
    /// first.
    pub last_hidden_state: Tensor<3>,
    /// State of the class token after the last layer norm, `[B, width]`.
    pub pooled: Tensor<2>,
    /// Projection of `pooled`, `[B, projection_dim]`, where the encoder has one. Not normalised.
    pub image_embeds: Option<Tensor<2>>,
}

/// `CLIPVisionModel`, with `visual_projection` also `CLIPVisionModelWithProjection`.
#[derive(Module, Debug)]
pub struct ClipVisionModel {
    vision_model: VisionTransformer,
    visual_projection: Option<Linear>,
}

impl ClipVisionModel {
    /// A network with CLIP's initialisation.
    pub fn new(init: &mut Init, config: &ClipVisionConfig, projection: bool) -> Self {
        let std = 1.0 / (config.hidden_size as f32).sqrt();
        Self {
            vision_model: VisionTransformer::new(init, config),
            visual_projection: projection.then(|| {
                normal_linear(init, config.hidden_size, config.projection_dim, false, std)
            }),
        }
    }

    /// A network with the weights of a file; of a file of a whole `CLIPModel` its image tower. It
    /// has a projection where the file has one.
    ///
    /// # Errors
    /// When names or shapes differ from what the config describes.
    pub fn from_tensors(
        config: &ClipVisionConfig,
        mut tensors: TensorMap,
        device: &Device,
    ) -> Result<Self, WeightError> {
        drop_buffers(&mut tensors);
        name_tower(&mut tensors, "vision_model");
        tensors.retain(|name, _| {
            !name.starts_with("text_model.")
                && name != "text_projection.weight"
                && name != "logit_scale"
        });
        let projection = tensors.contains_key("visual_projection.weight");
        weights::load(Self::new(&mut Init::zeros(device), config, projection), tensors)
    }

    /// Normalised pixels `[B, 3, image_size, image_size]` to states.
    pub fn forward(&self, pixels: Tensor<4>) -> ClipVisionOutput {
        let (last_hidden_state, pooled) = self.vision_model.forward(pixels);
        let project = |p: &Linear| ops::linear(pooled.clone(), p.weight.val(), None);
        ClipVisionOutput {
            image_embeds: self.visual_projection.as_ref().map(project),
            last_hidden_state,
            pooled,
        }
    }

    /// States `[B, L, width]` to embeddings of every token, where the encoder has a projection.
    pub fn project(&self, states: Tensor<3>) -> Option<Tensor<3>> {
        self.visual_projection.as_ref().map(|projection| projection.forward(states))
    }
}
