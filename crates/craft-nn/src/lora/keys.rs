//! Keys of LoRA files: which module a tensor belongs to, and which part of it it is.

/// Parts of an adapted module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Down,
    /// The core of a convolution in LyCORIS' Tucker form, between down and up.
    Mid,
    Up,
    Alpha,
}

/// Endings of keys.
const ENDINGS: [(&str, Part); 15] = [
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora_mid.weight", Part::Mid),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    ("_lora.down.weight", Part::Down),
    ("_lora.up.weight", Part::Up),
    (".lora_linear_layer.alpha", Part::Alpha),
    (".lora.alpha", Part::Alpha),
    ("_lora.alpha", Part::Alpha),
    (".alpha", Part::Alpha),
];
/// What PEFT puts before the names of the model that it wraps.
const WRAPPER: &str = "base_model.model.";

/// A key taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The module, in the names of today's diffusers where the key has dots.
    pub(super) module: String,
    pub(super) part: Part,
    /// PEFT's name of the adapter, in states that were saved without `save_pretrained`.
    pub(super) adapter: Option<String>,
}

/// The module and the part that a key names; `None` for keys of other kinds of adapters.
pub(super) fn split(key: &str) -> Option<Key> {
    let bare = key.replacen(WRAPPER, "", 1);
    let (bare, adapter) = without_adapter_name(&bare);
    let (stem, part) = ENDINGS
        .iter()
        .find_map(|(ending, part)| bare.strip_suffix(ending).map(|stem| (stem, *part)))?;
    Some(Key { module: today(stem), part, adapter })
}

/// `….lora_A.default.weight` as `….lora_A.weight`, and `default`.
fn without_adapter_name(key: &str) -> (String, Option<String>) {
    for half in [".lora_A.", ".lora_B."] {
        let Some((module, rest)) = key.rsplit_once(half) else { continue };
        if let Some(name) = rest.strip_suffix(".weight").filter(|name| !name.is_empty()) {
            return (format!("{module}{half}weight"), Some(name.to_owned()));
        }
    }
    (key.to_owned(), None)
}

/// A module's name in today's diffusers and transformers. Before PEFT, diffusers named the
/// projections of attention by its processor (`….attn1.processor.to_out_lora`), in text encoders
/// too (`….self_attn.to_q_lora`).
fn today(module: &str) -> String {
    let module = module.replacen(".processor.", ".", 1);
    let old = [("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out", "out_proj")];
    for (old, new) in old {
        if let Some(attention) = module.strip_suffix(old).filter(|a| a.ends_with(".self_attn.")) {
            return format!("{attention}{new}");
        }
    }
    if module.ends_with(".to_out") { format!("{module}.0") } else { module }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(key: &str) -> String {
        split(key).map_or_else(String::new, |key| key.module)
    }

    #[test]
    fn names_of_all_ages_are_those_of_today() {
        for (key, today) in [
            ("a.attn1.processor.to_q_lora.down.weight", "a.attn1.to_q"),
            ("a.attn1.processor.to_out_lora.up.weight", "a.attn1.to_out.0"),
            ("a.attn1.processor.to_out_lora.alpha", "a.attn1.to_out.0"),
            ("a.attn1.to_out_lora.up.weight", "a.attn1.to_out.0"),
            ("a.attn1.to_out.0.lora.down.weight", "a.attn1.to_out.0"),
            ("te.0.self_attn.to_q_lora.up.weight", "te.0.self_attn.q_proj"),
            ("te.0.self_attn.to_out_lora.up.weight", "te.0.self_attn.out_proj"),
            ("te.0.self_attn.q_proj.lora_linear_layer.down.weight", "te.0.self_attn.q_proj"),
            ("te.0.mlp.fc1.lora_linear_layer.alpha", "te.0.mlp.fc1"),
            ("base_model.model.a.to_q.lora_A.default.weight", "a.to_q"),
            ("unet.base_model.model.a.to_q.lora_B.weight", "unet.a.to_q"),
            ("lora_unet_a_to_out_0.lora_mid.weight", "lora_unet_a_to_out_0"),
            ("a.to_q.lora_magnitude_vector", ""),
            ("a.to_q.base_layer.weight", ""),
        ] {
            assert_eq!(module(key), today, "{key}");
        }
        let named = split("a.lora_B.style.weight").and_then(|key| key.adapter);
        assert_eq!(named.as_deref(), Some("style"));
    }
}
