//! Prompts to what the denoiser is conditioned on.

use burn::tensor::{Device, Int, Tensor, TensorData};
use craft_nn::clip::ClipTextModel;
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::weights;

pub use crate::condition::{Condition, TextEmbedding};
use crate::model::Model;

/// Texts that are encoded at a time. Does not change any embedding.
const BATCH: usize = 64;

impl Model {
    /// Embeddings of prompts. Equal for a text whatever stands beside it.
    ///
    /// Stable Diffusion takes the last states; SDXL the penultimate ones of both encoders side by side,
    /// and the projection of the second (diffusers `pipeline_stable_diffusion_xl.py`).
    pub fn encode_texts<S: AsRef<str>>(&self, texts: &[S]) -> Vec<TextEmbedding> {
        let mut out = Vec::with_capacity(texts.len());
        for part in texts.chunks(BATCH) {
            let tokens: Vec<Tokens> = part.iter().map(|text| self.tokens(text.as_ref())).collect();
            let tokens: Vec<&Tokens> = tokens.iter().collect();
            let second = self.second.as_ref().map(|second| &second.text);
            let (states, pooled) = encode(&self.text, second, &tokens, &self.device);
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

    /// Embeddings of negative prompts. `None` is what the model was trained with for no text: the empty
    /// text, or zeros.
    pub fn encode_negatives(&self, texts: &[Option<&str>]) -> Vec<TextEmbedding> {
        let known: Vec<&str> = texts.iter().map(|text| text.unwrap_or_default()).collect();
        let mut out = self.encode_texts(&known);
        if self.second.as_ref().is_some_and(|second| second.zero_empty) {
            for (embedding, text) in out.iter_mut().zip(texts) {
                if text.is_none() {
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
        pixels: [usize; 2],
        device: &Device,
    ) -> Condition {
        Condition::stack(embeddings, self.tokenizer.length(), pixels, device)
    }

    /// A text as both text encoders read it.
    pub fn tokens(&self, text: &str) -> Tokens {
        let ids = |tokenizer: &ClipTokenizer| {
            tokenizer.encode(text).ids.into_iter().map(i64::from).collect()
        };
        let second = self.second.as_ref().map(|second| ids(&second.tokenizer));
        Tokens { first: ids(&self.tokenizer), second: second.unwrap_or_default() }
    }

    /// How many tokens of a text are cut off, by the tokenizer that cuts most.
    pub fn tokens_cut(&self, text: &str) -> usize {
        let second = self.second.as_ref().map_or(0, |s| s.tokenizer.encode(text).tokens_cut);
        self.tokenizer.encode(text).tokens_cut.max(second)
    }
}

/// Token ids of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    /// For the text encoder.
    pub first: Vec<i64>,
    /// For the second text encoder; empty where there is none.
    pub second: Vec<i64>,
}

/// States `[B, L, D]` and, with a second encoder, pooled states `[B, P]` of texts.
pub fn encode(
    first: &ClipTextModel,
    second: Option<&ClipTextModel>,
    texts: &[&Tokens],
    device: &Device,
) -> (Tensor<3>, Option<Tensor<2>>) {
    let ids = |of: fn(&Tokens) -> &Vec<i64>| {
        let ids: Vec<i64> = texts.iter().flat_map(|t| of(t).iter().copied()).collect();
        let shape = [texts.len(), ids.len() / texts.len().max(1)];
        Tensor::<2, Int>::from_data(TensorData::new(ids, shape), device)
    };
    let one = first.forward(ids(|t| &t.first));
    let Some(second) = second else { return (one.last_hidden_state, None) };
    let two = second.forward(ids(|t| &t.second));
    let states = vec![one.penultimate_hidden_state, two.penultimate_hidden_state];
    (Tensor::cat(states, 2), Some(two.text_embeds.unwrap_or(two.pooled)))
}
