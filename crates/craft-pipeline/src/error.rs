//! Why a pipeline stopped, and with which exit code.

use std::path::PathBuf;

use craft_core::expand::{ExpandError, ExpansionError, TemplateError};
use craft_core::prompt::PromptsError;
use craft_core::recipe::RecipeError;
use craft_core::select::{ControlError, SelectError};
use craft_model::ModelError;
use craft_report::ReportError;
use craft_rewards::RewardError;
use craft_store::StoreError;
use craft_train::TrainError;
use craft_train::guard::NanStop;
use thiserror::Error;

/// Everything that can stop a run.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// The recipe is wrong.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The recipe asks for what this run cannot give.
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
    /// The model.
    #[error(transparent)]
    Model(ModelError),
    /// A reward model.
    #[error("{path}: {source}")]
    Reward {
        /// The reward's folder.
        path: PathBuf,
        /// What is wrong.
        source: RewardError,
    },
    /// A run that is certainly too large for the disk or the memory of this machine.
    #[error("{0}")]
    DoesNotFit(String),
    /// A score is missing where the recipe says to stop.
    #[error(
        "rewards.{reward}: no score of {image} ({reason}); on_failure = \"stop\" ends the run here: mend the cause and run the same command again, which keeps the scores so far"
    )]
    Unscored {
        /// The reward.
        reward: String,
        /// The picture.
        image: String,
        /// What the reward says.
        reason: String,
    },
    /// A reward without a single score.
    #[error(
        "rewards.{reward}: none of {images} pictures got a score; the first says: {reason}. Mend the cause and run the same command again"
    )]
    NoScores {
        /// The reward.
        reward: String,
        /// How many pictures.
        images: usize,
        /// What it says of the first.
        reason: String,
    },
    /// A language model that words prompts.
    #[error(
        "expand.base_url: {reason}; what was answered so far is kept: run the same command again to go on"
    )]
    WordingModel {
        /// What happened.
        reason: String,
    },
    /// Prompts.
    #[error(transparent)]
    Prompts(#[from] PromptsError),
    /// Expansion templates.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// An expansion file.
    #[error("{path}: {source}")]
    Expansion {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ExpansionError,
    },
    /// Not enough wordings.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// Nothing selected, or a selection that cannot be made.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// No random control.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Training diverged.
    #[error(transparent)]
    Nan(#[from] NanStop),
    /// The report could not be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Stopped by the user; what was done is saved.
    #[error("interrupted; run the same command again to continue")]
    Interrupted,
}

impl From<StoreError> for PipelineError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Stopped => Self::Interrupted,
            other => Self::Store(other),
        }
    }
}

impl From<ModelError> for PipelineError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Usage(message) => Self::Usage(message),
            ModelError::Store(error) => Self::Store(error),
            ModelError::Input { path, message } => Self::Input { path, message },
            ModelError::Interrupted => Self::Interrupted,
            other => Self::Model(other),
        }
    }
}

impl From<TrainError> for PipelineError {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Usage(message) => Self::Usage(message),
            TrainError::Model(error) => error.into(),
            TrainError::Nan(stop) => Self::Nan(stop),
            TrainError::Select(error) => Self::Select(error),
            TrainError::Control(error) => Self::Control(error),
            TrainError::Interrupted => Self::Interrupted,
            // An error of ours, on its way through the training engine.
            TrainError::Other(error) => match error.downcast::<Self>() {
                Ok(own) => *own,
                Err(other) => Self::Usage(other.to_string()),
            },
        }
    }
}

impl PipelineError {
    /// The process's exit code: 1 failed, 2 wrong recipe, 3 bad input, 4 NaN guard, 130 interrupted.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Recipe(_) | Self::Usage(_) => 2,
            Self::Store(error) | Self::Report(ReportError::Store(error))
                if error.is_bad_input() =>
            {
                3
            }
            Self::Store(_) | Self::Select(_) | Self::Control(_) | Self::Report(_) => 1,
            Self::Expand(_) | Self::DoesNotFit(_) => 1,
            Self::Unscored { .. } | Self::NoScores { .. } | Self::WordingModel { .. } => 1,
            Self::Model(error) => error.exit_code(),
            Self::Nan(_) => 4,
            Self::Interrupted => 130,
            _ => 3,
        }
    }
}

/// Result of a pipeline's function.
pub type Result<T> = std::result::Result<T, PipelineError>;
