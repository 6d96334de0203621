//! Component configs of a single file, as diffusers would write them.
//!
//! What shapes tell is read from them. What they do not tell follows the family's published models:
//! 8 attention heads (Stable Diffusion 1) or heads of width 64 (2, SDXL, all text encoders), 32
//! groups, the factor on latents, the noise schedule.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::inspect::View;
use super::names::Skeleton;
use super::{Family, LdmError};

mod text;
mod unet;

/// Groups of every published group norm.
const GROUPS: usize = 32;
/// Width of a head.
const HEAD: usize = 64;
/// Whose spread tells v prediction from ε in Stable Diffusion 2: above [`V_SPREAD`] in all
/// published v models, below in all ε models. Source: ComfyUI, `comfy/supported_models.py`.
const V_BIAS: &str = "output_blocks.11.1.transformer_blocks.0.norm1.bias";
const V_SPREAD: f64 = 0.09;

/// Configs that the user gave, from a diffusers folder; they win over what is found.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// `unet/config.json`.
    pub unet: Option<Value>,
    /// `vae/config.json`.
    pub vae: Option<Value>,
    /// `text_encoder/config.json`.
    pub text: Option<Value>,
    /// `text_encoder_2/config.json`.
    pub text_2: Option<Value>,
    /// `scheduler/scheduler_config.json`.
    pub scheduler: Option<Value>,
}

/// The configs of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Configs {
    /// `unet/config.json`.
    pub unet: Value,
    /// `vae/config.json`.
    pub vae: Value,
    /// `text_encoder/config.json`.
    pub text: Value,
    /// `text_encoder_2/config.json`, for SDXL.
    pub text_2: Option<Value>,
    /// `scheduler/scheduler_config.json`.
    pub scheduler: Value,
    /// `model_index.json`.
    pub model_index: Value,
}

/// What the configs are found from.
pub(super) struct Facts<'a> {
    pub(super) family: Family,
    pub(super) skeleton: &'a Skeleton,
    pub(super) unet: View<'a>,
    pub(super) vae: View<'a>,
    pub(super) text: View<'a>,
    pub(super) text_2: View<'a>,
    pub(super) metadata: &'a BTreeMap<String, String>,
}

fn unknown(key: &'static str, why: String, file: &'static str) -> LdmError {
    LdmError::Config { key, why, file }
}

impl Configs {
    pub(super) fn new(
        facts: &Facts<'_>,
        given: &Given,
        values: &mut dyn FnMut(&str) -> Option<Vec<f32>>,
    ) -> Result<Self, LdmError> {
        let or = |given: &Option<Value>, found: &dyn Fn() -> Result<Value, LdmError>| match given {
            Some(value) => Ok(value.clone()),
            None => found(),
        };
        let scheduler = match &given.scheduler {
            Some(value) => value.clone(),
            None => facts.scheduler(facts.predicts_v(values)),
        };
        let v = scheduler["prediction_type"] == "v_prediction";
        Ok(Self {
            unet: or(&given.unet, &|| facts.unet(v))?,
            vae: or(&given.vae, &|| facts.vae())?,
            text: or(&given.text, &|| facts.text())?,
            text_2: match facts.family {
                Family::Sdxl => Some(or(&given.text_2, &|| facts.text_2())?),
                _ => None,
            },
            scheduler,
            model_index: facts.model_index(),
        })
    }
}

impl Facts<'_> {
    /// Whether the model predicts v: what a marker key or the header says, or for Stable Diffusion
    /// 2 what a bias tells. The key is what ComfyUI and A1111 go by.
    fn predicts_v(&self, values: &mut dyn FnMut(&str) -> Option<Vec<f32>>) -> bool {
        if self.unet.shapes.contains_key("v_pred") {
            return true;
        }
        let said = self.metadata.get("modelspec.prediction_type").map(|s| s.to_lowercase());
        if let Some(said) = said.as_deref().filter(|s| s.starts_with('v') || s.starts_with("eps")) {
            return said.starts_with('v');
        }
        if self.says("ss_v_parameterization") {
            return true;
        }
        let name = format!("{}{V_BIAS}", self.unet.prefix);
        if self.family != Family::Sd2 || !self.unet.has(V_BIAS) {
            return false;
        }
        values(&name).is_some_and(|bias| {
            let n = bias.len().max(1) as f64;
            let mean = bias.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
            let variance = bias.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
            variance.sqrt() > V_SPREAD
        })
    }

    /// Whether a switch of sd-scripts is on in the header.
    fn says(&self, key: &str) -> bool {
        self.metadata.get(key).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The published schedule. A model of v whose schedule was rescaled to a terminal
    /// signal-to-noise ratio of zero begins at the last timestep, so its timesteps trail; with ε
    /// there is nothing to learn there, and the mark means nothing.
    fn scheduler(&self, v: bool) -> Value {
        let marked = self.unet.shapes.contains_key("ztsnr") || self.says("ss_zero_terminal_snr");
        let zero_snr = v && marked;
        json!({
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "clip_sample": false,
            "set_alpha_to_one": false,
            "steps_offset": 1,
            "timestep_spacing": if zero_snr { "trailing" } else { "leading" },
            "rescale_betas_zero_snr": zero_snr,
            "prediction_type": if v { "v_prediction" } else { "epsilon" },
        })
    }

    fn vae(&self) -> Result<Value, LdmError> {
        let v = self.vae;
        let levels = self.skeleton.vae_levels;
        let channels: Vec<usize> = (0..levels)
            .map(|i| v.size(&format!("encoder.down.{i}.block.0.conv1.weight"), 0))
            .collect();
        if let Some(odd) = channels.iter().find(|c| **c == 0 || !c.is_multiple_of(GROUPS)) {
            let why = format!(
                "a level has {odd} channels, which the usual {GROUPS} groups do not divide"
            );
            return Err(unknown("norm_num_groups", why, "vae/config.json"));
        }
        Ok(json!({
            "_class_name": "AutoencoderKL",
            "in_channels": v.size("encoder.conv_in.weight", 1),
            "out_channels": v.size("decoder.conv_out.weight", 0),
            "latent_channels": v.size("decoder.conv_in.weight", 1),
            "block_out_channels": channels,
            "layers_per_block": self.skeleton.vae_layers,
            "down_block_types": vec!["DownEncoderBlock2D"; levels],
            "up_block_types": vec!["UpDecoderBlock2D"; levels],
            "norm_num_groups": GROUPS,
            "scaling_factor": if self.family == Family::Sdxl { 0.13025 } else { 0.18215 },
            "sample_size": if self.family == Family::Sdxl { 1024 } else { 512 },
            "mid_block_add_attention": v.has("encoder.mid.attn_1.norm.weight"),
            "use_quant_conv": v.has("quant_conv.weight"),
            "use_post_quant_conv": v.has("post_quant_conv.weight"),
        }))
    }

    fn model_index(&self) -> Value {
        let tokenizer = json!(["transformers", "CLIPTokenizer"]);
        let text = json!(["transformers", "CLIPTextModel"]);
        let mut index = json!({
            "_class_name": "StableDiffusionPipeline",
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": text,
            "tokenizer": tokenizer,
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        });
        if self.family == Family::Sdxl {
            index["_class_name"] = json!("StableDiffusionXLPipeline");
            index["text_encoder_2"] = json!(["transformers", "CLIPTextModelWithProjection"]);
            index["tokenizer_2"] = tokenizer;
            index["force_zeros_for_empty_prompt"] = json!(true);
        } else {
            // diffusers wants these named even if the model has none.
            index["safety_checker"] = json!([null, null]);
            index["feature_extractor"] = json!([null, null]);
            index["requires_safety_checker"] = json!(false);
        }
        index
    }
}
