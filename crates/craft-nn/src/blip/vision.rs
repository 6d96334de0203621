//! The image encoder.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::clip::infer::{heads, layers, shape, unclear};
use crate::config::ConfigError;
use crate::init::Init;
use crate::layers::{Conv2d, LayerNorm, Linear};
use crate::ops::{self, Act};
use crate::weights::{self, TensorMap, WeightError};

/// Added to variances in layer norms.
const EPS: f64 = 1e-6;

/// Sizes of a [`BlipVisionModel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlipVisionConfig {
    /// Width of the residual stream.
    pub width: usize,
    /// Inner width of the feed-forward blocks.
    pub inner: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Height and width of its images in pixels.
    pub image_size: usize,
    /// Height and width of a patch in pixels.
    pub patch_size: usize,
}

impl BlipVisionConfig {
    /// The sizes of an encoder with these weights; heads are 64 wide, as in all that are published.
    ///
    /// # Errors
    /// When tensors are missing, or the heads cannot be told.
    pub fn from_weights(weights: &TensorMap) -> Result<Self, ConfigError> {
        let [width, _, patch_size, _] = shape(weights, "patch_embed.proj.weight")?;
        let [_, positions, _] = shape(weights, "pos_embed")?;
        let side = positions.saturating_sub(1).isqrt();
        if side == 0 || side * side + 1 != positions {
            let expected = "a square number and one".to_owned();
            return Err(unclear("pos_embed", format!("{positions} positions"), expected));
        }
        let [inner, _] = shape(weights, "blocks.0.mlp.fc1.weight")?;
        let heads = heads("the image encoder", width)?;
        let layers = layers(weights, "blocks.");
        Ok(Self { width, inner, layers, heads, image_size: side * patch_size, patch_size })
    }
}

#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Conv2d,
}

#[derive(Module, Debug)]
struct VisionAttention {
    qkv: Linear,
    proj: Linear,
}

#[derive(Module, Debug)]
struct VisionMlp {
    fc1: Linear,
    fc2: Linear,
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: VisionAttention,
    norm2: LayerNorm,
    mlp: VisionMlp,
}

impl Block {
    fn new(init: &mut Init, c: &BlipVisionConfig) -> Self {
        Self {
            norm1: LayerNorm::new(init, c.width, EPS),
            attn: VisionAttention {
                qkv: Linear::new(init, c.width, 3 * c.width, true),
                proj: Linear::new(init, c.width, c.width, true),
            },
            norm2: LayerNorm::new(init, c.width, EPS),
            mlp: VisionMlp {
                fc1: Linear::new(init, c.width, c.inner, true),
                fc2: Linear::new(init, c.inner, c.width, true),
            },
        }
    }

    fn forward(&self, x: Tensor<3>, heads: usize) -> Tensor<3> {
        let width = x.dims()[2];
        let qkv = self.attn.qkv.forward(self.norm1.forward(x.clone()));
        let part = |i: usize| qkv.clone().narrow(2, i * width, width);
        let attended = ops::attention(part(0), part(1), part(2), heads, false);
        let x = ops::add(self.attn.proj.forward(attended), x);
        let inner = self.mlp.fc1.forward(self.norm2.forward(x.clone()));
        ops::add(self.mlp.fc2.forward(ops::activation(inner, Act::Gelu)), x)
    }
}

/// BLIP's `VisionTransformer`.
#[derive(Module, Debug)]
pub struct BlipVisionModel {
    cls_token: Param<Tensor<3>>,
    pos_embed: Param<Tensor<3>>,
    patch_embed: PatchEmbed,
    blocks: Vec<Block>,
    norm: LayerNorm,
    #[module(skip)]
    heads: usize,
}

impl BlipVisionModel {
    /// A network with the weights of a file.
    ///
    /// # Errors
    /// When names or shapes differ from what the config describes.
    pub fn from_tensors(
        config: &BlipVisionConfig,
        tensors: TensorMap,
        device: &Device,
    ) -> Result<Self, WeightError> {
        let init = &mut Init::zeros(device);
        let (width, patch) = (config.width, config.patch_size);
        let tokens = (config.image_size / patch.max(1)).pow(2) + 1;
        let model = Self {
            cls_token: init.constant([1, 1, width], 0.0),
            pos_embed: init.constant([1, tokens, width], 0.0),
            patch_embed: PatchEmbed {
                proj: Conv2d::new(init, [3, width], patch, patch, [0; 4], true),
            },
            blocks: (0..config.layers).map(|_| Block::new(init, config)).collect(),
            norm: LayerNorm::new(init, width, EPS),
            heads: config.heads,
        };
        weights::load(model, tensors)
    }

    /// States of a picture: one for the whole and one a patch.
    pub fn tokens(&self) -> usize {
        self.pos_embed.val().dims()[1]
    }

    /// Normalised pixels `[B, 3, image_size, image_size]` to states `[B, 1 + patches, width]`.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        let patches = ops::to_tokens(self.patch_embed.proj.forward(pixels));
        let [batch, _, width] = patches.dims();
        let class = self.cls_token.val().expand([batch, 1, width]);
        let mut x = Tensor::cat(vec![class, patches], 1) + self.pos_embed.val();
        for block in &self.blocks {
            x = block.forward(x, self.heads);
        }
        self.norm.forward(x)
    }
}
