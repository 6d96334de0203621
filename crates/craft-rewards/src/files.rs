//! The contents of a reward's folder.

use std::collections::BTreeMap;

use craft_nn::clip::ClipTextConfig;
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::weights::TensorMap;

use crate::error::RewardError;

/// The contents of a reward's folder, by file name.
#[derive(Clone, Debug, Default)]
pub struct RewardFiles {
    /// Text files: `config.json`, `open_clip_config.json`, `preprocessor_config.json`, `vocab.json`,
    /// `merges.txt`, `tokenizer_config.json`, `special_tokens_map.json`, those that there are.
    pub configs: BTreeMap<String, String>,
    /// Weights: `model.safetensors`, `head.safetensors` and the like.
    pub tensors: BTreeMap<String, TensorMap>,
}

impl RewardFiles {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.configs.get(name).map(String::as_str)
    }

    pub(crate) fn required(&self, reward: &str, name: &str) -> Result<&str, RewardError> {
        self.text(name).ok_or_else(|| missing(reward, name))
    }

    /// Takes the first weights that hold a tensor which `is_one` knows.
    pub(crate) fn take_weights(
        &mut self,
        reward: &str,
        what: &str,
        is_one: impl Fn(&str) -> bool,
    ) -> Result<TensorMap, RewardError> {
        let name = self.tensors.iter().find(|(_, map)| map.keys().any(|k| is_one(k)));
        let name = name.map(|(name, _)| name.clone());
        name.and_then(|name| self.tensors.remove(&name)).ok_or_else(|| missing(reward, what))
    }

    /// The tokenizer, as long as the text encoder's texts at most.
    pub(crate) fn tokenizer(
        &self,
        reward: &str,
        text: &ClipTextConfig,
    ) -> Result<ClipTokenizer, RewardError> {
        let wrap = |source| RewardError::Tokenizer { reward: reward.to_owned(), source };
        let tokenizer = ClipTokenizer::from_files(
            self.required(reward, "vocab.json")?,
            self.required(reward, "merges.txt")?,
            self.text("tokenizer_config.json"),
            self.text("special_tokens_map.json"),
        )
        .map_err(wrap)?;
        if tokenizer.vocab_size() > text.vocab_size {
            return Err(RewardError::File {
                reward: reward.to_owned(),
                file: "vocab.json".to_owned(),
                found: format!("{} tokens", tokenizer.vocab_size()),
                expected: format!("at most vocab_size = {} of the config", text.vocab_size),
            });
        }
        let length = tokenizer.length().min(text.max_position_embeddings);
        tokenizer.with_length(length).map_err(wrap)
    }
}

fn missing(reward: &str, file: &str) -> RewardError {
    RewardError::MissingFile { reward: reward.to_owned(), file: file.to_owned() }
}
