//! Why a training ended.

use std::error::Error;

use crate::guard::NanStop;
use craft_core::select::{ControlError, SelectError};
use craft_model::ModelError;
use craft_store::StoreError;

/// Everything that can end a training before its last step.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe asks for what cannot be trained.
    #[error("{0}")]
    Usage(String),
    /// A model, a file of weights, or a file that cannot be read or written.
    #[error(transparent)]
    Model(ModelError),
    /// It diverged.
    #[error(transparent)]
    Nan(#[from] NanStop),
    /// Nothing to train on.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// No random control.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// What stands above could not do its part: an evaluation, a score.
    #[error(transparent)]
    Other(Box<dyn Error + Send + Sync>),
    /// Stopped by the user; the state is on disk.
    #[error("interrupted; run the same command again to continue")]
    Interrupted,
}

impl From<ModelError> for TrainError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Interrupted => Self::Interrupted,
            ModelError::Usage(message) => Self::Usage(message),
            other => Self::Model(other),
        }
    }
}

impl From<StoreError> for TrainError {
    fn from(error: StoreError) -> Self {
        ModelError::from(error).into()
    }
}

/// Result of a function of training.
pub type Result<T> = std::result::Result<T, TrainError>;
