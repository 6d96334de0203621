//! Prompts to what the denoiser is conditioned on.

use burn::tensor::{Device, Tensor, TensorData};
use craft_nn::clip::ClipTextModel;
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::unet::AddedCondition;
use craft_nn::weights;

use crate::model::Model;

/// Texts that are encoded at a time. Does not change any embedding.
const BATCH: usize = 64;

/// SDXL's second text encoder.
#[derive(Debug)]
pub struct SecondEncoder {
    /// The network, with a projection.
    pub text: ClipTextModel,
    /// Its tokenizer, which pads otherwise than the first.
    pub tokenizer: ClipTokenizer,
    /// Whether an empty negative prompt is all zeros (`force_zeros_for_empty_prompt`).
    pub zero_empty: bool,
}

/// A text as the denoiser sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextEmbedding {
    /// States of the tokens, `[L · D]`.
    pub states: Vec<f32>,
    /// Projected state of the whole text, `[P]`; empty but for SDXL.
    pub pooled: Vec<f32>,
}

/// The embeddings of a batch on a device.
#[derive(Clone, Debug)]
pub struct Condition {
    /// States of the tokens, `[B, L, D]`.
    pub states: Tensor<3>,
    /// What SDXL needs beside.
    pub added: Option<AddedCondition>,
}

impl Model {
    /// Embeddings of prompts. Equal for a text whatever stands beside it.
    ///
    /// Stable Diffusion takes the last states; SDXL the penultimate ones of both encoders side by side,
    /// and the projection of the second (diffusers `pipeline_stable_diffusion_xl.py`).
    pub fn encode_texts<S: AsRef<str>>(&self, texts: &[S]) -> Vec<TextEmbedding> {
        let mut out = Vec::with_capacity(texts.len());
        for part in texts.chunks(BATCH) {
            let first = self.text.forward(self.ids(&self.tokenizer, part));
            let (states, pooled) = match &self.second {
                None => (first.last_hidden_state, None),
                Some(second) => {
                    let other = second.text.forward(self.ids(&second.tokenizer, part));
                    let states =
                        vec![first.penultimate_hidden_state, other.penultimate_hidden_state];
                    (Tensor::cat(states, 2), Some(other.text_embeds.unwrap_or(other.pooled)))
                }
            };
            let rows = |data: Vec<f32>| {
                let n = data.len() / part.len();
                data.chunks_exact(n).map(<[f32]>::to_vec).collect::<Vec<_>>()
            };
            let states = rows(weights::to_vec(states));
            let pooled = match pooled {
                Some(pooled) => rows(weights::to_vec(pooled)),
                None => vec![Vec::new(); part.len()],
            };
            let pairs = states.into_iter().zip(pooled);
            out.extend(pairs.map(|(states, pooled)| TextEmbedding { states, pooled }));
        }
        out
    }

    /// Embeddings of negative prompts. An empty one is what the model was trained with for no text: the
    /// empty text, or zeros.
    pub fn encode_negatives<S: AsRef<str>>(&self, texts: &[S]) -> Vec<TextEmbedding> {
        let mut out = self.encode_texts(texts);
        if self.second.as_ref().is_some_and(|second| second.zero_empty) {
            for (embedding, text) in out.iter_mut().zip(texts) {
                if text.as_ref().is_empty() {
                    embedding.states.fill(0.0);
                    embedding.pooled.fill(0.0);
                }
            }
        }
        out
    }

    /// Stacks embeddings for pictures of a height and width in pixels.
    pub fn condition(
        &self,
        embeddings: &[&TextEmbedding],
        [height, width]: [usize; 2],
        device: &Device,
    ) -> Condition {
        let length = self.tokenizer.length();
        let b = embeddings.len();
        let states: Vec<f32> = embeddings.iter().flat_map(|e| e.states.iter().copied()).collect();
        let features = states.len() / (b * length).max(1);
        let states = Tensor::from_data(TensorData::new(states, [b, length, features]), device);
        let added = self.second.is_some().then(|| {
            let pooled: Vec<f32> =
                embeddings.iter().flat_map(|e| e.pooled.iter().copied()).collect();
            let features = pooled.len() / b.max(1);
            let (height, width) = (height as f32, width as f32);
            AddedCondition {
                text_embeds: Tensor::from_data(TensorData::new(pooled, [b, features]), device),
                // Original size, crop, target size: the picture whole.
                time_ids: vec![vec![height, width, 0.0, 0.0, height, width]; b],
            }
        });
        Condition { states, added }
    }

    /// How many tokens of a text are cut off, by the tokenizer that cuts most.
    pub fn tokens_cut(&self, text: &str) -> usize {
        let second = self.second.as_ref().map_or(0, |s| s.tokenizer.encode(text).tokens_cut);
        self.tokenizer.encode(text).tokens_cut.max(second)
    }

    fn ids<S: AsRef<str>>(
        &self,
        tokenizer: &ClipTokenizer,
        texts: &[S],
    ) -> Tensor<2, burn::tensor::Int> {
        let ids: Vec<i64> = texts
            .iter()
            .flat_map(|t| tokenizer.encode(t.as_ref()).ids.into_iter().map(i64::from))
            .collect();
        let shape = [texts.len(), tokenizer.length()];
        Tensor::from_data(TensorData::new(ids, shape), &self.device)
    }
}
