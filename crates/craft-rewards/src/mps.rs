//! MPS, the multi-dimensional preference score (github.com/Kwai-Kolors/MPS): a CLIP ViT-H/14 whose image
//! tokens look at those words of the prompt that match a fixed list of qualities.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use burn::tensor::{Device, Tensor, TensorData};
use craft_nn::clip::{ClipTextModel, ClipVisionModel};
use craft_nn::mps::{CrossConfig, CrossModel};
use craft_nn::open_clip::unwrap_prefix;
use craft_nn::ops::Act;
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::weights::{TensorMap, to_vec};

use crate::clip::{ClipSizes, ClipWeights};
use crate::dual::cosine;
use crate::error::RewardError;
use crate::files::RewardFiles;
use crate::preprocess::{Fit, Preprocess};
use crate::reward::{MissingReason, Reward, RgbImageRef, Score};
use crate::tower::{BATCH, each_text, encode_images, token_ids};

/// What the published checkpoint was trained to look for ("overall").
const CONDITION: &str = "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance, texture, quantity, attributes, position, number, location, word, things.";
/// Words whose likeness to the condition, relative to the likest, is at most this are not looked at.
const THRESHOLD: f64 = 0.01;
const CROSS: &str = "cross_model.";

/// MPS: `exp(logit_scale)` times the cosine of the prompt and the picture that was read with it; about
/// 8 to 17 for the published weights.
///
/// Weights as a state dict or safetensors with names `model.` (a CLIP model of transformers) and
/// `cross_model.`; sizes follow from `config.json` or from the weights.
#[derive(Debug)]
pub struct Mps {
    name: String,
    vision: ClipVisionModel,
    text: ClipTextModel,
    cross: CrossModel,
    scale: f64,
    width: usize,
    tokenizer: ClipTokenizer,
    preprocess: Preprocess,
    device: Device,
    /// Token embeddings of the condition; made with the first score.
    condition: OnceLock<Vec<f32>>,
}

/// Whether a name is of MPS's weights.
pub(crate) fn is_mps(name: &str) -> bool {
    name.contains("cross_model.layers.")
}

/// A prompt as the cross model sees it.
struct Read {
    /// Embedding of the end token.
    end: Vec<f32>,
    /// Embeddings of the words to look at, one after the other.
    words: Vec<f32>,
}

impl Mps {
    /// Builds the reward.
    ///
    /// # Errors
    /// When a file is missing, malformed, or does not fit the others.
    pub fn new(name: &str, mut files: RewardFiles, device: &Device) -> Result<Self, RewardError> {
        let device = device.clone().without_autodiff();
        let reward = || name.to_owned();
        let weight_error = |source| RewardError::Weights { reward: reward(), source };
        let what = "the weights (a state dict or safetensors of MPS, with cross_model.)";
        let all = files.take_weights(name, what, is_mps)?;
        let (mut clip, mut cross) = (TensorMap::new(), TensorMap::new());
        for (key, tensor) in unwrap_prefix(all, &["mps.", "module."]) {
            match key.strip_prefix(CROSS) {
                Some(rest) => cross.insert(rest.to_owned(), tensor),
                None => clip.insert(key, tensor),
            };
        }
        let clip = ClipWeights::new(name, clip)?;
        let sizes = ClipSizes::of(name, &files, &clip, Act::Gelu)?;
        let config = CrossConfig::from_weights(&cross)
            .map_err(|source| RewardError::Config { reward: reward(), source })?;
        let width = sizes.vision.projection_dim;
        let scale = clip.logit_scale.filter(|_| config.width == width).ok_or_else(|| {
            RewardError::File {
                reward: reward(),
                file: "the weights".to_owned(),
                found: format!(
                    "a cross model of width {} and embeddings of width {width}, logit_scale {:?}",
                    config.width, clip.logit_scale
                ),
                expected: "equal widths, and a logit_scale".to_owned(),
            }
        })?;
        let preprocess = Preprocess::clip(Fit::CentreCrop, sizes.vision.image_size);
        let preprocess = preprocess.configured(name, &files)?;
        let tokenizer = files.tokenizer(name, &sizes.text)?;
        let vision = ClipVisionModel::from_tensors(&sizes.vision, clip.vision, &device)
            .map_err(weight_error)?;
        let text =
            ClipTextModel::from_tensors(&sizes.text, clip.text, &device).map_err(weight_error)?;
        let cross = CrossModel::from_tensors(&config, cross, &device).map_err(weight_error)?;
        Ok(Self {
            name: reward(),
            vision,
            text,
            cross,
            scale: f64::from(scale).exp(),
            width,
            tokenizer,
            preprocess,
            device,
            condition: OnceLock::new(),
        })
    }

    /// Embeddings of every token and of the end token, `[B, L + 1, width]`.
    fn embed(&self, texts: &[&str]) -> Tensor<3> {
        let out = self.text.forward(token_ids(texts, &self.tokenizer, &self.device));
        let tokens = self.text.project(out.last_hidden_state.clone());
        let end = out.text_embeds.unwrap_or(out.pooled).unsqueeze_dim::<3>(1);
        Tensor::cat(vec![tokens.unwrap_or(out.last_hidden_state), end], 1)
    }

    /// Reads each different prompt once.
    fn read<'a>(&self, prompts: &[&'a str]) -> BTreeMap<&'a str, Read> {
        let condition = self.condition.get_or_init(|| to_vec(self.embed(&[CONDITION])));
        let tokens = |row: &[f32]| row.len() - self.width;
        let condition: Vec<&[f32]> =
            condition[..tokens(condition)].chunks_exact(self.width).collect();
        let pick = |row: Vec<f32>| {
            let (words, end) = row.split_at(tokens(&row));
            let words: Vec<&[f32]> = words.chunks_exact(self.width).collect();
            // Per word the likeness to the likest word of the condition.
            let likeness = words.iter().map(|word| {
                let products = condition.iter().map(|other| dot(word, other));
                products.fold(f64::NEG_INFINITY, f64::max)
            });
            let likeness: Vec<f64> = likeness.collect();
            let most = likeness.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let seen = words.iter().zip(&likeness).filter(|(_, like)| *like / most > THRESHOLD);
            Read {
                words: seen.flat_map(|(word, _)| word.iter().copied()).collect(),
                end: end.to_vec(),
            }
        };
        let rows = each_text(prompts, |batch| self.embed(batch));
        rows.into_iter().map(|(prompt, row)| (prompt, pick(row))).collect()
    }

    /// The first token of every picture after the cross model.
    fn look(&self, pictures: &[&[f32]], words: &[f32]) -> Vec<Vec<f32>> {
        let (count, width) = (pictures.len(), self.width);
        let tokens = pictures[0].len() / width;
        let x = TensorData::new(pictures.concat(), [count, tokens, width]);
        let words = TensorData::new(words.repeat(count), [count, words.len() / width, width]);
        let (x, words) =
            (Tensor::from_data(x, &self.device), Tensor::from_data(words, &self.device));
        let first = to_vec(self.cross.forward(x, &words).narrow(1, 0, 1));
        first.chunks_exact(width).map(<[f32]>::to_vec).collect()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

impl Reward for Mps {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        "mps-1"
    }

    fn tokens_cut(&self, prompt: &str) -> usize {
        self.tokenizer.encode(prompt).tokens_cut
    }

    fn score(
        &self,
        images: &[RgbImageRef<'_>],
        prompts: &[&str],
    ) -> Vec<Result<Score, MissingReason>> {
        let texts = self.read(prompts);
        let mut scores = Vec::with_capacity(images.len());
        for batch in images.chunks(BATCH) {
            let first = scores.len();
            let states = encode_images(batch, &self.preprocess, &self.device, |pixels| {
                let states = self.vision.forward(pixels).last_hidden_state;
                self.vision.project(states.clone()).unwrap_or(states)
            });
            // Pictures of one prompt go through the cross model together.
            let mut by_prompt: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for (i, state) in states.iter().enumerate() {
                let prompt = prompts.get(first + i).copied();
                scores.push(match (state, prompt.and_then(|p| Some((p, texts.get(p)?)))) {
                    (Err(reason), _) => Err(reason.clone()),
                    (Ok(_), None) => Err(MissingReason::NoPrompt),
                    // Nothing to look at: the prompt's embeddings are not numbers.
                    (Ok(_), Some((_, read))) if read.words.is_empty() => {
                        Err(MissingReason::NotFinite(f64::NAN))
                    }
                    (Ok(_), Some((prompt, _))) => {
                        by_prompt.entry(prompt).or_default().push(i);
                        Err(MissingReason::NoPrompt) // Replaced below.
                    }
                });
            }
            for (prompt, group) in by_prompt {
                let read = &texts[prompt];
                let pictures: Vec<&[f32]> =
                    group.iter().map(|i| states[*i].as_deref().unwrap_or_default()).collect();
                for (i, row) in group.iter().zip(self.look(&pictures, &read.words)) {
                    scores[first + i] = Score::new(self.scale * cosine(&row, &read.end));
                }
            }
        }
        scores
    }
}
