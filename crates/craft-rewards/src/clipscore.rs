//! CLIPScore: how well a picture fits its text, as a CLIP model sees it that was tuned on nothing.

use burn::tensor::Device;
use craft_nn::ops::Act;

use crate::dual::{DualEncoder, DualRules};
use crate::error::RewardError;
use crate::files::RewardFiles;
use crate::preprocess::Fit;
use crate::reward::{MissingReason, Reward, RgbImageRef, Score};
use crate::tower::Towers;

/// The cosine of picture and text, in −1..1 (papers often show it times 100).
///
/// Weights with transformers', open_clip's or OpenAI's names.
#[derive(Debug)]
pub struct ClipScore {
    name: String,
    encoder: DualEncoder,
}

impl ClipScore {
    /// OpenAI's ViT-L/14 (or another of OpenAI's) with its own preprocessing, as ImageReward's
    /// comparison has it (`ImageReward/models/CLIPScore.py`).
    ///
    /// # Errors
    /// When a file is missing, malformed, or does not fit the others.
    pub fn openai(
        name: &str,
        files: RewardFiles,
        device: &Device,
        towers: &mut Towers,
    ) -> Result<Self, RewardError> {
        let rules =
            DualRules { fit: Fit::CentreCropEven, open_clip_text: true, act: Act::QuickGelu };
        let encoder = DualEncoder::new(name, files, rules, device, towers)?;
        Ok(Self { name: name.to_owned(), encoder })
    }

    /// LAION's ViT-H/14 with the preprocessing of HPSv2, as the comparisons of Diffusion-DPO and those
    /// after it have it (`DiffusionDPO/utils/clip_utils.py`).
    ///
    /// # Errors
    /// When a file is missing, malformed, or does not fit the others.
    pub fn laion_h(
        name: &str,
        files: RewardFiles,
        device: &Device,
        towers: &mut Towers,
    ) -> Result<Self, RewardError> {
        let rules = DualRules { fit: Fit::Pad, open_clip_text: true, act: Act::Gelu };
        let encoder = DualEncoder::new(name, files, rules, device, towers)?;
        Ok(Self { name: name.to_owned(), encoder })
    }
}

impl Reward for ClipScore {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        "clipscore-1"
    }

    fn range(&self) -> [f64; 2] {
        [-1.0, 1.0]
    }

    fn tokens_cut(&self, prompt: &str) -> usize {
        self.encoder.tokens_cut(prompt)
    }

    fn score(
        &self,
        images: &[RgbImageRef<'_>],
        prompts: &[&str],
    ) -> Vec<Result<Score, MissingReason>> {
        self.encoder.score(images, prompts, 1.0)
    }
}
