//! Which configs of a UNet2DConditionModel are supported.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{COMPONENT, UNetConfig};
use crate::bounds::{self, refused};
use crate::config::{ConfigError, check_rest};
use crate::unet_depths::Depths;

/// Largest height and width of latents that a model is taken to be trained on.
const MOST_LATENTS: u64 = 4096;

/// Keys of networks that take more than a text, and what such networks are.
const OTHERS: [(&str, &str); 7] = [
    ("class_embed_type", "a class-conditioned network, such as unCLIP's"),
    ("num_class_embeds", "a class-conditioned network, such as the upscaler's"),
    ("encoder_hid_dim_type", "a network conditioned on pictures"),
    ("encoder_hid_dim", "a network with a text encoder of another width, such as DeepFloyd's"),
    ("time_cond_proj_dim", "a network that takes the guidance scale, such as LCM's"),
    ("cross_attention_norm", "a network that normalises its condition"),
    ("timestep_post_act", "a network of another family"),
];

/// One number, or height and width.
fn sizes(value: &Value) -> Option<Vec<u64>> {
    match value {
        Value::Array(both) if both.len() == 2 => both.iter().map(Value::as_u64).collect(),
        one => Some(vec![one.as_u64()?]),
    }
}

/// Names a per-level key of another form.
pub(super) fn check_lists(keys: &BTreeMap<String, Value>) -> Result<(), ConfigError> {
    for (key, flag) in [
        ("layers_per_block", false),
        ("cross_attention_dim", false),
        ("attention_head_dim", false),
        ("only_cross_attention", true),
    ] {
        let fits = |value: &Value| if flag { value.is_boolean() } else { value.is_u64() };
        let sound = |value: &Value| value.as_array().map_or(fits(value), |v| v.iter().all(fits));
        if let Some(value) = keys.get(key).filter(|value| !sound(value)) {
            let one = if flag { "true or false" } else { "a whole number" };
            return Err(ConfigError::Unsupported {
                component: COMPONENT,
                key: key.to_owned(),
                value: value.to_string(),
                supported: format!("{one}, or a list of one per level"),
            });
        }
    }
    for key in ["transformer_layers_per_block", "reverse_transformer_layers_per_block"] {
        let other = |value: &&Value| !value.is_null() && !Depths::fits(value);
        if let Some(value) = keys.get(key).filter(other) {
            let supported = "a whole number, or a list of one, or of one per block, per level";
            return Err(refused(COMPONENT, key, value, supported));
        }
    }
    let key = "transformer_layers_per_block";
    let nested =
        |value: &&Value| value.as_array().is_some_and(|levels| levels.iter().any(Value::is_array));
    let reverse = keys.get("reverse_transformer_layers_per_block").is_some_and(|v| !v.is_null());
    match keys.get(key).filter(nested) {
        Some(value) if !reverse => {
            let supported =
                "one number per level, or reverse_transformer_layers_per_block beside it";
            Err(refused(COMPONENT, key, value, supported))
        }
        _ => Ok(()),
    }
}

fn unsupported(key: &str, value: String, supported: &str) -> Result<(), ConfigError> {
    Err(refused(COMPONENT, key, value, supported))
}

impl UNetConfig {
    /// Checks every key.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.check_rest()?;
        self.check_numbers()?;
        self.check_block_types()?;
        self.check_added_condition()?;
        self.check_levels()
    }

    /// Refuses keys that are not supported, unless their value means nothing.
    fn check_rest(&self) -> Result<(), ConfigError> {
        let neutral: &[(&str, &[Value])] = &[
            ("center_input_sample", &[json!(false)]),
            ("downsample_padding", &[json!(1)]),
            ("mid_block_scale_factor", &[json!(1), json!(1.0)]),
            ("dropout", &[json!(0.0), json!(0)]),
            ("dual_cross_attention", &[json!(false)]),
            ("class_embeddings_concat", &[json!(false)]),
            ("resnet_skip_time_act", &[json!(false)]),
            ("resnet_out_scale_factor", &[json!(1.0), json!(1)]),
            ("resnet_time_scale_shift", &[json!("default")]),
            ("time_embedding_type", &[json!("positional")]),
            ("attention_type", &[json!("default")]),
            ("mid_block_only_cross_attention", &[json!(false)]),
            ("conv_in_kernel", &[json!(3)]),
            ("conv_out_kernel", &[json!(3)]),
        ];
        // `upcast_attention` asks for f32 attention, which is what is computed.
        let ignored = ["upcast_attention", "addition_embed_type_num_heads"];
        for (key, meaning) in OTHERS {
            if let Some(value) = self.rest.get(key).filter(|value| !value.is_null()) {
                let supported =
                    format!("null (this seems to be {meaning}): use a plain text-to-image model");
                return Err(refused(COMPONENT, key, value, &supported));
            }
        }
        check_rest(COMPONENT, &self.rest, neutral, &ignored)
    }

    /// Checks the kinds of blocks by level, that of the middle, and the activation.
    fn check_block_types(&self) -> Result<(), ConfigError> {
        let levels = self.block_out_channels.len();
        for (key, types, known) in [
            ("down_block_types", &self.down_block_types, ["CrossAttnDownBlock2D", "DownBlock2D"]),
            ("up_block_types", &self.up_block_types, ["CrossAttnUpBlock2D", "UpBlock2D"]),
        ] {
            if types.len() != levels {
                let text = format!("{} entries", types.len());
                return unsupported(key, text, &format!("{levels} entries, one per level"));
            }
            if let Some(bad) = types.iter().find(|t| !known.contains(&t.as_str())) {
                return unsupported(key, bad.clone(), &known.join(", "));
            }
        }
        match self.mid_block_type.as_deref() {
            None | Some("UNetMidBlock2DCrossAttn" | "UNetMidBlock2D") => {}
            Some(other) => {
                let supported = "UNetMidBlock2DCrossAttn, UNetMidBlock2D, null";
                return unsupported("mid_block_type", other.to_owned(), supported);
            }
        }
        if !["silu", "swish"].contains(&self.act_fn.as_str()) {
            return unsupported("act_fn", self.act_fn.clone(), "silu");
        }
        Ok(())
    }

    /// Checks the condition that SDXL adds to the time.
    fn check_added_condition(&self) -> Result<(), ConfigError> {
        let widths = [self.addition_time_embed_dim, self.projection_class_embeddings_input_dim];
        match self.addition_embed_type.as_deref() {
            None => {}
            Some("text_time") if widths.iter().all(Option::is_some) => {}
            Some("text_time") => {
                return unsupported(
                    "addition_embed_type",
                    "text_time without its widths".to_owned(),
                    "text_time with addition_time_embed_dim and projection_class_embeddings_input_dim",
                );
            }
            Some(other) => {
                return unsupported("addition_embed_type", other.to_owned(), "null, text_time");
            }
        }
        Ok(())
    }

    /// Checks that every per-level key has an entry for every level, and the numbers of heads.
    fn check_levels(&self) -> Result<(), ConfigError> {
        let levels = self.block_out_channels.len();
        for level in 0..levels {
            let channels = self.block_out_channels[level];
            let complete = self.heads(level).is_some()
                && self.layers(level).is_some()
                && self.has_depths(level)
                && self.context(level).is_some()
                && self.only_cross(level).is_some();
            if !complete {
                let text = format!("a list that ends before level {level}");
                return unsupported("a per-level key", text, &format!("{levels} entries"));
            }
            let heads = self.heads(level).unwrap_or(0);
            if heads == 0 || !channels.is_multiple_of(heads) {
                return unsupported(
                    "attention_head_dim",
                    heads.to_string(),
                    &format!("divisors of {channels} (it is the number of heads)"),
                );
            }
        }
        Ok(())
    }

    /// Checks the numbers that no other key bounds.
    fn check_numbers(&self) -> Result<(), ConfigError> {
        bounds::levels(COMPONENT, "block_out_channels", self.block_out_channels.len())?;
        bounds::groups(COMPONENT, self.norm_num_groups, &self.block_out_channels)?;
        bounds::above_zero(COMPONENT, "norm_eps", self.norm_eps, 1.0)?;
        for (key, value) in [("in_channels", self.in_channels), ("out_channels", self.out_channels)]
        {
            if value == 0 {
                return Err(refused(COMPONENT, key, value, "1 or more"));
            }
        }
        let widths = self.block_out_channels.first().copied().into_iter();
        let widths = widths.chain(self.addition_time_embed_dim);
        if let Some(odd) = widths.clone().find(|width| *width < 2 || !width.is_multiple_of(2)) {
            let key = "block_out_channels or addition_time_embed_dim";
            return Err(refused(COMPONENT, key, odd, "even widths for sines and cosines"));
        }
        let half = widths.min().unwrap_or(2) as f64 / 2.0;
        if !(0.0..half).contains(&self.freq_shift) {
            let found = format!("{:e}", self.freq_shift);
            return Err(refused(COMPONENT, "freq_shift", found, "0 or 1"));
        }
        match &self.sample_size {
            None => Ok(()),
            Some(size)
                if sizes(size)
                    .is_some_and(|s| s.iter().all(|n| (1..=MOST_LATENTS).contains(n))) =>
            {
                Ok(())
            }
            Some(size) => {
                let supported = format!("1 to {MOST_LATENTS}, or a height and a width");
                Err(refused(COMPONENT, "sample_size", size, &supported))
            }
        }
    }

    /// Whether every attention of a level has its number of blocks.
    fn has_depths(&self, level: usize) -> bool {
        let levels = self.block_out_channels.len();
        let cross =
            |types: &[String], at: usize| types.get(at).is_some_and(|t| t.starts_with("Cross"));
        let (layers, up) = (self.layers(level).unwrap_or(0), levels - 1 - level);
        let mut sound = level + 1 < levels || !self.mid_attends() || self.mid_depth().is_some();
        if cross(&self.down_block_types, level) {
            sound &= (0..layers).all(|i| self.down_depth(level, i).is_some());
        }
        if cross(&self.up_block_types, up) {
            sound &= (0..=layers).all(|i| self.up_depth(up, i).is_some());
        }
        sound
    }
}
