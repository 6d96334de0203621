use super::*;

#[test]
fn absent_keys_have_the_defaults_and_unknown_ones_are_ignored() {
    let text =
        ClipTextConfig::from_json(r#"{"hidden_size": 64, "torch_dtype": "float32"}"#).unwrap();
    assert_eq!((text.hidden_size, text.vocab_size, text.eos_token_id), (64, 49408, 49407));
    assert_eq!(text.hidden_act, Act::QuickGelu);
}

#[test]
fn the_projection_of_the_model_wins_over_those_of_its_parts() {
    let json = r#"{"projection_dim": 7, "text_config": {"projection_dim": 512},
        "text_config_dict": {"hidden_size": 16, "hidden_act": "gelu"},
        "vision_config": {"image_size": 64, "patch_size": 8}, "vision_config_dict": null}"#;
    let config = ClipConfig::from_json(json).unwrap();
    assert_eq!(config.text_config.projection_dim, 7);
    assert_eq!(config.text_config.hidden_act, Act::Gelu);
    assert_eq!(config.vision_config.image_size, 64);
    assert_eq!(ClipVisionConfig::from_json(json).unwrap(), config.vision_config);
}

#[test]
fn impossible_shapes_are_refused_by_key() {
    for (json, key) in [
        (r#"{"num_attention_heads": 7}"#, "num_attention_heads"),
        (r#"{"hidden_size": 0}"#, "hidden_size"),
        (r#"{"num_hidden_layers": 0}"#, "num_hidden_layers"),
        (r#"{"hidden_act": "silu"}"#, "hidden_act"),
        (r#"{"model_type": "t5"}"#, "model_type"),
        (r#"{"use_relative_positions": true}"#, "use_relative_positions"),
    ] {
        let message = ClipTextConfig::from_json(json).unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }
    let message = ClipVisionConfig::from_json(r#"{"patch_size": 5}"#).unwrap_err().to_string();
    assert!(message.contains("patch_size"), "{message}");
    assert!(ClipTextConfig::from_json("{").is_err());
    assert!(ClipTextConfig::from_json(r#"{"hidden_act": "relu"}"#).is_err());
}
