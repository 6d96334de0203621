//! What a reward model is.

use std::fmt::Debug;
use std::path::Path;

use thiserror::Error;

use crate::registry::license_of;

/// A finite score.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Score(f64);

impl Score {
    /// Wraps a number.
    ///
    /// # Errors
    /// When it is not finite.
    pub fn new(value: f64) -> Result<Self, MissingReason> {
        if value.is_finite() { Ok(Self(value)) } else { Err(MissingReason::NotFinite(value)) }
    }

    /// The number; finite.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// Why an image has no score.
#[derive(Clone, Debug, Error)]
pub enum MissingReason {
    /// The network gave NaN or an infinity.
    #[error("non-finite score ({0})")]
    NotFinite(f64),
    /// The bytes are not an image of the size they are said to have.
    #[error("the image has {bytes} bytes, expected {width}x{height}x3 with both sides at least 1")]
    BadImage {
        /// Length of the pixels.
        bytes: usize,
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
    },
    /// Fewer prompts than images.
    #[error("there is no prompt for the image")]
    NoPrompt,
    /// What a program or server outside says.
    #[error("{0}")]
    External(String),
}

/// A borrowed picture: 8-bit RGB, row-major, three bytes a pixel.
#[derive(Clone, Copy, Debug)]
pub struct RgbImageRef<'a> {
    /// `height · width · 3` bytes.
    pub pixels: &'a [u8],
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

impl RgbImageRef<'_> {
    /// Whether the sides fit the bytes.
    ///
    /// # Errors
    /// When they do not, or a side is 0.
    pub fn check(&self) -> Result<(), MissingReason> {
        let Self { pixels, width, height } = *self;
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        if expected == Some(pixels.len()) && !pixels.is_empty() {
            Ok(())
        } else {
            Err(MissingReason::BadImage { bytes: pixels.len(), width, height })
        }
    }
}

/// A reward model.
pub trait Reward: Send + Sync + Debug {
    /// Name in files and reports, such as `pocket-hps`.
    fn name(&self) -> &str;

    /// Changes when the same weights, image and prompt may give another score.
    fn version(&self) -> &str;

    /// Licence of its weights, and where they are published. Only a name of the registry tells.
    fn license(&self) -> &str {
        license_of(self.name())
    }

    /// Whether a larger score is better. True of all that are built in.
    fn higher_is_better(&self) -> bool {
        true
    }

    /// How many images are best scored at a time. Changes speed, never a score; what is stopped loses one
    /// batch at most.
    fn batch(&self) -> usize {
        16
    }

    /// [`Reward::score`] of images that were read from files, for rewards that hand the file on.
    fn score_files(
        &self,
        images: &[RgbImageRef<'_>],
        _files: &[Option<&Path>],
        prompts: &[&str],
    ) -> Vec<Result<Score, MissingReason>> {
        self.score(images, prompts)
    }

    /// Where scores lie: the least and the largest possible, infinite where there is no bound.
    fn range(&self) -> [f64; 2] {
        [f64::NEG_INFINITY, f64::INFINITY]
    }

    /// How many tokens of a prompt the reward does not see because the prompt is too long for it.
    fn tokens_cut(&self, _prompt: &str) -> usize {
        0
    }

    /// One entry per image, in their order. `prompts[i]` is the text of `images[i]`.
    ///
    /// The entry of an image depends on that image and its prompt only, not on what else is in the
    /// batch, to the last bit.
    fn score(
        &self,
        images: &[RgbImageRef<'_>],
        prompts: &[&str],
    ) -> Vec<Result<Score, MissingReason>>;
}
