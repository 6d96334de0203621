//! CLIP's vocabulary, which is embedded (`assets/clip`): 48,894 merges, from which its 49,408 tokens
//! follow. All published text encoders of Stable Diffusion and SDXL use it.

use craft_nn::tokenizer::ClipTokenizer;
use craft_store::text;

use crate::error::{ModelError, Result};

const MERGES: &[u8] = include_bytes!("../../../assets/clip/merges.txt.gz");
/// Tokens of the vocabulary.
pub const TOKENS: usize = 49408;
/// More than the merges take, in bytes.
const MOST: u64 = 4 << 20;

/// The text of `merges.txt`.
pub fn merges() -> Result<String> {
    text::gunzip(MERGES, MOST).map_err(ModelError::Usage)
}

/// The texts of `vocab.json` and `merges.txt`, as transformers has them.
pub fn files() -> Result<[(&'static str, String); 2]> {
    let merges = merges()?;
    let mut tokens: Vec<(String, u32)> = ClipTokenizer::vocabulary_of_merges(&merges)
        .map_err(|error| ModelError::Usage(format!("the embedded vocabulary: {error}")))?
        .into_iter()
        .collect();
    tokens.sort_by_key(|(_, id)| *id);
    let entry = |(token, id): (String, u32)| format!("{}: {id}", serde_json::Value::from(token));
    let entries: Vec<String> = tokens.into_iter().map(entry).collect();
    Ok([("vocab.json", format!("{{{}}}", entries.join(", "))), ("merges.txt", merges)])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_the_vocabulary() {
        let [(_, vocab), (_, merges)] = files().unwrap();
        assert!(vocab.starts_with(r##"{"!": 0, "\"": 1, "#": 2"##));
        let whole: std::collections::BTreeMap<String, u32> = serde_json::from_str(&vocab).unwrap();
        assert_eq!(whole.len(), TOKENS);
        assert_eq!((whole["<|startoftext|>"], whole["<|endoftext|>"]), (49406, 49407));
        assert_eq!((whole["!</w>"], whole["a</w>"], whole["cat</w>"]), (256, 320, 2368));
        let tokenizer = ClipTokenizer::from_files(&vocab, &merges, None, None).unwrap();
        let ids = tokenizer.encode("a photo of a cat").ids;
        assert_eq!(ids[..8], [49406, 320, 1125, 539, 320, 2368, 49407, 49407]);
    }
}
