//! What PEFT writes in addition to the tensors of an adapter: `adapter_config.json`, or the same
//! keys in the header of diffusers' files. Only what changes the product is kept; what cannot be
//! followed is refused by name.
//!
//! Source: PEFT's `LoraConfig` and `get_pattern_key`.

use std::collections::BTreeMap;

use fancy_regex::Regex;
use serde_json::{Map, Value};

use super::{Component, LoraError};

/// PEFT's own rank and alpha where a config does not say them.
const DEFAULT: f64 = 8.0;
/// Most patterns of a config; there are fewer modules than that.
const MAX_PATTERNS: usize = 4096;
/// Keys of a config that change more than factors do, with what they are.
const OTHER: [(&str, &str); 12] = [
    ("use_dora", "DoRA, which also scales the rows of the weights"),
    ("modules_to_save", "modules that are replaced as a whole"),
    ("trainable_token_indices", "rows of a token embedding"),
    ("target_parameters", "factors of bare parameters"),
    ("lora_bias", "biases of factors"),
    ("layer_replication", "layers that are repeated"),
    ("alora_invocation_tokens", "factors that work after some tokens only (aLoRA)"),
    ("use_qalora", "factors of groups of inputs (QALoRA)"),
    ("use_bdlora", "factors of blocks (BD-LoRA)"),
    ("arrow_config", "a choice between several adapters (Arrow)"),
    ("kasa_config", "factors of singular values (KaSA)"),
    ("monteclora_config", "factors that are drawn anew (MonteCLoRA)"),
];
/// Starts that change the weights below the factors, so that the factors alone do not tell the
/// result.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// Settings of the factors of a file.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// By component; `None` for all of the file.
    configs: Vec<(Option<Component>, Config)>,
    /// The network that the file is for, where that is known from elsewhere.
    only: Option<Component>,
    /// The encoder that is meant where names fit both of SDXL's.
    encoder: Option<Component>,
    /// Where they are from, for messages.
    place: &'static str,
}

impl Settings {
    /// Those in a file's header: JSON with keys such as `unet.lora_alpha`.
    ///
    /// # Errors
    /// When the JSON is broken or asks for what is not plain LoRA.
    pub fn of_header(metadata: &BTreeMap<String, String>) -> Result<Self, LoraError> {
        let Some(text) = metadata.get("lora_adapter_metadata") else { return Ok(Self::default()) };
        let place = "its lora_adapter_metadata";
        let about = |error: String| LoraError::Settings(format!("{place} {error}"));
        let value = object(text).map_err(about)?;
        let mut settings = Self { place, ..Self::default() };
        for component in [Component::Unet, Component::TextEncoder, Component::TextEncoder2] {
            let prefix = format!("{}.", component.folder());
            let part: Map<String, Value> = value
                .iter()
                .filter_map(|(key, value)| {
                    Some((key.strip_prefix(&prefix)?.to_owned(), value.clone()))
                })
                .collect();
            if !part.is_empty() {
                let config = Config::new(&part, &prefix).map_err(about)?;
                settings.configs.push((Some(component), config));
            }
        }
        Ok(settings)
    }

    /// Those of an `adapter_config.json`.
    ///
    /// # Errors
    /// When the JSON is broken, or is that of another kind of adapter.
    pub fn of_peft(text: &str) -> Result<Self, LoraError> {
        let about = |error: String| LoraError::Settings(format!("it {error}"));
        let value = object(text).map_err(about)?;
        let kind = value.get("peft_type").and_then(Value::as_str).unwrap_or("LORA");
        if !kind.eq_ignore_ascii_case("lora") {
            return Err(about(format!(
                "has peft_type = \"{kind}\", which is not read; expected \"LORA\": merge the adapter into its model with PEFT (merge_and_unload) and give that as the model"
            )));
        }
        let class = value.get("auto_mapping").and_then(|m| m.get("base_model_class"));
        let encoder = match class.and_then(Value::as_str) {
            Some("CLIPTextModel") => Some(Component::TextEncoder),
            Some("CLIPTextModelWithProjection") => Some(Component::TextEncoder2),
            _ => None,
        };
        let mut config = Config::new(&value, "").map_err(about)?;
        config.rank = config.rank.or(Some(DEFAULT));
        config.alpha = config.alpha.or(Some(DEFAULT));
        Ok(Self {
            configs: vec![(None, config)],
            only: None,
            encoder,
            place: "its adapter_config.json",
        })
    }

    /// The same for a file that is known to be of one network.
    pub fn within(mut self, component: Component) -> Self {
        self.only = Some(component);
        self
    }

    /// Whether anything is said of the factors.
    pub fn is_empty(&self) -> bool {
        self.configs.is_empty()
    }

    /// Whether a component may be meant.
    pub(super) fn allows(&self, component: Component) -> bool {
        self.only.is_none_or(|only| only == component)
    }

    /// Whether a component is the better guess of two text encoders.
    pub(super) fn prefers(&self, component: Component) -> bool {
        self.encoder == Some(component)
    }

    /// What a product of `rank` is multiplied by: alpha / rank, or alpha / √rank for
    /// rank-stabilised adapters; 1 where nothing is said, as PEFT does where alpha is the rank.
    ///
    /// # Errors
    /// When another rank is said.
    pub(super) fn scale(
        &self,
        component: Component,
        parameter: &str,
        rank: usize,
    ) -> Result<f32, LoraError> {
        let fits = |of: &Option<Component>| of.is_none_or(|of| of == component);
        match self.configs.iter().find(|(of, _)| fits(of)) {
            Some((_, config)) => {
                let module = parameter.strip_suffix(".weight").unwrap_or(parameter);
                config
                    .scale(module, rank)
                    .map_err(|error| LoraError::Settings(format!("{} {error}", self.place)))
            }
            None => Ok(1.0),
        }
    }
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("is no JSON object; expected keys such as lora_alpha".to_owned()),
        Err(error) => Err(format!("is not JSON ({error}); expected keys such as lora_alpha")),
    }
}

/// One adapter's settings.
#[derive(Clone, Debug)]
struct Config {
    rank: Option<f64>,
    alpha: Option<f64>,
    stabilised: bool,
    ranks: Vec<(Regex, f64)>,
    alphas: Vec<(Regex, f64)>,
}

impl Config {
    fn new(map: &Map<String, Value>, prefix: &str) -> Result<Self, String> {
        check(map, prefix)?;
        let number = |key: &str| match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64().filter(|n| n.is_finite()) {
                Some(n) => Ok(Some(n)),
                None => Err(format!("has {prefix}{key} = {}; expected a number", short(value))),
            },
        };
        let patterns = |key: &str| -> Result<Vec<(Regex, f64)>, String> {
            let entries = map.get(key).and_then(Value::as_object);
            if let Some(count) = entries.map(Map::len).filter(|count| *count > MAX_PATTERNS) {
                return Err(format!(
                    "has {count} patterns in {prefix}{key}; expected at most {MAX_PATTERNS}"
                ));
            }
            let entries = entries.into_iter().flatten();
            entries
                .map(|(pattern, value)| {
                    // A module's name, or a regular expression, that its name ends with.
                    let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).map_err(|_| {
                        let pattern = short(&Value::from(pattern.as_str()));
                        format!("has {pattern} in {prefix}{key}; expected the name of a module, or a regular expression")
                    })?;
                    let number = value.as_f64().filter(|n| n.is_finite());
                    let number = number.ok_or_else(|| {
                        format!("has {} in {prefix}{key}; expected numbers", short(value))
                    })?;
                    Ok((regex, number))
                })
                .collect()
        };
        Ok(Self {
            rank: number("r")?,
            alpha: number("lora_alpha")?,
            stabilised: map.get("use_rslora").and_then(Value::as_bool) == Some(true),
            ranks: patterns("rank_pattern")?,
            alphas: patterns("alpha_pattern")?,
        })
    }

    fn scale(&self, module: &str, rank: usize) -> Result<f32, String> {
        let of = |patterns: &[(Regex, f64)]| -> Result<Option<f64>, String> {
            for (pattern, value) in patterns {
                let hit = pattern.is_match(module).map_err(|error| {
                    format!("has a pattern that cannot be compared with {module} ({error}); expected the name of a module")
                })?;
                if hit {
                    return Ok(Some(*value));
                }
            }
            Ok(None)
        };
        let said = of(&self.ranks)?.or(self.rank);
        if let Some(said) = said.filter(|said| *said != rank as f64) {
            return Err(format!(
                "says rank {said} for {module}, whose factors have rank {rank}; expected the settings of this adapter: put back the file that was saved with it"
            ));
        }
        let rank = rank as f64;
        let alpha = of(&self.alphas)?.or(self.alpha).unwrap_or(rank);
        Ok((alpha / if self.stabilised { rank.sqrt() } else { rank }) as f32)
    }
}

/// Refuses what is not plain LoRA.
fn check(map: &Map<String, Value>, prefix: &str) -> Result<(), String> {
    let set = |key: &str| {
        map.get(key).filter(|value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            Value::String(text) => !text.is_empty(),
            _ => true,
        })
    };
    for (key, what) in OTHER {
        if let Some(value) = set(key) {
            return Err(format!(
                "has {prefix}{key} = {}: {what}, which is not supported; expected plain LoRA: merge the adapter into its model with PEFT (merge_and_unload) and give that as the model, or train it again without",
                short(value)
            ));
        }
    }
    if let Some(bias) = set("bias").filter(|bias| *bias != "none") {
        return Err(format!(
            "has {prefix}bias = {}: it also changes biases of the model, which is not supported; expected \"none\": merge the adapter into its model with PEFT (merge_and_unload) and give that as the model",
            short(bias)
        ));
    }
    let start = map.get("init_lora_weights").and_then(Value::as_str).unwrap_or_default();
    let lower = start.to_lowercase();
    if CHANGES_BASE.iter().any(|name| lower.starts_with(name)) {
        return Err(format!(
            "has {prefix}init_lora_weights = \"{start}\", which also changes the weights below the factors; expected an adapter that PEFT converted to plain LoRA (save_pretrained with path_initial_model_for_weight_conversion)"
        ));
    }
    Ok(())
}

/// A value for a message, however long it is.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn scale(json: &str, module: &str, rank: usize) -> Result<f32, LoraError> {
        Settings::of_peft(json)?.scale(Component::Unet, &format!("{module}.weight"), rank)
    }

    #[test]
    fn the_scale_is_that_of_peft() {
        let q = "down_blocks.0.attn1.to_q";
        for (json, module, expected) in [
            (r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 16}"#, q, 4.0),
            (r#"{"r": 4, "lora_alpha": 16, "use_rslora": true}"#, q, 8.0),
            (r#"{"r": 4, "lora_alpha": null}"#, q, 2.0),
            (r#"{"r": 4, "lora_alpha": 2, "alpha_pattern": {"to_q": 8}}"#, q, 2.0),
            (r#"{"r": 4, "lora_alpha": 2, "alpha_pattern": {"o_q": 8}}"#, q, 0.5),
            (r#"{"r": 4, "lora_alpha": 2, "alpha_pattern": {"down_blocks.*to_[qk]": 8}}"#, q, 2.0),
            (
                r#"{"r": 4, "lora_alpha": 2, "alpha_pattern": {"^mid.*": 8, "attn1\\.to_q": 6, "to_q": 8}}"#,
                q,
                1.5,
            ),
            (r#"{"r": 2, "lora_alpha": 2, "rank_pattern": {"to_q": 4}}"#, q, 0.5),
        ] {
            assert_eq!(scale(json, module, 4).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn what_is_no_plain_lora_is_refused_by_name() {
        for (json, words) in [
            (r#"{"use_dora": true}"#, "DoRA"),
            (r#"{"peft_type": "LOHA"}"#, "LOHA"),
            (r#"{"peft_type": "IA3"}"#, "IA3"),
            (r#"{"bias": "lora_only"}"#, "bias = \"lora_only\""),
            (r#"{"modules_to_save": ["conv_in"]}"#, "modules_to_save"),
            (r#"{"init_lora_weights": "pissa_niter_4"}"#, "pissa_niter_4"),
            (r#"{"lora_alpha": "x"}"#, "expected a number"),
            (r#"{"alpha_pattern": {"(": 1}}"#, "regular expression"),
            (r#"[]"#, "no JSON object"),
            ("", "not JSON"),
        ] {
            let message = Settings::of_peft(json).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
        let plain = r#"{"bias": "none", "use_dora": false, "modules_to_save": null, "init_lora_weights": true}"#;
        assert!(Settings::of_peft(plain).is_ok());
        let message = scale(r#"{"r": 8}"#, "a.to_q", 4).unwrap_err().to_string();
        assert!(message.contains("rank 8") && message.contains("rank 4"), "{message}");
    }
}
