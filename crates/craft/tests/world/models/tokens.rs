//! Tokenizers of the world: padding in texts, tokens of textual inversion, layouts, and those that do not
//! fit their text encoder.

use std::fs;

use craft_nn::tokenizer::{ClipTokenizer, TokenizerTexts};
use craft_store::tensors::Tensor;
use serde_json::{Value, json};

use super::{TEXT, drawn, edit_json, refused};
use crate::support::{Tiny, WIDTH};

const CONFIG: &str = "model/tokenizer/tokenizer_config.json";

fn read(tiny: &Tiny, name: &str) -> String {
    fs::read_to_string(tiny.path("model/tokenizer").join(name)).unwrap()
}

/// Ids of a text by the tokenizer of the folder.
fn ids(tiny: &Tiny, text: &str) -> Vec<u32> {
    let (vocab, merges) = (read(tiny, "vocab.json"), read(tiny, "merges.txt"));
    let optional = |name: &str| fs::read_to_string(tiny.path("model/tokenizer").join(name)).ok();
    let (config, special) =
        (optional("tokenizer_config.json"), optional("special_tokens_map.json"));
    let added = optional("added_tokens.json");
    let texts = TokenizerTexts {
        vocab: Some(&vocab),
        merges: Some(&merges),
        config: config.as_deref(),
        special: special.as_deref(),
        added: added.as_deref(),
        ..Default::default()
    };
    ClipTokenizer::from_texts(&texts).unwrap().encode(text).ids
}

fn words(tiny: &Tiny) -> usize {
    serde_json::from_str::<Value>(&read(tiny, "vocab.json")).unwrap().as_object().unwrap().len()
}

/// Gives the text encoder rows for more tokens.
fn grow(tiny: &Tiny, more: usize) {
    let rows = words(tiny) + more;
    edit_json(tiny, "model/text_encoder/config.json", |c| c["vocab_size"] = json!(rows));
    tiny.edit(TEXT, |all| {
        let tensor = all.get_mut("text_model.embeddings.token_embedding.weight").unwrap();
        let mut data = tensor.data.clone();
        data.extend((0..more * WIDTH).map(|i| (i as f32 * 0.7).sin() * 3.0));
        *tensor = Tensor::new([rows, WIDTH], data).unwrap();
    });
}

/// Where padding is `!`, one in a text is the padding token: the picture is that of a text with the token
/// written apart, and another than with `!` as a word.
#[test]
fn padding_marks_in_a_text_are_padding() {
    let tiny = Tiny::new();
    let as_word = drawn(&tiny, &["model"], "a red circle!");
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        edit_json(&tiny, &format!("model/tokenizer/{file}"), |c| c["pad_token"] = json!("!"));
    }
    let apart = ids(&tiny, "a red circle ! !");
    assert_eq!(apart, ids(&tiny, "a red circle!!"));
    assert_eq!(apart.iter().filter(|id| **id == 0).count(), 16 - 5);
    let picture = drawn(&tiny, &["model"], "a red circle!");
    assert_ne!(picture, as_word);
    assert_eq!(picture, drawn(&tiny, &["model"], "a red circle !"));
}

#[test]
fn tokens_of_textual_inversion_are_used() {
    for listed in [false, true] {
        let tiny = Tiny::new();
        let plain = drawn(&tiny, &["model"], "a <cat-toy> circle");
        let words = words(&tiny);
        grow(&tiny, 3);
        let tokens = ["<cat-toy>", "<cat-toy>_1", "<dog>"];
        if listed {
            edit_json(&tiny, CONFIG, |config| {
                for (index, token) in tokens.iter().enumerate() {
                    config["added_tokens_decoder"][(words + index).to_string()] = json!({
                        "content": token, "lstrip": false, "rstrip": false, "normalized": true,
                        "single_word": false, "special": false,
                    });
                }
            });
        } else {
            let all: serde_json::Map<String, Value> = tokens
                .iter()
                .enumerate()
                .map(|(index, token)| ((*token).to_owned(), json!(words + index)))
                .collect();
            tiny.write("model/tokenizer/added_tokens.json", Value::Object(all).to_string());
        }
        // A concept of two vectors is written out.
        let found = ids(&tiny, "a <cat-toy> circle");
        assert_eq!(found[2..4], [words as u32, words as u32 + 1]);
        assert_eq!(found, ids(&tiny, "a <cat-toy>circle"));
        assert_ne!(drawn(&tiny, &["model"], "a <cat-toy> circle"), plain);
        // A run takes them, and its export has them.
        tiny.write("train.txt", "a <cat-toy>\na red circle\na blue square\na green star\n");
        tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &[]);
        tiny.expect(&["export", "out", "--format", "diffusers", "--out", "folder"], 0, &[]);
        let exported = drawn(&tiny, &["folder"], "a <cat-toy> circle");
        assert_eq!(exported, drawn(&tiny, &["out/aligned"], "a <cat-toy> circle"));
    }
}

#[test]
fn tokens_without_a_vector_are_refused_by_name() {
    let tiny = Tiny::new();
    let words = words(&tiny);
    let added = "model/tokenizer/added_tokens.json";
    tiny.write(added, json!({ "<cat-toy>": words }).to_string());
    refused(&tiny, &["model/tokenizer", "<cat-toy>", &format!("{words} rows")]);
    tiny.write(added, json!({ "<cat-toy>": words + 7 }).to_string());
    refused(&tiny, &["model/tokenizer", "<cat-toy>", "next free id"]);
    tiny.write(added, "{\"<cat-toy>\": \"x\"}");
    refused(&tiny, &["added_tokens.json", "<cat-toy>"]);
    fs::remove_file(tiny.path(added)).unwrap();
    let vocab = read(&tiny, "vocab.json");
    for id in [words as u64, 1 << 31, (1 << 32) - 1] {
        tiny.write(
            "model/tokenizer/vocab.json",
            vocab.replacen("{", &format!("{{\"extra</w>\": {id}, "), 1),
        );
        refused(&tiny, &["model/tokenizer", "extra</w>", &id.to_string()]);
    }
    tiny.write("model/tokenizer/vocab.json", vocab.replacen("{", "{\"x\": 4294967296, ", 1));
    refused(&tiny, &["vocab.json"]);
}

#[test]
fn a_tokenizer_longer_than_its_text_encoder_is_refused() {
    let tiny = Tiny::new();
    let picture = drawn(&tiny, &["model"], "a red circle");
    for (length, words) in [
        (json!(17), "model_max_length is 17"),
        (json!(77), "reads 16 tokens"),
        (json!(999_999), "reads 16 tokens"),
        (json!(2), "at least 3"),
        (json!(0), "at least 3"),
        (json!(-1), "model_max_length is -1"),
        (json!(7.5), "model_max_length is 7.5"),
        (json!("16"), "model_max_length is \"16\""),
    ] {
        edit_json(&tiny, CONFIG, |config| config["model_max_length"] = length);
        refused(&tiny, &["model/tokenizer", words]);
    }
    // What transformers writes where there is no limit: the text encoder's.
    for length in [json!(1e30), json!(1_000_000_000_000_000_019_884_624_838_656_f64), Value::Null] {
        edit_json(&tiny, CONFIG, |config| config["model_max_length"] = length);
        assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture);
    }
}

#[test]
fn every_layout_of_a_tokenizer_is_read() {
    let tiny = Tiny::new();
    let picture = drawn(&tiny, &["model"], "a red circle");
    let vocab: Value = serde_json::from_str(&read(&tiny, "vocab.json")).unwrap();
    let merges = read(&tiny, "merges.txt");
    let lines: Vec<&str> =
        merges.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).collect();
    let pairs: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    let place = |name: &str| tiny.path("model/tokenizer").join(name);
    fs::remove_file(place("merges.txt")).unwrap();
    refused(&tiny, &["model/tokenizer", "merges.txt: it is missing", "tokenizer.json"]);
    for (merges, alone) in [(json!(lines), false), (json!(pairs), false), (json!(pairs), true)] {
        let whole = json!({
            "version": "1.0",
            "added_tokens": [{"id": vocab["<|endoftext|>"], "content": "<|endoftext|>", "special": true}],
            "model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocab, "merges": merges},
        });
        fs::write(place("tokenizer.json"), whole.to_string()).unwrap();
        if alone {
            fs::remove_file(place("vocab.json")).unwrap();
        }
        assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture);
    }
    // The rest of it may be missing, too.
    fs::remove_file(place("special_tokens_map.json")).unwrap();
    assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture);
    fs::write(place("tokenizer.json"), "{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}")
        .unwrap();
    refused(&tiny, &["tokenizer.json", "CLIP"]);
    fs::remove_file(place("tokenizer.json")).unwrap();
    refused(&tiny, &["model/tokenizer", "vocab.json: it is missing"]);
}
