//! ImageReward v1.0 (github.com/THUDM/ImageReward, `ImageReward/ImageReward.py`): BLIP reads the prompt
//! with an eye on the picture, and a head turns the state of the first token into a score.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use craft_nn::blip::{BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel};
use craft_nn::open_clip::unwrap_prefix;
use craft_nn::tokenizer::BertTokenizer;
use craft_nn::weights::{TensorMap, to_vec};

use crate::aesthetic::AffineHead;
use crate::error::RewardError;
use crate::files::RewardFiles;
use crate::preprocess::{Fit, Preprocess};
use crate::reward::{MissingReason, Reward, RgbImageRef, Score};
use crate::tower::{BATCH, encode_images};

/// Longest prompt, begin and end included.
const LENGTH: usize = 35;
/// Mean and standard deviation of the head's values, which the score is freed of.
const MEAN: f64 = 0.167_173_628_300_524_26;
const STD: f64 = 1.033_339_496_605_407_2;

/// ImageReward: about −2.3 to 2 for the published weights.
///
/// Weights as published (`ImageReward.pt`, names `blip.` and `mlp.`), beside `vocab.txt` or
/// `tokenizer.json` of bert-base-uncased. Sizes follow from the weights; `med_config.json`, where it is there, says the
/// heads of the text encoder.
#[derive(Debug)]
pub struct ImageReward {
    name: String,
    vision: BlipVisionModel,
    text: BlipTextModel,
    head: AffineHead,
    tokenizer: BertTokenizer,
    preprocess: Preprocess,
    device: Device,
}

/// Whether a name is of ImageReward's weights.
pub(crate) fn is_imagereward(name: &str) -> bool {
    name.ends_with("visual_encoder.cls_token")
}

impl ImageReward {
    /// Builds the reward.
    ///
    /// # Errors
    /// When a file is missing, malformed, or does not fit the others.
    pub fn new(name: &str, mut files: RewardFiles, device: &Device) -> Result<Self, RewardError> {
        let device = device.clone().without_autodiff();
        let reward = || name.to_owned();
        let config_error = |source| RewardError::Config { reward: reward(), source };
        let weight_error = |source| RewardError::Weights { reward: reward(), source };
        let all = files.take_weights(name, "the weights (ImageReward.pt)", is_imagereward)?;
        let mut parts = parts(name, unwrap_prefix(all, &["model.", "module."]))?;
        let mut part = |prefix: &str| parts.remove(prefix).unwrap_or_default();
        let (vision, text, head) = (part(VISION), part(TEXT), part(HEAD));
        let sizes = BlipVisionConfig::from_weights(&vision).map_err(config_error)?;
        let vision =
            BlipVisionModel::from_tensors(&sizes, vision, &device).map_err(weight_error)?;
        let preprocess = Preprocess::clip(Fit::CentreCropEven, sizes.image_size);
        let preprocess = preprocess.configured(name, &files)?;
        let sizes = BlipTextConfig::from_weights(&text, files.text("med_config.json"))
            .map_err(config_error)?;
        let text = BlipTextModel::from_tensors(&sizes, text, &device).map_err(weight_error)?;
        let head = AffineHead::new(name, &head, sizes.width)?;
        let length = LENGTH.min(sizes.positions);
        let tokenizer = match (files.text("vocab.txt"), files.text("tokenizer.json")) {
            (Some(vocab), _) => BertTokenizer::from_vocab(vocab, length),
            (None, Some(json)) => BertTokenizer::from_tokenizer_json(json, length),
            (None, None) => {
                return Err(RewardError::MissingFile {
                    reward: reward(),
                    file: "vocab.txt (or tokenizer.json) of bert-base-uncased".to_owned(),
                });
            }
        };
        let tokenizer =
            tokenizer.map_err(|source| RewardError::Tokenizer { reward: reward(), source })?;
        if tokenizer.vocab_size() > sizes.vocab_size {
            return Err(RewardError::File {
                reward: reward(),
                file: "vocab.txt".to_owned(),
                found: format!("{} tokens", tokenizer.vocab_size()),
                expected: format!("at most {}, as the weights have", sizes.vocab_size),
            });
        }
        Ok(Self { name: reward(), vision, text, head, tokenizer, preprocess, device })
    }

    /// The ids of a prompt, without padding: a padded token is looked at by none.
    fn ids(&self, prompt: &str) -> Vec<u32> {
        let encoded = self.tokenizer.encode(prompt);
        let padding = self.tokenizer.pad();
        let end = encoded.ids.iter().rposition(|id| *id != padding).map_or(0, |last| last + 1);
        encoded.ids[..end].to_vec()
    }

    /// States of the first token for pictures whose prompts have the same number of ids.
    fn read(&self, ids: &[&[u32]], pictures: &[&[f32]], picture_width: usize) -> Vec<Vec<f32>> {
        let (count, length) = (ids.len(), ids[0].len());
        let ids: Vec<i32> = ids.iter().flat_map(|row| row.iter().map(|id| *id as i32)).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [count, length]), &self.device);
        let tokens = pictures[0].len() / picture_width;
        let states = TensorData::new(pictures.concat(), [count, tokens, picture_width]);
        let states = self.text.forward(ids, &Tensor::from_data(states, &self.device));
        let width = states.dims()[2];
        let first = to_vec(states.narrow(1, 0, 1));
        first.chunks_exact(width).map(<[f32]>::to_vec).collect()
    }
}

const VISION: &str = "blip.visual_encoder.";
const TEXT: &str = "blip.text_encoder.";
const HEAD: &str = "mlp.";
/// Parts that the file carries from BLIP's training; the score does not use them.
const UNUSED: [&str; 3] = ["blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.pooler."];

/// The tensors of each part, without its prefix.
fn parts(reward: &str, all: TensorMap) -> Result<BTreeMap<&'static str, TensorMap>, RewardError> {
    let mut parts: BTreeMap<&str, TensorMap> = BTreeMap::new();
    for (name, tensor) in all {
        if UNUSED.iter().any(|unused| name.starts_with(unused)) {
            continue;
        }
        let prefix = [VISION, TEXT, HEAD].into_iter().find(|prefix| name.starts_with(prefix));
        let Some(prefix) = prefix else {
            return Err(RewardError::File {
                reward: reward.to_owned(),
                file: "the weights".to_owned(),
                found: format!("tensor {name}"),
                expected: format!("names that begin with {VISION}, {TEXT} or {HEAD}"),
            });
        };
        parts.entry(prefix).or_default().insert(name[prefix.len()..].to_owned(), tensor);
    }
    Ok(parts)
}

impl Reward for ImageReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        "imagereward-1"
    }

    fn tokens_cut(&self, prompt: &str) -> usize {
        self.tokenizer.encode(prompt).tokens_cut
    }

    fn score(
        &self,
        images: &[RgbImageRef<'_>],
        prompts: &[&str],
    ) -> Vec<Result<Score, MissingReason>> {
        let mut scores = Vec::with_capacity(images.len());
        for batch in images.chunks(BATCH) {
            let first = scores.len();
            let mut width = 0;
            let states = encode_images(batch, &self.preprocess, &self.device, |pixels| {
                self.vision.forward(pixels)
            });
            if let Some(Ok(row)) = states.iter().find(|row| row.is_ok()) {
                width = row.len() / self.vision.tokens();
            }
            // Prompts of one length go through the text encoder together.
            let mut by_length: BTreeMap<usize, Vec<(usize, Vec<u32>)>> = BTreeMap::new();
            for (i, state) in states.iter().enumerate() {
                scores.push(match (state, prompts.get(first + i)) {
                    (Err(reason), _) => Err(reason.clone()),
                    (Ok(_), None) => Err(MissingReason::NoPrompt),
                    (Ok(_), Some(prompt)) => {
                        let ids = self.ids(prompt);
                        by_length.entry(ids.len()).or_default().push((i, ids));
                        Err(MissingReason::NoPrompt) // Replaced below.
                    }
                });
            }
            for group in by_length.into_values() {
                let ids: Vec<&[u32]> = group.iter().map(|(_, ids)| ids.as_slice()).collect();
                let pictures: Vec<&[f32]> =
                    group.iter().map(|(i, _)| states[*i].as_deref().unwrap_or_default()).collect();
                for ((i, _), row) in group.iter().zip(self.read(&ids, &pictures, width)) {
                    scores[first + i] = Score::new((self.head.apply(&row) - MEAN) / STD);
                }
            }
        }
        scores
    }
}
