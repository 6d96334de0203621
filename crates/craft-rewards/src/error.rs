//! Why a reward model cannot be built.

use craft_nn::config::ConfigError;
use craft_nn::open_clip::OpenClipError;
use craft_nn::tokenizer::TokenizerError;
use craft_nn::weights::WeightError;
use thiserror::Error;

/// Why a reward model cannot be built from its files.
#[derive(Debug, Error)]
pub enum RewardError {
    /// No such kind.
    #[error("`{0}` is not a kind of reward; expected one of {known}", known = known())]
    Kind(String),
    /// A file is not there.
    #[error("{reward}: {file} is missing; expected it in the folder of the reward's weights")]
    MissingFile {
        /// The reward's name.
        reward: String,
        /// The file, or what it holds.
        file: String,
    },
    /// A CLIP model without the files of its tokenizer.
    #[error(
        "{reward}: there is no tokenizer, and the model's vocabulary is not CLIP's of 49,408 tokens, which is embedded: expected vocab.json and merges.txt beside the weights, or in a folder named after a comma: {reward}=WEIGHTS,FOLDER"
    )]
    NoTokenizer {
        /// The reward's name.
        reward: String,
    },
    /// `config.json` or `open_clip_config.json`.
    #[error("{reward}: {source}")]
    Config {
        /// The reward's name.
        reward: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// Weights that do not fit the config.
    #[error("{reward}: {source}")]
    Weights {
        /// The reward's name.
        reward: String,
        /// What is wrong.
        source: WeightError,
    },
    /// Weights that are not open_clip's.
    #[error("{reward}: {source}")]
    OpenClip {
        /// The reward's name.
        reward: String,
        /// What is wrong.
        source: OpenClipError,
    },
    /// Tokenizer files.
    #[error("{reward}: {source}")]
    Tokenizer {
        /// The reward's name.
        reward: String,
        /// What is wrong.
        source: TokenizerError,
    },
    /// Files that contradict each other, or say what is not supported.
    #[error("{reward}: {file}: {found}; expected {expected}")]
    File {
        /// The reward's name.
        reward: String,
        /// The file.
        file: String,
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
}

fn known() -> String {
    crate::registry::RewardKind::ALL.map(crate::registry::RewardKind::as_str).join(", ")
}
