//! HPSv2 and v2.1 (github.com/tgxs002/HPSv2, `hpsv2/img_score.py`): cosine of an open_clip model that
//! was tuned on human choices.

use burn::tensor::Device;
use craft_nn::ops::Act;

use crate::dual::{DualEncoder, DualRules};
use crate::error::RewardError;
use crate::files::RewardFiles;
use crate::preprocess::Fit;
use crate::reward::{MissingReason, Reward, RgbImageRef, Score};
use crate::tower::Towers;

/// HPSv2: the cosine of picture and text, in −1..1 (published tables show it times 100).
///
/// Weights have open_clip's names (transformers' are taken too); sizes follow from the weights, or from
/// `open_clip_config.json`, or a `config.json` of open_clip's or transformers' form. Pictures are
/// resized with antialiasing; `"antialias": false` in `preprocessor_config.json` gives the scores of
/// the time before torchvision 0.17.
#[derive(Debug)]
pub struct HpsV2 {
    name: String,
    encoder: DualEncoder,
}

impl HpsV2 {
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
        check_version(name, &files)?;
        let rules = DualRules { fit: Fit::Pad, open_clip_text: true, act: Act::Gelu };
        let encoder = DualEncoder::new(name, files, rules, device, towers)?;
        Ok(Self { name: name.to_owned(), encoder })
    }
}

/// The files of v2 and v2.1 have the same tensors, so only their names tell them apart.
fn check_version(name: &str, files: &RewardFiles) -> Result<(), RewardError> {
    let is_21 = |file: &str| ["v2.1", "v2_1", "v21"].iter().any(|v| file.contains(v));
    for file in files.tensors.keys() {
        let lower = file.to_lowercase();
        if !lower.contains("hps") {
            continue;
        }
        let (found, expected) = match name {
            "hpsv2" if is_21(&lower) => ("HPSv2.1", "HPSv2 (HPS_v2_compressed.pt)"),
            "hpsv2.1" if !is_21(&lower) => ("HPSv2", "HPSv2.1 (HPS_v2.1_compressed.pt)"),
            _ => continue,
        };
        return Err(RewardError::File {
            reward: name.to_owned(),
            file: file.clone(),
            found: format!("by its name these are the weights of {found}"),
            expected: format!(
                "those of {expected}: the versions give other scores; use the other weights, or name the reward after what it is"
            ),
        });
    }
    Ok(())
}

impl Reward for HpsV2 {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        "hps-2"
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
