//! Reward models: how much a picture for a prompt would please people.
//!
//! A score is a finite number or it is missing with a reason; there is no third case. Nothing here
//! touches a disk: constructors take the texts and tensors of a reward's folder as [`RewardFiles`].

mod aesthetic;
mod clip;
mod clipscore;
mod dual;
mod error;
mod files;
mod hps;
mod imagereward;
mod jpeg;
mod mps;
mod pickscore;
pub mod preprocess;
pub mod registry;
mod reward;
mod simple;
mod tower;

pub use aesthetic::{Aesthetic, AestheticHead, AffineHead};
pub use clipscore::ClipScore;
pub use error::RewardError;
pub use files::{OPEN_CLIP_MERGES, RewardFiles};
pub use hps::HpsV2;
pub use imagereward::ImageReward;
pub use mps::Mps;
pub use pickscore::PickScore;
pub use registry::{RewardKind, license_of};
pub use reward::{MissingReason, Reward, RgbImageRef, Score};
pub use simple::{Colorfulness, JpegSize};
pub use tower::Towers;
