//! Reward models by kind.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

use crate::aesthetic::Aesthetic;
use crate::error::RewardError;
use crate::files::RewardFiles;
use crate::hps::HpsV2;
use crate::pickscore::PickScore;
use crate::reward::Reward;

/// The kinds of reward models that can be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RewardKind {
    /// [`HpsV2`], `hps`.
    Hps,
    /// [`PickScore`], `pickscore`.
    PickScore,
    /// [`Aesthetic`], `aesthetic`.
    Aesthetic,
}

impl RewardKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Hps, Self::PickScore, Self::Aesthetic];

    /// As recipes spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hps => "hps",
            Self::PickScore => "pickscore",
            Self::Aesthetic => "aesthetic",
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

/// Builds a reward model from the contents of its folder. `name` is what files and reports call it.
///
/// # Errors
/// When a file is missing, malformed, or does not fit the others.
pub fn build(
    kind: RewardKind,
    name: &str,
    files: RewardFiles,
    device: &Device,
) -> Result<Box<dyn Reward>, RewardError> {
    Ok(match kind {
        RewardKind::Hps => Box::new(HpsV2::new(name, files, device)?),
        RewardKind::PickScore => Box::new(PickScore::new(name, files, device)?),
        RewardKind::Aesthetic => Box::new(Aesthetic::new(name, files, device)?),
    })
}
