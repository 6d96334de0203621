//! The contents of a reward's folder.

use std::collections::BTreeMap;

use craft_nn::clip::ClipTextConfig;
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::weights::TensorMap;

use crate::error::RewardError;

/// The merges of CLIP's vocabulary as OpenAI's CLIP and open_clip ship them, unpacked.
pub const OPEN_CLIP_MERGES: &str = "bpe_simple_vocab_16e6.txt";

/// The contents of a reward's folder, by file name.
#[derive(Clone, Debug, Default)]
pub struct RewardFiles {
    /// Text files: `config.json`, `open_clip_config.json`, `preprocessor_config.json`, `vocab.json`,
    /// `merges.txt`, `tokenizer_config.json`, `special_tokens_map.json`, `bpe_simple_vocab_16e6.txt`
    /// (open_clip's merges), `tokenizer.json`, `vocab.txt` (BERT's), `med_config.json` (BLIP's), those that there are.
    pub configs: BTreeMap<String, String>,
    /// Weights: `model.safetensors`, `head.safetensors` and the like.
    pub tensors: BTreeMap<String, TensorMap>,
}

impl RewardFiles {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.configs.get(name).map(String::as_str)
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
        let config = self.text("tokenizer_config.json");
        let map = self.text("special_tokens_map.json");
        let whole = self.text("tokenizer.json").filter(|json| json.contains("\"merges\""));
        let tokenizer = match (self.text("vocab.json"), self.text("merges.txt"), whole) {
            (Some(vocab), Some(merges), _) => ClipTokenizer::from_files(vocab, merges, config, map),
            (_, _, Some(json)) => ClipTokenizer::from_tokenizer_json(json, config, map),
            (_, merges, None) => {
                let merges = merges.or_else(|| self.text(OPEN_CLIP_MERGES));
                let none = || RewardError::NoTokenizer { reward: reward.to_owned() };
                ClipTokenizer::from_merges(merges.ok_or_else(none)?, config, map)
            }
        };
        let tokenizer = tokenizer.map_err(wrap)?;
        if tokenizer.vocab_size() > text.vocab_size {
            return Err(RewardError::File {
                reward: reward.to_owned(),
                file: "vocab.json or merges.txt".to_owned(),
                found: format!("{} tokens", tokenizer.vocab_size()),
                expected: format!("at most vocab_size = {} of the model", text.vocab_size),
            });
        }
        let length = tokenizer.length().min(text.max_position_embeddings);
        let tokenizer = tokenizer.with_length(length).map_err(wrap)?;
        tokenizer.for_encoder(length, text.vocab_size).map_err(wrap)
    }
}

fn missing(reward: &str, file: &str) -> RewardError {
    RewardError::MissingFile { reward: reward.to_owned(), file: file.to_owned() }
}
