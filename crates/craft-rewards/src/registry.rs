//! Reward models by kind.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

use crate::aesthetic::{Aesthetic, is_head};
use crate::clip::is_tower;
use crate::clipscore::ClipScore;
use crate::error::RewardError;
use crate::files::RewardFiles;
use crate::hps::HpsV2;
use crate::imagereward::{ImageReward, is_imagereward};
use crate::mps::{Mps, is_mps};
use crate::pickscore::PickScore;
use crate::reward::Reward;
use crate::simple::{Colorfulness, JpegSize};
use crate::tower::Towers;

/// The folder of the aesthetic predictor's image encoder, looked for beside a head that comes alone.
pub const AESTHETIC_TOWER: &str = "clip-vit-large-patch14";

/// The kinds of reward models that can be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RewardKind {
    /// [`HpsV2`], `hpsv2.1` (its weights).
    HpsV21,
    /// [`HpsV2`], `hpsv2` (its weights; also of other models built like it).
    HpsV2,
    /// [`PickScore`], `pickscore`.
    PickScore,
    /// [`Aesthetic`], `aesthetic`.
    Aesthetic,
    /// [`ClipScore::openai`], `clipscore`.
    ClipScore,
    /// [`ClipScore::laion_h`], `clipscore-h`.
    ClipScoreH,
    /// [`ImageReward`], `imagereward`.
    ImageReward,
    /// [`Mps`], `mps`.
    Mps,
    /// [`JpegSize`], `jpeg-size`.
    JpegSize,
    /// [`Colorfulness`], `colorfulness`.
    Colorfulness,
}

impl RewardKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::HpsV21,
        Self::HpsV2,
        Self::PickScore,
        Self::Aesthetic,
        Self::ClipScore,
        Self::ClipScoreH,
        Self::ImageReward,
        Self::Mps,
        Self::JpegSize,
        Self::Colorfulness,
    ];

    /// As recipes spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HpsV21 => "hpsv2.1",
            Self::HpsV2 => "hpsv2",
            Self::PickScore => "pickscore",
            Self::Aesthetic => "aesthetic",
            Self::ClipScore => "clipscore",
            Self::ClipScoreH => "clipscore-h",
            Self::ImageReward => "imagereward",
            Self::Mps => "mps",
            Self::JpegSize => "jpeg-size",
            Self::Colorfulness => "colorfulness",
        }
    }

    /// Whether it has weights.
    pub fn has_weights(self) -> bool {
        !matches!(self, Self::JpegSize | Self::Colorfulness)
    }

    /// The name of the file under which its weights are published, where it tells them from others: a
    /// folder that holds it may hold weights of other rewards too.
    pub fn file_name(self) -> Option<&'static str> {
        match self {
            Self::HpsV21 => Some("HPS_v2.1_compressed.pt"),
            Self::HpsV2 => Some("HPS_v2_compressed.pt"),
            Self::ImageReward => Some("ImageReward.pt"),
            Self::Mps => Some("MPS_overall_checkpoint.pth"),
            Self::Aesthetic => Some("sac+logos+ava1-l14-linearMSE.pth"),
            _ => None,
        }
    }

    /// Whether the files hold a CLIP image encoder.
    pub fn has_tower(files: &RewardFiles) -> bool {
        files.tensors.values().any(|map| map.keys().any(|name| is_tower(name)))
    }

    /// What the files of a reward hold, where they tell: a model with open_clip's names is taken for
    /// HPSv2, one with transformers' names for PickScore.
    pub fn of_files(files: &RewardFiles) -> Option<Self> {
        let has = |is_one: fn(&str) -> bool| {
            files.tensors.values().any(|map| map.keys().any(|name| is_one(name)))
        };
        if has(is_imagereward) {
            Some(Self::ImageReward)
        } else if has(is_mps) {
            Some(Self::Mps)
        } else if has(is_head) {
            Some(Self::Aesthetic)
        } else if has(|name| is_tower(name) && name.ends_with("visual.proj")) {
            Some(Self::HpsV2)
        } else if has(is_tower) {
            Some(Self::PickScore)
        } else {
            None
        }
    }

    /// Where its weights are published on the hub: what `weights` of a recipe stands for when it is left
    /// out. Commits are those that programs of others record for these repositories, so that scores do
    /// not change when a branch does; where none was found recorded, the branch decides, and a run
    /// keeps the commit that it began with.
    pub fn hub(self) -> &'static str {
        match self {
            Self::HpsV21 => {
                "xswu/HPSv2/HPS_v2.1_compressed.pt@697403c78157020a1ae59d23f111aa58ced35b0a"
            }
            Self::HpsV2 => {
                "xswu/HPSv2/HPS_v2_compressed.pt@697403c78157020a1ae59d23f111aa58ced35b0a"
            }
            Self::PickScore => {
                "yuvalkirstain/PickScore_v1@a4e4367c6dfa7288a00c550414478f865b875800"
            }
            Self::Aesthetic => {
                "trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth@7f639699bec8126062148a47ecb1a4312d8e6688,openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41"
            }
            Self::ClipScore => {
                "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41"
            }
            Self::ClipScoreH => {
                "laion/CLIP-ViT-H-14-laion2B-s32B-b79K/open_clip_model.safetensors@1c2b8495b28150b8a4922ee1c8edee224c284c0c"
            }
            Self::ImageReward => {
                "zai-org/ImageReward/ImageReward.pt@5736be03b2652728fb87788c9797b0570450ab72,google-bert/bert-base-uncased/vocab.txt@86b5e0934494bd15c9632b12f734a8a67f723594"
            }
            Self::Mps => "RE-N-Y/mpsv1",
            Self::JpegSize | Self::Colorfulness => "",
        }
    }

    /// Licence of the published weights, and where they are published.
    pub fn license(self) -> &'static str {
        match self {
            Self::HpsV21 | Self::HpsV2 => "Apache-2.0 (xswu/HPSv2)",
            Self::PickScore => "MIT (yuvalkirstain/PickScore_v1)",
            Self::Aesthetic => {
                "head: Apache-2.0 (christophschuhmann/improved-aesthetic-predictor); encoder: MIT (openai/clip-vit-large-patch14)"
            }
            Self::ClipScore => "MIT (openai/clip-vit-large-patch14)",
            Self::ClipScoreH => "MIT (laion/CLIP-ViT-H-14-laion2B-s32B-b79K)",
            Self::ImageReward => "Apache-2.0 (zai-org/ImageReward)",
            Self::Mps => "MIT (Kwai-Kolors/MPS)",
            Self::JpegSize | Self::Colorfulness => "no weights",
        }
    }
}

impl fmt::Display for RewardKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for RewardKind {
    type Err = RewardError;
    fn from_str(text: &str) -> Result<Self, RewardError> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| RewardError::Kind(text.to_owned()))
    }
}

/// Licence of the weights that a reward's name stands for.
pub fn license_of(name: &str) -> &'static str {
    name.parse().map_or("not known: that of its weights", RewardKind::license)
}

/// Builds a reward model from the contents of its folder, its networks to itself. `name` is what files
/// and reports call it.
///
/// # Errors
/// When a file is missing, malformed, or does not fit the others.
pub fn build(
    kind: RewardKind,
    name: &str,
    files: RewardFiles,
    device: &Device,
) -> Result<Box<dyn Reward>, RewardError> {
    build_with(kind, name, files, device, &mut Towers::default())
}

/// [`build`] with networks that rewards may share.
///
/// # Errors
/// The same.
pub fn build_with(
    kind: RewardKind,
    name: &str,
    files: RewardFiles,
    device: &Device,
    towers: &mut Towers,
) -> Result<Box<dyn Reward>, RewardError> {
    Ok(match kind {
        RewardKind::HpsV21 | RewardKind::HpsV2 => {
            Box::new(HpsV2::new(name, files, device, towers)?)
        }
        RewardKind::PickScore => Box::new(PickScore::new(name, files, device, towers)?),
        RewardKind::Aesthetic => Box::new(Aesthetic::new(name, files, device, towers)?),
        RewardKind::ClipScore => Box::new(ClipScore::openai(name, files, device, towers)?),
        RewardKind::ClipScoreH => Box::new(ClipScore::laion_h(name, files, device, towers)?),
        RewardKind::ImageReward => Box::new(ImageReward::new(name, files, device)?),
        RewardKind::Mps => Box::new(Mps::new(name, files, device)?),
        RewardKind::JpegSize => Box::new(JpegSize::new(name)),
        RewardKind::Colorfulness => Box::new(Colorfulness::new(name)),
    })
}
