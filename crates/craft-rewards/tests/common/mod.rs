//! A tiny dual encoder with its tokenizer.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;

use burn::tensor::Device;
use craft_nn::clip::{ClipConfig, ClipModel, ClipTextConfig, ClipVisionConfig};
use craft_nn::init::Init;
use craft_nn::ops::Act;
use craft_nn::tokenizer::{TokenizerFiles, train};
use craft_rewards::{RewardFiles, RgbImageRef};

pub const CORPUS: [&str; 3] = ["a red circle", "a blue square", "two green triangles on white"];

pub fn tokenizer() -> TokenizerFiles {
    train(CORPUS.into_iter(), 700).unwrap()
}

pub fn config(act: Act, eos: u32) -> ClipConfig {
    let text = ClipTextConfig {
        vocab_size: 700,
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        max_position_embeddings: 8,
        hidden_act: act,
        eos_token_id: eos,
        ..ClipTextConfig::default()
    };
    let vision = ClipVisionConfig {
        hidden_size: 24,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        image_size: 16,
        patch_size: 4,
        hidden_act: act,
        ..ClipVisionConfig::default()
    };
    ClipConfig::new(text, vision, 10).unwrap()
}

/// The same shapes as transformers writes them.
pub const CLIP_JSON: &str = r#"{"projection_dim": 10,
  "text_config": {"vocab_size": 700, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 8,
    "hidden_act": "quick_gelu", "eos_token_id": 2},
  "vision_config": {"hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 3, "image_size": 16, "patch_size": 4, "hidden_act": "quick_gelu"}}"#;

/// And as open_clip does.
pub const OPEN_CLIP_JSON: &str = r#"{"model_cfg": {"embed_dim": 10, "quick_gelu": true,
  "vision_cfg": {"image_size": 16, "layers": 2, "width": 24, "head_width": 8, "patch_size": 4},
  "text_cfg": {"context_length": 8, "vocab_size": 700, "width": 16, "heads": 2, "layers": 2,
    "mlp_ratio": 2.0}},
  "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}}"#;

pub fn model(seed: u64, device: &Device) -> ClipModel {
    ClipModel::new(&mut Init::seeded(seed, device), &config(Act::QuickGelu, 2))
}

/// Tokenizer files; configs and weights are up to the test.
pub fn files() -> RewardFiles {
    let TokenizerFiles { vocab_json, merges_txt } = tokenizer();
    let (config, map) = TokenizerFiles::configs(8, "<|endoftext|>");
    let configs = BTreeMap::from([
        ("vocab.json".to_owned(), vocab_json),
        ("merges.txt".to_owned(), merges_txt),
        ("tokenizer_config.json".to_owned(), config),
        ("special_tokens_map.json".to_owned(), map),
    ]);
    RewardFiles { configs, tensors: BTreeMap::new() }
}

/// A picture that a seed fixes.
pub fn picture(seed: u32, width: usize, height: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    (0..width * height * 3)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

pub fn image(pixels: &[u8], width: usize, height: usize) -> RgbImageRef<'_> {
    RgbImageRef { pixels, width, height }
}
