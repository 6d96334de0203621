//! Reward models.
use crate::{BuildError, Options};
use craft_nn::tokenizer::ClipTokenizer;
/// Builds.
pub(crate) fn build(_o: &Options, _t: &ClipTokenizer) -> Result<(), BuildError> {
    Ok(())
}
