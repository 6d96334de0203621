//! Reward models: how much a picture for a prompt would please people.
//!
//! A score is a finite number or it is missing with a reason; there is no third case. Nothing here
//! touches a disk: constructors take the texts and tensors of a reward's folder as [`RewardFiles`].

mod aesthetic;
mod dual;
mod error;
mod files;
mod hps;
mod pickscore;
pub mod preprocess;
pub mod registry;
mod reward;
pub mod train_dual;

pub use aesthetic::{Aesthetic, AestheticHead};
pub use error::RewardError;
pub use files::RewardFiles;
pub use hps::HpsV2;
pub use pickscore::PickScore;
pub use registry::RewardKind;
pub use reward::{MissingReason, Reward, RgbImageRef, Score};
