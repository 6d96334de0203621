//! Tokenizer files of published models: ids of a prompt as transformers gives them.

use std::fs;

use craft_nn::tokenizer::ClipTokenizer;

use super::facts::Facts;
use super::files::vocabulary;

/// 2.x says another padding token in `special_tokens_map.json` than in `tokenizer_config.json`, and the
/// former counts; where that is `!`, so are the ones in the prompt. Ids of transformers 5.24.
#[test]
fn published_tokenizers_give_their_ids() {
    let begin = [49406, 320, 1205, 736, 7117];
    let dir = tempfile::tempdir().unwrap();
    vocabulary(dir.path());
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let (vocab, merges) = (read("vocab.json"), read("merges.txt"));
    for (model, part, end, pad) in [
        ("sd14", "tokenizer", &[256, 2781, 748, 49407][..], 49407),
        ("sd15", "tokenizer", &[256, 2781, 748, 49407], 49407),
        ("sd21", "tokenizer", &[0, 2781, 0, 0, 49407], 0),
        ("sd21-base", "tokenizer", &[0, 2781, 0, 0, 49407], 0),
        ("sdxl-base", "tokenizer", &[256, 2781, 748, 49407], 49407),
        ("sdxl-base", "tokenizer_2", &[0, 2781, 0, 0, 49407], 0),
        ("sdxl-turbo", "tokenizer_2", &[0, 2781, 0, 0, 49407], 0),
    ] {
        let facts = Facts::of(model);
        let [config, special] = ["tokenizer_config", "special_tokens_map"]
            .map(|name| facts.text(&format!("{part}/{name}.json")).to_string());
        let tokenizer =
            ClipTokenizer::from_files(&vocab, &merges, Some(&config), Some(&special)).unwrap();
        let mut expected = [&begin[..], end].concat();
        expected.resize(77, pad);
        assert_eq!(tokenizer.encode("a big red circle! wow!!").ids, expected, "{model} {part}");
    }
}
