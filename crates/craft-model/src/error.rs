//! Why a model cannot be found, read, drawn with or written.

use std::path::PathBuf;

use craft_core::schedule::ScheduleError;
use craft_nn::config::ConfigError;
use craft_nn::tokenizer::TokenizerError;
use craft_nn::weights::WeightError;
use craft_store::StoreError;
use thiserror::Error;

/// Everything that can be wrong with a model, or with what is asked of it.
#[derive(Debug, Error)]
pub enum ModelError {
    /// What is asked for cannot be had from this model.
    #[error("{0}")]
    Usage(String),
    /// A file or folder could not be read or written.
    #[error(transparent)]
    Store(StoreError),
    /// An input file has the wrong contents.
    #[error("{path}: {message}")]
    Input {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, what was expected, how to mend it.
        message: String,
    },
    /// A component's config.
    #[error("{path}: {source}")]
    Config {
        /// The config file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// A component's weights.
    #[error("{path}: {source}")]
    Weights {
        /// The weights file.
        path: PathBuf,
        /// What is wrong.
        source: WeightError,
    },
    /// A tokenizer.
    #[error("{path}: {source}")]
    Tokenizer {
        /// The tokenizer's folder.
        path: PathBuf,
        /// What is wrong.
        source: TokenizerError,
    },
    /// The noise schedule.
    #[error("{path}: {source}")]
    Schedule {
        /// The config file.
        path: PathBuf,
        /// What is wrong.
        source: ScheduleError,
    },
    /// Stopped by the user.
    #[error("interrupted; run the same command again to continue")]
    Interrupted,
}

impl From<StoreError> for ModelError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Stopped => Self::Interrupted,
            other => Self::Store(other),
        }
    }
}

impl ModelError {
    /// The process's exit code: 1 failed, 2 wrong request, 3 bad input, 130 interrupted.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Usage(_) => 2,
            Self::Store(error) if !error.is_bad_input() => 1,
            Self::Interrupted => 130,
            _ => 3,
        }
    }
}

/// Result of a model's function.
pub type Result<T> = std::result::Result<T, ModelError>;
