//! Writes files of a published layout with small random values.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use craft_store::raw::{self, Entry, Format};
use craft_store::{StoreError, text};

use super::facts::{Facts, Size, Tensor, small_config};
use super::pickle;

/// Writes a model folder: all its texts, made small, the tokenizers' vocabulary, and these weight files.
pub(super) fn folder(dir: &Path, facts: &Facts, weights: &[&str]) {
    for (path, config) in facts.texts() {
        let target = dir.join(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, format!("{:#}\n", small_config(path, config))).unwrap();
        if let Some((tokenizer, _)) =
            path.split_once('/').filter(|(d, _)| d.starts_with("tokenizer"))
        {
            vocabulary(&dir.join(tokenizer));
        }
    }
    for path in weights {
        weight_file(&dir.join(path), facts, path);
    }
}

/// Writes a weight file of a model in its own format, made small.
pub(super) fn weight_file(target: &Path, facts: &Facts, path: &str) {
    let weights = facts.weights(path);
    let tensors = weights.tensors(Size::Small);
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    if path.ends_with(".safetensors") {
        safetensors(target, &tensors);
    } else {
        pickle::write(target, &tensors, weights.nested());
    }
}

fn safetensors(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let entry = |(name, (format, shape)): (&String, &Tensor)| Entry {
        name: name.clone(),
        shape: shape.clone(),
        format: *format,
    };
    let entries: Vec<Entry> = tensors.iter().map(entry).collect();
    raw::write(path, &entries, &BTreeMap::new(), |e| {
        Ok::<_, StoreError>(bytes(&e.name, e.format, &e.shape))
    })
    .unwrap();
}

/// A tensor's values.
pub(super) fn bytes(name: &str, format: Format, shape: &[usize]) -> Vec<u8> {
    let count: usize = shape.iter().product();
    match format {
        Format::I64 => (0..count as i64).flat_map(i64::to_le_bytes).collect(),
        Format::I32 => (0..count as i32).flat_map(i32::to_le_bytes).collect(),
        Format::F16 => values(name, shape).flat_map(|v| half(v).to_le_bytes()).collect(),
        _ => values(name, shape).flat_map(f32::to_le_bytes).collect(),
    }
}

/// Numbers that keep activations near 1: weights uniform by their inputs, norms near 1, biases small.
fn values(name: &str, shape: &[usize]) -> impl Iterator<Item = f32> + use<> {
    let inputs: usize = shape.iter().skip(1).product();
    let (middle, spread) = match name {
        n if n.ends_with("logit_scale") => (2.6, 0.0),
        n if n.ends_with("weight") && shape.len() == 1 => (1.0, 0.1),
        _ if shape.len() < 2 => (0.0, 0.05),
        _ => (0.0, (3.0 / inputs as f32).sqrt()),
    };
    let mut state = name.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    (0..shape.iter().product::<usize>()).map(move |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = (state >> 40) as f32 / (1u64 << 24) as f32;
        middle + (2.0 * unit - 1.0) * spread
    })
}

/// The nearest 16-bit number of one that is no larger than 60000; tiny ones are 0.
fn half(value: f32) -> u16 {
    let bits = value.to_bits() + 0x1000; // Rounds the 13 bits that go.
    let exponent = ((bits >> 23) & 0xff) as i32 - 112;
    let sign = (bits >> 16) & 0x8000;
    if exponent <= 0 {
        return sign as u16;
    }
    (sign | ((exponent as u32) << 10) | ((bits >> 13) & 0x3ff)) as u16
}

/// CLIP's `vocab.json` and `merges.txt`, from the merges that the program carries.
pub(super) fn vocabulary(dir: &Path) {
    let merges = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/clip/merges.txt.gz");
    let merges = text::read_gzip(&merges, 1 << 24).unwrap();
    // Every byte has a letter: its own where it is printable, one from 256 on where it is not.
    let printable = |b: &u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let letters = (0..256)
        .filter(printable)
        .chain((0..256).filter(|b| !printable(b)).zip(256..).map(|(_, n)| n));
    let letters: Vec<String> = letters.map(|c| char::from_u32(c).unwrap().to_string()).collect();
    let ends = letters.iter().map(|c| format!("{c}</w>"));
    let pairs = merges.lines().skip(1).filter(|l| !l.is_empty()).map(|l| l.replace(' ', ""));
    let special = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    let tokens = letters.iter().cloned().chain(ends).chain(pairs).chain(special);
    let vocab: serde_json::Map<_, _> =
        tokens.enumerate().map(|(id, token)| (token, id.into())).collect();
    assert_eq!(vocab.len(), 49408);
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("vocab.json"), serde_json::Value::Object(vocab).to_string()).unwrap();
    fs::write(dir.join("merges.txt"), merges).unwrap();
}
