//! The text encoder that looks at a picture.
// Fields carry the names of the files, `LayerNorm` among them.
#![allow(non_snake_case)]

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;

use crate::clip::drop_buffers;
use crate::clip::infer::{heads, layers, shape, unclear};
use crate::config::ConfigError;
use crate::init::Init;
use crate::layers::{Embedding, LayerNorm, Linear};
use crate::ops::{self, Act};
use crate::weights::{self, TensorMap, WeightError};

/// Sizes of a [`BlipTextModel`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlipTextConfig {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Longest text in tokens.
    pub positions: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the image encoder's states.
    pub encoder_width: usize,
    /// Inner width of the feed-forward blocks.
    pub inner: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Added to variances in layer norms.
    pub eps: f64,
}

impl BlipTextConfig {
    /// The sizes of an encoder with these weights; heads and ε by `med_config.json` where it is
    /// given, else heads 64 wide and 1e-12.
    ///
    /// # Errors
    /// When tensors are missing, or the heads cannot be told.
    pub fn from_weights(
        weights: &TensorMap,
        med_config: Option<&str>,
    ) -> Result<Self, ConfigError> {
        #[derive(Default, Deserialize)]
        struct Raw {
            num_attention_heads: Option<usize>,
            layer_norm_eps: Option<f64>,
        }
        let raw: Raw = match med_config {
            Some(json) => serde_json::from_str(json)
                .map_err(|error| ConfigError::parse("BLIP's BertModel", &error))?,
            None => Raw::default(),
        };
        let [vocab_size, width] = shape(weights, "embeddings.word_embeddings.weight")?;
        let [positions, _] = shape(weights, "embeddings.position_embeddings.weight")?;
        let [_, encoder_width] = shape(weights, "encoder.layer.0.crossattention.self.key.weight")?;
        let [inner, _] = shape(weights, "encoder.layer.0.intermediate.dense.weight")?;
        let heads = match raw.num_attention_heads {
            Some(n) if n > 0 && width.is_multiple_of(n) => n,
            Some(n) => {
                let found = format!("num_attention_heads = {n} in med_config.json");
                return Err(unclear("the text encoder", found, format!("a divisor of {width}")));
            }
            None => heads("the text encoder", width)?,
        };
        Ok(Self {
            vocab_size,
            positions,
            width,
            encoder_width,
            inner,
            layers: layers(weights, "encoder.layer."),
            heads,
            eps: raw.layer_norm_eps.unwrap_or(1e-12),
        })
    }
}

#[derive(Module, Debug)]
struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    LayerNorm: LayerNorm,
}

/// Projections to query, key and value.
#[derive(Module, Debug)]
struct Qkv {
    query: Linear,
    key: Linear,
    value: Linear,
}

impl Qkv {
    fn new(init: &mut Init, width: usize, context: usize) -> Self {
        Self {
            query: Linear::new(init, width, width, true),
            key: Linear::new(init, context, width, true),
            value: Linear::new(init, context, width, true),
        }
    }

    fn forward(&self, x: Tensor<3>, context: Tensor<3>, heads: usize) -> Tensor<3> {
        let (k, v) = (self.key.forward(context.clone()), self.value.forward(context));
        ops::attention(self.query.forward(x), k, v, heads, false)
    }
}

/// A projection, the residual, and a layer norm over both.
#[derive(Module, Debug)]
struct Output {
    dense: Linear,
    LayerNorm: LayerNorm,
}

impl Output {
    fn new(init: &mut Init, input: usize, width: usize, eps: f64) -> Self {
        Self {
            dense: Linear::new(init, input, width, true),
            LayerNorm: LayerNorm::new(init, width, eps),
        }
    }

    fn forward(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        self.LayerNorm.forward(ops::add(self.dense.forward(x), residual))
    }
}

#[derive(Module, Debug)]
struct Layer {
    attention_at_self: Qkv,
    attention_at_output: Output,
    crossattention_at_self: Qkv,
    crossattention_at_output: Output,
    intermediate_at_dense: Linear,
    output: Output,
}

impl Layer {
    fn new(init: &mut Init, c: &BlipTextConfig) -> Self {
        Self {
            attention_at_self: Qkv::new(init, c.width, c.width),
            attention_at_output: Output::new(init, c.width, c.width, c.eps),
            crossattention_at_self: Qkv::new(init, c.width, c.encoder_width),
            crossattention_at_output: Output::new(init, c.width, c.width, c.eps),
            intermediate_at_dense: Linear::new(init, c.width, c.inner, true),
            output: Output::new(init, c.inner, c.width, c.eps),
        }
    }

    fn forward(&self, x: Tensor<3>, picture: &Tensor<3>, heads: usize) -> Tensor<3> {
        let own = self.attention_at_self.forward(x.clone(), x.clone(), heads);
        let x = self.attention_at_output.forward(own, x);
        let seen = self.crossattention_at_self.forward(x.clone(), picture.clone(), heads);
        let x = self.crossattention_at_output.forward(seen, x);
        let inner = ops::activation(self.intermediate_at_dense.forward(x.clone()), Act::Gelu);
        self.output.forward(inner, x)
    }
}

#[derive(Module, Debug)]
struct Encoder {
    layer: Vec<Layer>,
}

/// BLIP's `BertModel` without pooling, in its multimodal mode.
#[derive(Module, Debug)]
pub struct BlipTextModel {
    embeddings: Embeddings,
    encoder: Encoder,
    #[module(skip)]
    heads: usize,
}

impl BlipTextModel {
    /// A network with the weights of a file.
    ///
    /// # Errors
    /// When names or shapes differ from what the config describes.
    pub fn from_tensors(
        config: &BlipTextConfig,
        mut tensors: TensorMap,
        device: &Device,
    ) -> Result<Self, WeightError> {
        drop_buffers(&mut tensors);
        let init = &mut Init::zeros(device);
        let model = Self {
            embeddings: Embeddings {
                word_embeddings: Embedding::new(init, config.vocab_size, config.width, 0.02),
                position_embeddings: Embedding::new(init, config.positions, config.width, 0.02),
                LayerNorm: LayerNorm::new(init, config.width, config.eps),
            },
            encoder: Encoder {
                layer: (0..config.layers).map(|_| Layer::new(init, config)).collect(),
            },
            heads: config.heads,
        };
        weights::load(model, tensors)
    }

    /// Token ids `[B, L]` without padding, with the states of pictures `[B, P, encoder_width]`, to
    /// states `[B, L, width]`. (A padded text with its mask has the same states where it is not
    /// padded.)
    pub fn forward(&self, ids: Tensor<2, Int>, pictures: &Tensor<3>) -> Tensor<3> {
        let length = ids.dims()[1];
        let positions = self.embeddings.position_embeddings.weight.val().narrow(0, 0, length);
        let words = self.embeddings.word_embeddings.forward(ids);
        let mut x = self.embeddings.LayerNorm.forward(words + positions.unsqueeze::<3>());
        for layer in &self.encoder.layer {
            x = layer.forward(x, pictures, self.heads);
        }
        x
    }
}
