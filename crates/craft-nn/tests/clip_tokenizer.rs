//! The tokenizer against transformers, and its trainer (fixtures/clip/tokenizer).
//!
//! `CRAFT_BLESS=1` rewrites the vocabulary; run fixtures/clip/make.py after it.
#![allow(clippy::unwrap_used, missing_docs, clippy::disallowed_methods)]

use std::path::PathBuf;

use craft_nn::tokenizer::{ClipTokenizer, TokenizerFiles, TokenizerTexts, train};
use serde_json::Value;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/clip/tokenizer").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

fn fixture() -> ClipTokenizer {
    ClipTokenizer::from_files(
        &text("vocab.json"),
        &text("merges.txt"),
        Some(&text("tokenizer_config.json")),
        Some(&text("special_tokens_map.json")),
    )
    .unwrap()
}

/// transformers 5 writes one `tokenizer.json`; merges as pairs, in earlier versions as lines.
#[test]
fn a_whole_tokenizer_json_reads_as_its_parts() {
    let parts = fixture();
    let vocab: Value = serde_json::from_str(&text("vocab.json")).unwrap();
    let merges: Vec<&str> = Vec::from_iter(TEXT_MERGES.lines().filter(|l| !l.starts_with('#')));
    let pairs: Vec<Vec<&str>> = merges.iter().map(|line| line.split(' ').collect()).collect();
    for merges in [serde_json::json!(merges), serde_json::json!(pairs)] {
        let whole = serde_json::json!({
            "added_tokens": [{"id": vocab["<|endoftext|>"], "content": "<|endoftext|>"}],
            "model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocab, "merges": merges},
        });
        let config = text("tokenizer_config.json");
        let read =
            ClipTokenizer::from_tokenizer_json(&whole.to_string(), Some(&config), None).unwrap();
        for sentence in ["two small red circles", "", "Blue, unknown wörds!"] {
            assert_eq!(read.encode(sentence), parts.encode(sentence), "{sentence}");
        }
    }
    let other = r#"{"model": {"type": "WordPiece", "vocab": {}, "merges": []}}"#;
    let error = ClipTokenizer::from_tokenizer_json(other, None, None).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("WordPiece"), "{error}");
}

const TEXT_MERGES: &str = include_str!("../../../fixtures/clip/tokenizer/merges.txt");

#[test]
fn training_gives_the_committed_files() {
    let corpus = text("corpus.txt");
    let files = train(corpus.lines(), 1000).unwrap();
    let (config, map) = TokenizerFiles::configs(16, "<|endoftext|>");
    let all = [
        ("vocab.json", &files.vocab_json),
        ("merges.txt", &files.merges_txt),
        ("tokenizer_config.json", &config),
        ("special_tokens_map.json", &map),
    ];
    for (name, contents) in all {
        if std::env::var_os("CRAFT_BLESS").is_some() {
            std::fs::write(path(name), contents).unwrap();
        }
        assert_eq!(&text(name), contents, "{name}");
    }
}

#[test]
fn ids_are_those_of_transformers() {
    let tokenizer = fixture();
    let rows: Vec<Value> = serde_json::from_str(&text("ids.json")).unwrap();
    assert!(rows.len() > 10);
    for row in rows {
        let expected: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
        let text = row["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).ids, expected, "{text:?}");
    }
}

/// Padding tokens in texts, textual inversion, flags of special tokens, in every file that says
/// them.
#[test]
fn added_tokens_are_those_of_transformers() {
    let rows: Vec<Value> = serde_json::from_str(&text("added.json")).unwrap();
    assert!(rows.len() > 15);
    let (vocab, merges) = (text("vocab.json"), text("merges.txt"));
    let lines: Vec<&str> = merges.lines().skip(1).collect();
    for row in rows {
        let file = |name: &str| row["files"].get(name).map(Value::to_string);
        let (config, special) = (file("tokenizer_config"), file("special_tokens_map"));
        let added = file("added_tokens");
        let whole = row.get("added").map(|added| {
            let vocab: Value = serde_json::from_str(&vocab).unwrap();
            let model = serde_json::json!({
                "type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocab, "merges": lines,
            });
            serde_json::json!({ "added_tokens": added, "model": model }).to_string()
        });
        let tokenizer = ClipTokenizer::from_texts(&TokenizerTexts {
            vocab: whole.is_none().then_some(&vocab),
            merges: whole.is_none().then_some(&merges),
            whole: whole.as_deref(),
            config: config.as_deref(),
            special: special.as_deref(),
            added: added.as_deref(),
        })
        .unwrap();
        for (text, ids) in row["ids"].as_object().unwrap() {
            let expected: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            assert_eq!(tokenizer.encode(text).ids, expected, "{}: {text:?}", row["name"]);
        }
    }
}

#[test]
fn a_tokenizer_fits_its_text_encoder_or_is_refused() {
    let rows = fixture().vocab_size();
    assert_eq!(fixture().for_encoder(16, rows).unwrap().length(), 16);
    let message = |positions, rows| {
        let tokenizer: ClipTokenizer = fixture();
        tokenizer.for_encoder(positions, rows).unwrap_err().to_string()
    };
    let long = message(15, rows);
    assert!(long.contains("16") && long.contains("15 tokens (max_position"), "{long}");
    let few = message(16, rows - 1);
    assert!(few.contains("<|endoftext|>") && few.contains(&format!("{} rows", rows - 1)), "{few}");
    let read = |config: &str| {
        ClipTokenizer::from_files(&text("vocab.json"), &text("merges.txt"), Some(config), None)
    };
    // Without a length, or with transformers' absurd one, it is the text encoder's.
    for config in ["{}", r#"{"model_max_length": 1e30}"#, r#"{"model_max_length": null}"#] {
        assert_eq!(read(config).unwrap().for_encoder(20, rows).unwrap().length(), 20, "{config}");
    }
    for value in ["\"77\"", "-1", "7.5", "[]", "2", "true"] {
        let config = format!("{{\"model_max_length\": {value}}}");
        let error = read(&config).unwrap_err().to_string();
        assert!(error.contains("model_max_length is"), "{error}");
    }
}

#[test]
fn added_tokens_follow_the_vocabulary() {
    let (vocab, merges) = (text("vocab.json"), text("merges.txt"));
    let words = fixture().vocab_size();
    let read = |added: &str| {
        ClipTokenizer::from_texts(&TokenizerTexts {
            vocab: Some(&vocab),
            merges: Some(&merges),
            added: Some(added),
            ..Default::default()
        })
    };
    let at = |id: usize| format!("{{\"<cat-toy>\": {id}}}");
    let tokenizer = read(&at(words)).unwrap();
    assert_eq!(tokenizer.encode("<cat-toy>").ids[1] as usize, words);
    let beyond = tokenizer.for_encoder(77, words).unwrap_err().to_string();
    assert!(beyond.contains("<cat-toy>") && beyond.contains("rows"), "{beyond}");
    let gap = read(&at(words + 5)).unwrap_err().to_string();
    assert!(
        gap.contains("<cat-toy>") && gap.contains(&format!("next free id is {words}")),
        "{gap}"
    );
    for bad in ["{\"a\": -1}", "{\"a\": \"1\"}", "{\"a\": 4294967296}", "[]"] {
        let error = read(bad).unwrap_err().to_string();
        assert!(error.contains("added_tokens.json"), "{error}");
    }
    let missing =
        ClipTokenizer::from_texts(&TokenizerTexts { vocab: Some(&vocab), ..Default::default() });
    let missing = missing.unwrap_err().to_string();
    assert!(missing.contains("merges.txt: it is missing") && missing.contains("tokenizer.json"));
}

#[test]
fn every_word_of_the_corpus_is_one_token() {
    let tokenizer = fixture();
    for line in text("corpus.txt").lines() {
        for word in line.split([' ', ',', ':', '\'', '-']).filter(|w| !w.is_empty()) {
            let ids = tokenizer.encode(word).ids;
            assert_eq!(ids[2], tokenizer.eos(), "{word}");
        }
    }
    let vocab: serde_json::Map<String, Value> = serde_json::from_str(&text("vocab.json")).unwrap();
    assert_eq!(vocab["!"], 0);
    assert_eq!(vocab["!</w>"], 256);
    assert_eq!(vocab["<|startoftext|>"], vocab.len() - 2);
    assert_eq!(vocab["<|endoftext|>"], vocab.len() - 1);
    assert_eq!(tokenizer.vocab_size(), vocab.len());
}

#[test]
fn merges_alone_or_one_json_give_the_same_ids() {
    let vocab: Value = serde_json::from_str(&text("vocab.json")).unwrap();
    let merges = text("merges.txt");
    let config = text("tokenizer_config.json");
    let lines: Vec<&str> = merges.lines().skip(1).collect();
    let pairs: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    let json = |merges: Value| {
        serde_json::json!({"model": {
            "type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocab, "merges": merges,
        }})
    };
    let of_json = |value: Value| {
        ClipTokenizer::from_tokenizer_json(&value.to_string(), Some(&config), None).unwrap()
    };
    let tokenizers = [
        ClipTokenizer::from_merges(&merges, Some(&config), None).unwrap(),
        of_json(json(serde_json::to_value(&lines).unwrap())),
        of_json(json(serde_json::to_value(&pairs).unwrap())),
    ];
    let rows: Vec<Value> = serde_json::from_str(&text("ids.json")).unwrap();
    for (row, tokenizer) in rows.iter().flat_map(|row| tokenizers.iter().map(move |t| (row, t))) {
        let text = row["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text), fixture().encode(text), "{text:?}");
    }
    assert!(ClipTokenizer::from_tokenizer_json("{}", None, None).is_err());
}

#[test]
fn open_clips_rules_differ_where_they_should() {
    let tokenizer = fixture().with_open_clip_rules();
    let ids = |text: &str| tokenizer.encode(text).ids;
    assert_eq!(ids("a \u{201c}red\u{201d} circle"), ids("a \"red\" circle"));
    assert_eq!(ids("red &amp; blue"), ids("red & blue"));
    assert_eq!(ids("a")[3..], [0; 13]);
    // The name of a special token is a text like others.
    assert_ne!(ids("<|endoftext|>")[1], tokenizer.eos());
    assert_eq!(fixture().encode("<|endoftext|>").ids[1], tokenizer.eos());
    // Nor is padding found in words, whatever the folder pads with.
    let (vocab, merges) = (text("vocab.json"), text("merges.txt"));
    let map = Some(r#"{"pad_token": "!"}"#);
    let marks = ClipTokenizer::from_files(&vocab, &merges, None, map).unwrap();
    assert_eq!(marks.encode("red!").ids[2], 0);
    let marks = marks.with_open_clip_rules().with_length(16).unwrap();
    assert_eq!(marks.encode("a red! circle!!").ids, ids("a red! circle!!"));
    assert_ne!(marks.encode("red!").ids[2], 0);
}

#[test]
fn the_limit_holds_and_rare_words_are_cut_into_pieces() {
    let corpus = text("corpus.txt");
    let files = train(corpus.lines(), 530).unwrap();
    let tokenizer = ClipTokenizer::from_files(&files.vocab_json, &files.merges_txt, None, None);
    let tokenizer = tokenizer.unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.length()), (530, 77));
    let ids = tokenizer.encode("hexagon").ids;
    assert!(ids[2] != tokenizer.eos());
    assert!(train(corpus.lines(), 513).is_err());
    assert!(train(corpus.lines(), 514).is_ok());
}

#[test]
fn long_texts_are_cut_and_counted() {
    let tokenizer = fixture().with_length(6).unwrap();
    let encoded = tokenizer.encode("a red circle on a white background");
    assert_eq!((encoded.ids.len(), encoded.tokens_cut), (6, 3));
    assert_eq!(encoded.ids[5], tokenizer.eos());
    assert_eq!(tokenizer.encode("a red circle on").tokens_cut, 0);
    assert!(fixture().with_length(2).is_err());
}

#[test]
fn padding_is_that_of_the_map_unless_the_config_lists_its_tokens() {
    let (vocab, merges) = (text("vocab.json"), text("merges.txt"));
    let pad = |config: &str, map: Option<&str>| {
        let tokenizer = ClipTokenizer::from_files(&vocab, &merges, Some(config), map).unwrap();
        *tokenizer.encode("a").ids.last().unwrap()
    };
    let end = fixture().eos();
    assert_eq!(pad("{}", None), end);
    assert_eq!(pad(r#"{"pad_token": "!"}"#, None), 0);
    assert_eq!(pad(r#"{"pad_token": {"content": "!"}}"#, None), 0);
    assert_eq!(pad(r#"{"pad_token": "<|endoftext|>"}"#, Some(r#"{"pad_token": "!"}"#)), 0);
    let listed = r#"{"pad_token": "<|endoftext|>", "added_tokens_decoder": {}}"#;
    assert_eq!(pad(listed, Some(r#"{"pad_token": "!"}"#)), end);
    assert_eq!(pad(r#"{"model_max_length": 1000000000000000019884624838656}"#, None), end);
}

#[test]
fn malformed_files_are_named() {
    let (vocab, merges) = (text("vocab.json"), text("merges.txt"));
    let message = |vocab: &str, merges: &str, config: Option<&str>| {
        ClipTokenizer::from_files(vocab, merges, config, None).unwrap_err().to_string()
    };
    assert!(message("[]", &merges, None).contains("vocab.json"));
    assert!(message(&vocab, "#version: 0.2\na b c\n", None).contains("merges.txt: line 2"));
    assert!(message(&vocab, &merges, Some("1")).contains("tokenizer_config.json"));
    assert!(message("{\"a\": 0}", "", None).contains("<|startoftext|>"));
    let missing = message(&vocab, &merges, Some(r#"{"pad_token": "<pad>"}"#));
    assert!(missing.contains("<pad>"), "{missing}");
    let added = r#"{"added_tokens_decoder": {"999": {"content": "<cat-toy>"}}}"#;
    assert!(message(&vocab, &merges, Some(added)).contains("<cat-toy>"));
    assert!(message(&vocab, "zz yy\n", None).contains("merges.txt"));
}
