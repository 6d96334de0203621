//! Exit codes and the one line that says what went wrong.

use std::fmt;

use craft_core::recipe::RecipeError;
use craft_model::ModelError;
use craft_nn::config::ConfigError;
use craft_nn::tokenizer::TokenizerError;
use craft_nn::weights::WeightError;
use craft_pipeline::PipelineError;
use craft_pocket_build::BuildError;
use craft_report::ReportError;
use craft_rewards::RewardError;
use craft_store::StoreError;

/// Something failed.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage or recipe.
pub(crate) const USAGE: u8 = 2;
/// Bad input file.
pub(crate) const BAD_INPUT: u8 = 3;
/// Stopped by the NaN guard.
pub(crate) const NAN: u8 = 4;
/// Interrupted, state saved.
pub(crate) const INTERRUPTED: u8 = 130;

/// A failure of the command line itself.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The command cannot mean this.
    Usage(String),
    /// A file that was given has the wrong contents.
    Input(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Input(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Fault {}

/// Wrong usage, exit code 2.
pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    Fault::Usage(text.into()).into()
}

/// Bad input file, exit code 3.
pub(crate) fn input(text: impl Into<String>) -> anyhow::Error {
    Fault::Input(text.into()).into()
}

/// The exit code of an error.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(of_one).unwrap_or(FAILED)
}

fn of_one(error: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return Some(match fault {
            Fault::Usage(_) => USAGE,
            Fault::Input(_) => BAD_INPUT,
        });
    }
    if let Some(error) = error.downcast_ref::<PipelineError>() {
        return Some(u8::try_from(error.exit_code()).unwrap_or(FAILED));
    }
    if let Some(error) = error.downcast_ref::<ModelError>() {
        return Some(u8::try_from(error.exit_code()).unwrap_or(FAILED));
    }
    if let Some(error) = error.downcast_ref::<BuildError>() {
        return Some(match error {
            BuildError::Nan(_) => NAN,
            BuildError::Interrupted => INTERRUPTED,
            BuildError::Store(error) => store(error),
            _ => BAD_INPUT,
        });
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return Some(store(error));
    }
    if let Some(error) = error.downcast_ref::<ReportError>() {
        return Some(match error {
            ReportError::NotEmpty { .. } => USAGE,
            ReportError::Store(error) => store(error),
            ReportError::PictureSize { .. } | ReportError::Png { .. } => FAILED,
            _ => BAD_INPUT,
        });
    }
    if error.is::<RecipeError>() {
        return Some(USAGE);
    }
    let bad = error.is::<ConfigError>()
        || error.is::<WeightError>()
        || error.is::<TokenizerError>()
        || error.is::<RewardError>();
    bad.then_some(BAD_INPUT)
}

fn store(error: &StoreError) -> u8 {
    if error.is_bad_input() { BAD_INPUT } else { FAILED }
}

/// The error and its causes on one line. A cause whose words are already there is left out: many
/// errors quote their cause.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let words = cause.to_string();
        if text.is_empty() {
            text = words;
        } else if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn codes_survive_context_and_words_are_said_once() {
        let error =
            Err::<(), _>(input("x.png: it is not a picture")).context("while scoring").unwrap_err();
        assert_eq!(code(&error), BAD_INPUT);
        assert_eq!(chain(&error), "while scoring: x.png: it is not a picture");
        assert_eq!(code(&usage("no")), USAGE);
        assert_eq!(code(&anyhow::anyhow!("a: b").context("a: b")), FAILED);
        assert_eq!(chain(&anyhow::anyhow!("b").context("a: b")), "a: b");
        let store = craft_store::image::read(std::path::Path::new("/no/such.png")).unwrap_err();
        assert_eq!(code(&store.into()), BAD_INPUT);
        assert_eq!(code(&PipelineError::Interrupted.into()), INTERRUPTED);
    }
}
