//! PickScore v1 (github.com/yuvalkirstain/PickScore): scaled cosine of a CLIP model that was tuned on
//! human choices.

use burn::tensor::Device;
use craft_nn::ops::Act;

use crate::dual::{DualEncoder, DualRules};
use crate::error::RewardError;
use crate::files::RewardFiles;
use crate::preprocess::Fit;
use crate::reward::{MissingReason, Reward, RgbImageRef, Score};
use crate::tower::Towers;

/// PickScore: `exp(logit_scale)` times the cosine of picture and text, about 16 to 26 for the published
/// weights.
///
/// Weights of a transformers `CLIPModel` (open_clip's names are taken too); sizes follow from its
/// `config.json` or from the weights.
#[derive(Debug)]
pub struct PickScore {
    name: String,
    encoder: DualEncoder,
    scale: f64,
}

impl PickScore {
    /// Builds the reward.
    ///
    /// # Errors
    /// When a file is missing, malformed, or does not fit the others.
    pub fn new(
        name: &str,
        files: RewardFiles,
        device: &Device,
        towers: &mut Towers,
    ) -> Result<Self, RewardError> {
        let rules = DualRules { fit: Fit::CentreCrop, open_clip_text: false, act: Act::Gelu };
        let encoder = DualEncoder::new(name, files, rules, device, towers)?;
        let scale = encoder.scale.ok_or_else(|| RewardError::File {
            reward: name.to_owned(),
            file: "the weights".to_owned(),
            found: "no tensor logit_scale".to_owned(),
            expected: "a whole CLIPModel, text encoder and logit_scale included".to_owned(),
        })?;
        Ok(Self { name: name.to_owned(), encoder, scale })
    }
}

impl Reward for PickScore {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        "pickscore-1"
    }

    fn tokens_cut(&self, prompt: &str) -> usize {
        self.encoder.tokens_cut(prompt)
    }

    fn score(
        &self,
        images: &[RgbImageRef<'_>],
        prompts: &[&str],
    ) -> Vec<Result<Score, MissingReason>> {
        self.encoder.score(images, prompts, self.scale)
    }
}
