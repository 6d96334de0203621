//! Token ids of published prompt lists against open_clip and transformers, and the published aesthetic
//! head against PyTorch (fixtures/rewards/tokens.py).
//!
//! The lists and the head lie in `shared/` beside the repository, or in the folder that
//! `CRAFT_SHARED_DIR` names. Without them those tests check nothing.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs::File;
use std::path::{Path, PathBuf};

use craft_nn::tokenizer::{BertTokenizer, ClipTokenizer};
use craft_nn::weights::HostTensor;
use craft_rewards::AffineHead;
use craft_store::{tensors, text};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn shared() -> Option<PathBuf> {
    let given = std::env::var_os("CRAFT_SHARED_DIR").map(PathBuf::from);
    let dir = given.unwrap_or_else(|| root().join("../shared"));
    dir.join("data").is_dir().then_some(dir)
}

fn merges() -> String {
    let file = File::open(root().join("assets/clip/merges.txt.gz")).unwrap();
    text::gunzip(file, 1 << 20).unwrap()
}

fn prompts(shared: &Path) -> Vec<String> {
    let read =
        |name: &str| std::fs::read_to_string(shared.join("data/prompts").join(name)).unwrap();
    let hpd: Vec<Value> = serde_json::from_str(&read("hpdv2_benchmark.json")).unwrap();
    let hpd = hpd.iter().map(|p| p.as_str().or_else(|| p["prompt"].as_str()).unwrap().to_owned());
    let parti = read("partiprompts.tsv");
    let parti = parti.split('\n').skip(1).filter(|line| !line.is_empty());
    hpd.chain(parti.map(|line| line.split('\t').next().unwrap().to_owned())).collect()
}

/// FNV-1a over the ids as 32-bit numbers.
fn hash(ids: &[u32]) -> u32 {
    ids.iter().fold(0x811c_9dc5, |value, id| (value ^ id).wrapping_mul(0x0100_0193))
}

/// Compares the ids of all prompts with row `row` of the fixture.
fn compare(row: usize, what: &str, encode: impl Fn(&str) -> Vec<u32>) {
    let Some(shared) = shared() else { return };
    let prompts = prompts(&shared);
    assert_eq!(prompts.len(), 4832);
    let bytes = std::fs::read(root().join("fixtures/rewards/tokens.u32")).unwrap();
    let hashes: Vec<u32> =
        bytes.as_chunks::<4>().0.iter().copied().map(u32::from_le_bytes).collect();
    let expected = &hashes[row * prompts.len()..(row + 1) * prompts.len()];
    let wrong: Vec<&String> = prompts
        .iter()
        .zip(expected)
        .filter(|(prompt, expected)| hash(&encode(prompt)) != **expected)
        .map(|(prompt, _)| prompt)
        .collect();
    assert!(wrong.is_empty(), "{} prompts differ from {what}, such as {:?}", wrong.len(), wrong[0]);
}

#[test]
fn ids_of_real_prompts_are_open_clips() {
    let tokenizer =
        ClipTokenizer::from_merges(&merges(), None, None).unwrap().with_open_clip_rules();
    assert_eq!(tokenizer.vocab_size(), 49408);
    compare(0, "open_clip", |text| tokenizer.encode(text).ids);
}

#[test]
fn ids_of_real_prompts_are_transformers() {
    let tokenizer = ClipTokenizer::from_merges(&merges(), None, None).unwrap();
    compare(1, "transformers", |text| tokenizer.encode(text).ids);
}

#[test]
fn wordpiece_ids_of_real_prompts_are_transformers() {
    let marks: Vec<char> = ('!'..='~').filter(|c| !c.is_ascii_uppercase()).collect();
    let mut tokens: Vec<String> =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).to_vec();
    tokens.extend(marks.iter().map(|c| c.to_string()));
    tokens.extend(marks.iter().map(|c| format!("##{c}")));
    for merge in merges().lines().skip(1) {
        let word = merge.replace(' ', "");
        let piece = word.strip_suffix("</w>").unwrap_or(&word);
        if piece.bytes().all(|b| b.is_ascii_lowercase()) {
            let inner = piece.len() == word.len();
            tokens.push(if inner { format!("##{piece}") } else { piece.to_owned() });
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    tokens.retain(|token| seen.insert(token.clone()));
    let vocab = tokens.join("\n") + "\n";
    let tokenizer = BertTokenizer::from_vocab(&vocab, 35).unwrap();
    compare(2, "transformers' BertTokenizer", |text| tokenizer.encode(text).ids);
    let ids: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let json = serde_json::json!({"model": {"type": "WordPiece", "vocab": ids}}).to_string();
    let whole = BertTokenizer::from_tokenizer_json(&json, 35).unwrap();
    let text = "A Caf\u{e9}, unbelievably; d\u{e9}j\u{e0}-vu!";
    assert_eq!(whole.encode(text), tokenizer.encode(text));
    let twice = format!("{vocab}[PAD]\n");
    assert!(BertTokenizer::from_vocab(&twice, 35).unwrap_err().to_string().contains("repeats"));
    assert!(BertTokenizer::from_vocab("a\n", 35).unwrap_err().to_string().contains("[CLS]"));
}

#[test]
fn the_published_aesthetic_head_gives_pytorchs_values() {
    let Some(shared) = shared() else { return };
    let path = shared.join("data/weights/sac+logos+ava1-l14-linearMSE.pth");
    let head = tensors::read_finite(&path).unwrap();
    let head = head.into_iter().map(|(n, t)| (n, HostTensor { shape: t.shape, data: t.data }));
    let head = AffineHead::new("aesthetic", &head.collect(), 768).unwrap();
    let bytes = std::fs::read(root().join("fixtures/rewards/aesthetic_head.f32")).unwrap();
    let expected = bytes.as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes);
    let mut state = 1u64;
    let mut worst = 0f64;
    for expected in expected {
        let row: Vec<f64> = (0..768)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f64 / f64::from(1u32 << 24) - 0.5
            })
            .collect();
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        let row: Vec<f32> = row.iter().map(|v| (v / length) as f32).collect();
        worst = worst.max((head.apply(&row) - f64::from(expected)).abs());
    }
    assert!(worst < 1e-5, "{worst}");
}
