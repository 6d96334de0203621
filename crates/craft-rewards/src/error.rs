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
        "{reward}: there is no tokenizer. HPSv2, PickScore, CLIPScore and MPS share CLIP's: expected vocab.json and merges.txt (the folder `tokenizer` of Stable Diffusion 1.5 has them, as has any CLIP model), or open_clip's bpe_simple_vocab_16e6.txt.gz. Put them beside the weights, or name their folder after a comma: {reward}=WEIGHTS,FOLDER"
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
