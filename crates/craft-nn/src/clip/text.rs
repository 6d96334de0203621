//! The text encoder.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::encoder::{ClipEncoder, Tower};
use super::{ClipTextConfig, drop_buffers, name_tower, normal_linear};
use crate::init::Init;
use crate::layers::{Embedding, LayerNorm, Linear};
use crate::ops;
use crate::weights::{self, TensorMap, WeightError};

/// Token plus position embeddings.
#[derive(Module, Debug)]
pub struct TextEmbeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

/// The text tower up to the pooled state.
#[derive(Module, Debug)]
pub struct TextTransformer {
    embeddings: TextEmbeddings,
    encoder: ClipEncoder,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    eos_token_id: u32,
}

/// States of a [`TextTransformer`].
#[derive(Clone, Debug)]
pub(super) struct TextStates {
    pub(super) last: Tensor<3>,
    pub(super) penultimate: Tensor<3>,
    pub(super) pooled: Tensor<2>,
}

impl TextTransformer {
    pub(super) fn new(init: &mut Init, config: &ClipTextConfig) -> Self {
        let width = config.hidden_size;
        let tower = Tower {
            width,
            inner: config.intermediate_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            act: config.hidden_act,
            eps: config.layer_norm_eps,
        };
        Self {
            embeddings: TextEmbeddings {
                token_embedding: Embedding::new(init, config.vocab_size, width, 0.02),
                position_embedding: Embedding::new(
                    init,
                    config.max_position_embeddings,
                    width,
                    0.02,
                ),
            },
            encoder: ClipEncoder::new(init, tower),
            final_layer_norm: LayerNorm::new(init, width, config.layer_norm_eps),
            eos_token_id: config.eos_token_id,
        }
    }

    pub(super) fn forward(&self, ids: Tensor<2, Int>) -> TextStates {
        let [batch, length] = ids.dims();
        let positions = self.embeddings.position_embedding.weight.val();
        let ends = end_positions(&ids, self.eos_token_id);
        let x = self.embeddings.token_embedding.forward(ids);
        let width = x.dims()[2];
        let positions = positions.narrow(0, 0, length).unsqueeze::<3>();
        let (penultimate, last) = self.encoder.forward(x + positions, true);
        let last = self.final_layer_norm.forward(last);
        let rows: Vec<i32> =
            ends.iter().enumerate().map(|(b, end)| (b * length + end) as i32).collect();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [batch]), &last.device());
        let pooled = last.clone().reshape([batch * length, width]).select(0, rows);
        TextStates { last, penultimate, pooled }
    }
}

/// Where each text ends: transformers' rule. With the legacy end token 2 the first largest id, else
/// the first end token; 0 if there is none.
fn end_positions(ids: &Tensor<2, Int>, eos: u32) -> Vec<usize> {
    let [batch, length] = ids.dims();
    let ids: Vec<i64> = ids.to_data().iter::<i64>().collect();
    (0..batch)
        .map(|b| {
            let row = &ids[b * length..(b + 1) * length];
            let end = if eos == 2 { row.iter().copied().max() } else { Some(i64::from(eos)) };
            row.iter().position(|id| Some(*id) == end).unwrap_or(0)
        })
        .collect()
}

/// What a text encoder gives.
#[derive(Clone, Debug)]
pub struct ClipTextOutput {
    /// States of the last layer after the final layer norm, `[B, L, width]`.
    pub last_hidden_state: Tensor<3>,
    /// States of the last layer but one, without layer norm (`hidden_states[-2]`), `[B, L, width]`.
    pub penultimate_hidden_state: Tensor<3>,
    /// Last hidden state of the end token, `[B, width]`.
    pub pooled: Tensor<2>,
    /// Projection of `pooled`, `[B, projection_dim]`, where the encoder has one. Not normalised.
    pub text_embeds: Option<Tensor<2>>,
}

/// `CLIPTextModel`, with `text_projection` also `CLIPTextModelWithProjection`.
#[derive(Module, Debug)]
pub struct ClipTextModel {
    text_model: TextTransformer,
    text_projection: Option<Linear>,
}

impl ClipTextModel {
    /// A network with CLIP's initialisation.
    pub fn new(init: &mut Init, config: &ClipTextConfig, projection: bool) -> Self {
        let std = 1.0 / (config.hidden_size as f32).sqrt();
        Self {
            text_model: TextTransformer::new(init, config),
            text_projection: projection.then(|| {
                normal_linear(init, config.hidden_size, config.projection_dim, false, std)
            }),
        }
    }

    /// A network with the weights of a file. It has a projection where the file has one.
    ///
    /// # Errors
    /// When names or shapes differ from what the config describes.
    pub fn from_tensors(
        config: &ClipTextConfig,
        mut tensors: TensorMap,
        device: &Device,
    ) -> Result<Self, WeightError> {
        drop_buffers(&mut tensors);
        name_tower(&mut tensors, "text_model");
        let projection = tensors.contains_key("text_projection.weight");
        weights::load(Self::new(&mut Init::zeros(device), config, projection), tensors)
    }

    /// [`ClipTextModel::from_tensors`] with tensors that are read one at a time. `found`: names and
    /// shapes of all that can be read.
    ///
    /// # Errors
    /// When names or shapes differ from what the config describes, or the first error of `read`.
    pub fn from_reader<E: From<WeightError>>(
        config: &ClipTextConfig,
        mut found: BTreeMap<String, Vec<usize>>,
        device: &Device,
        mut read: impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        drop_buffers(&mut found);
        let alone = name_tower(&mut found, "text_model");
        let projection = found.contains_key("text_projection.weight");
        let net = Self::new(&mut Init::zeros(device), config, projection);
        weights::load_with(net, &found, |name| {
            read(if alone { name.strip_prefix("text_model.").unwrap_or(name) } else { name })
        })
    }

    /// Token ids `[B, L]`, `L` at most `max_position_embeddings`, to states.
    pub fn forward(&self, ids: Tensor<2, Int>) -> ClipTextOutput {
        let states = self.text_model.forward(ids);
        let project = |p: &Linear| ops::linear(states.pooled.clone(), p.weight.val(), None);
        ClipTextOutput {
            text_embeds: self.text_projection.as_ref().map(project),
            last_hidden_state: states.last,
            penultimate_hidden_state: states.penultimate,
            pooled: states.pooled,
        }
    }

    /// States `[B, L, width]` to embeddings of every token, where the encoder has a projection.
    pub fn project(&self, states: Tensor<3>) -> Option<Tensor<3>> {
        self.text_projection.as_ref().map(|projection| projection.forward(states))
    }
}
