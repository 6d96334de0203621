//! The configs of the reward models, as their libraries write them.

use craft_nn::tokenizer::ClipTokenizer;
use serde_json::{Value, json};

use super::{EMBED, MEAN, STD, TEXT_WIDTH};
use crate::MAX_TOKENS;

const WIDTH: usize = 128;

pub(super) fn vision_json() -> Value {
    json!({
        "hidden_act": "gelu", "hidden_size": WIDTH, "image_size": 64,
        "intermediate_size": 4 * WIDTH, "layer_norm_eps": 1e-5, "model_type": "clip_vision_model",
        "num_attention_heads": 4, "num_channels": 3, "num_hidden_layers": 3, "patch_size": 8,
        "projection_dim": EMBED,
    })
}

pub(super) fn clip_json(tokenizer: &ClipTokenizer) -> Value {
    json!({
        "architectures": ["CLIPModel"],
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": EMBED,
        "text_config": {
            "bos_token_id": tokenizer.eos() - 1, "eos_token_id": tokenizer.eos(),
            "pad_token_id": tokenizer.eos(), "hidden_act": "gelu", "hidden_size": TEXT_WIDTH,
            "intermediate_size": 4 * TEXT_WIDTH, "layer_norm_eps": 1e-5,
            "max_position_embeddings": MAX_TOKENS, "model_type": "clip_text_model",
            "num_attention_heads": 4, "num_hidden_layers": 2, "projection_dim": EMBED,
            "vocab_size": tokenizer.vocab_size(),
        },
        "vision_config": vision_json(),
    })
}

pub(super) fn open_clip_json(tokenizer: &ClipTokenizer) -> Value {
    json!({
        "model_cfg": {
            "embed_dim": EMBED,
            "vision_cfg": {
                "image_size": 64, "layers": 3, "width": WIDTH, "head_width": WIDTH / 4,
                "patch_size": 8,
            },
            "text_cfg": {
                "context_length": MAX_TOKENS, "vocab_size": tokenizer.vocab_size(),
                "width": TEXT_WIDTH, "heads": 4, "layers": 2,
            },
        },
        "preprocess_cfg": { "mean": MEAN, "std": STD },
    })
}

pub(super) fn preprocessor_json() -> Value {
    json!({
        "crop_size": { "height": 64, "width": 64 }, "do_center_crop": true,
        "do_convert_rgb": true, "do_normalize": true, "do_rescale": true, "do_resize": true,
        "image_mean": MEAN, "image_processor_type": "CLIPImageProcessor", "image_std": STD,
        "resample": 3, "rescale_factor": 1.0 / 255.0, "size": { "shortest_edge": 64 },
    })
}
