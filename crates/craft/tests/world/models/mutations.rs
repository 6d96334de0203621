//! Seeded damage to every file that a model is loaded from: a refusal or a model, never a panic.

use std::fs;

use super::numbers::{FILES, outcome, peak};
use super::{TEXT, UNET, VAE};
use crate::support::Tiny;

/// A small generator of numbers (Marsaglia's xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }
}

/// Numbers and marks that files of JSON break at.
const PIECES: [&str; 14] = [
    "0",
    "-1",
    "1e308",
    "4294967296",
    "18446744073709551615",
    "9223372036854775807",
    "[]",
    "{}",
    "null",
    "\"",
    ",",
    "\\u0000",
    "1e-400",
    "77",
];

fn damage(bytes: &mut Vec<u8>, within: usize, numbers: &mut Numbers) {
    for _ in 0..=numbers.next(3) {
        let at = numbers.next(within.min(bytes.len()));
        match numbers.next(5) {
            0 => bytes[at] ^= 1 << numbers.next(8),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, numbers.next(256) as u8),
            3 => {
                // A whole number in place of another.
                let start = (at..bytes.len()).find(|i| bytes[*i].is_ascii_digit()).unwrap_or(at);
                let end = (start..bytes.len()).find(|i| !bytes[*i].is_ascii_digit());
                let piece = PIECES[numbers.next(PIECES.len())];
                bytes.splice(start..end.unwrap_or(bytes.len()), piece.bytes());
            }
            _ => {
                let end = (at + numbers.next(40)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
}

#[test]
fn damaged_files_are_refused_or_read() {
    let tiny = Tiny::new();
    let tokenizer = ["vocab.json", "merges.txt", "special_tokens_map.json"]
        .map(|name| format!("model/tokenizer/{name}"));
    let others = ["model/model_index.json", "model/scheduler/scheduler_config.json"];
    let weights = [UNET, VAE, TEXT];
    let files = FILES.into_iter().chain(others).chain(weights);
    for file in files.map(str::to_owned).chain(tokenizer) {
        let good = fs::read(tiny.path(&file)).unwrap();
        // Of weights the header is damaged.
        let within = match file.ends_with(".safetensors") {
            true => 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize,
            false => good.len(),
        };
        for seed in 1..=120u64 {
            let mut bytes = good.clone();
            damage(&mut bytes, within, &mut Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            tiny.write(&file, &bytes);
            match outcome(&tiny) {
                Ok(None) => {}
                Ok(Some((code, message))) => {
                    assert_eq!(code, 3, "{file}, seed {seed}: {message}");
                    assert!(message.len() < 3000, "{file}, seed {seed}: {message}");
                }
                Err(()) => panic!("{file}, seed {seed}: a panic"),
            }
        }
        tiny.write(&file, good);
    }
    assert!(peak() < 2048, "{} MiB", peak());
}
