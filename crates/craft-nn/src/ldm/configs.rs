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

/// Groups of every published group norm.
const GROUPS: usize = 32;
/// Width of a head.
const HEAD: usize = 64;
/// Whose spread tells v prediction from ε in Stable Diffusion 2: above [`V_SPREAD`] in all published v
/// models, below in all ε models. Source: ComfyUI, `comfy/supported_models.py`.
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
    /// Whether the model predicts v: what a marker key or the header says, or for Stable Diffusion 2
    /// what a bias tells. The key is what ComfyUI and A1111 go by.
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

    /// The published schedule. A model of v whose schedule was rescaled to a terminal signal-to-noise
    /// ratio of zero begins at the last timestep, so its timesteps trail; with ε there is nothing to
    /// learn there, and the mark means nothing.
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

    /// Channels of a level of the UNet, outermost first.
    fn channels(&self) -> Vec<usize> {
        let mut first = 1;
        let mut channels = Vec::with_capacity(self.skeleton.layers.len());
        for layers in &self.skeleton.layers {
            channels.push(self.unet.size(&format!("input_blocks.{first}.0.in_layers.2.weight"), 0));
            first += layers + 1;
        }
        channels
    }

    /// Transformer blocks of the attention below a prefix.
    fn depth(&self, module: &str) -> usize {
        self.unet.count(|n| format!("{module}.transformer_blocks.{n}.norm1.weight"))
    }

    /// Places where attentions may be, in the order of computation but for the middle.
    fn attentions(&self) -> impl Iterator<Item = String> + use<> {
        let blocks = self.skeleton.layers.iter().map(|n| n + 1).sum::<usize>();
        let of = move |way: &'static str| (0..blocks).map(move |n| format!("{way}_blocks.{n}.1"));
        of("input").chain(of("output"))
    }

    /// Transformer blocks of every attention: by level of the way down, and of the way up, which begins
    /// with the innermost.
    fn depths(&self) -> (Vec<Vec<usize>>, Vec<Vec<usize>>) {
        let layers = &self.skeleton.layers;
        let (mut at, mut down, mut up) = (1, vec![], vec![]);
        for n in layers {
            down.push((at..at + n).map(|i| self.depth(&format!("input_blocks.{i}.1"))).collect());
            at += n + 1;
        }
        at = 0;
        for n in layers.iter().rev() {
            up.push((at..=at + n).map(|i| self.depth(&format!("output_blocks.{i}.1"))).collect());
            at += n + 1;
        }
        (down, up)
    }

    fn unet(&self, v: bool) -> Result<Value, LdmError> {
        const FILE: &str = "unet/config.json";
        let s = self.skeleton;
        let levels = s.layers.len();
        let channels = self.channels();
        if s.layers.contains(&0) || channels.contains(&0) {
            let why = "a level has no residual block".to_owned();
            return Err(unknown("layers_per_block", why, FILE));
        }
        if let Some(odd) = channels.iter().find(|c| !c.is_multiple_of(GROUPS)) {
            let why = format!(
                "a level has {odd} channels, which the usual {GROUPS} groups do not divide"
            );
            return Err(unknown("norm_num_groups", why, FILE));
        }
        let middle = self.unet.has("middle_block.0.in_layers.2.weight");
        let attends = self.unet.has("middle_block.1.norm.weight");
        if middle && !attends && self.unet.has("middle_block.1.in_layers.2.weight") {
            let why = "the middle has several residual blocks and does not attend, which is not supported".to_owned();
            return Err(unknown("mid_block_type", why, FILE));
        }
        let (down, up) = self.depths();
        let mid = self.depth("middle_block.1");
        let example = self.attentions().find(|module| self.depth(module) > 0);
        // The number of each level, where its attentions agree.
        let mut depths: Vec<usize> = (0..levels)
            .map(|l| down[l].iter().chain(&up[levels - 1 - l]).copied().max().unwrap_or(0))
            .collect();
        let agree = |l: usize| {
            down[l].iter().chain(&up[levels - 1 - l]).all(|d| [0, depths[l]].contains(d))
        };
        let nested = !(0..levels).all(agree);
        let last = if nested {
            down[levels - 1].first().copied().unwrap_or(0)
        } else {
            depths[levels - 1]
        };
        if attends && last != 0 && last != mid {
            let why = format!(
                "the middle has {mid} transformer blocks and the innermost level {last}, which is not supported"
            );
            return Err(unknown("transformer_layers_per_block", why, FILE));
        }
        if attends {
            depths[levels - 1] = depths[levels - 1].max(mid);
        }
        let example = example.unwrap_or_else(|| "middle_block.1".to_owned());
        let block = format!("{example}.transformer_blocks.0");
        let context = self.unet.size(&format!("{block}.attn2.to_k.weight"), 1);
        let heads = self.heads(&channels, &depths)?;
        let depths: Vec<usize> = depths.into_iter().map(|d| d.max(1)).collect();
        let lists = |levels: &[Vec<usize>]| -> Value {
            let list = |d: &Vec<usize>| if d.contains(&0) { json!(1) } else { json!(d) };
            levels.iter().map(list).collect()
        };
        let mid_block = match (middle, attends) {
            (false, _) => Value::Null,
            (true, true) => json!("UNetMidBlock2DCrossAttn"),
            (true, false) => json!("UNetMidBlock2D"),
        };
        let types = |flags: &[bool], plain: &str, cross: &str| -> Vec<String> {
            flags.iter().map(|f| if *f { cross } else { plain }.to_owned()).collect()
        };
        let size = match (self.family, v) {
            (Family::Sdxl, _) => 128,
            (Family::Sd2, true) => 96,
            _ => 64,
        };
        let mut config = json!({
            "_class_name": "UNet2DConditionModel",
            "sample_size": size,
            "in_channels": self.unet.size("input_blocks.0.0.weight", 1),
            "out_channels": self.unet.size("out.2.weight", 0),
            "block_out_channels": channels,
            "layers_per_block": s.layers,
            "down_block_types": types(&s.down_attention, "DownBlock2D", "CrossAttnDownBlock2D"),
            "mid_block_type": mid_block,
            "up_block_types": types(&s.up_attention, "UpBlock2D", "CrossAttnUpBlock2D"),
            "transformer_layers_per_block": if nested { lists(&down) } else { json!(depths) },
            "attention_head_dim": heads,
            "cross_attention_dim": context,
            "use_linear_projection":
                self.unet.get(&format!("{example}.proj_in.weight")).is_some_and(|s| s.len() == 2),
            "norm_num_groups": GROUPS,
        });
        if nested {
            config["reverse_transformer_layers_per_block"] = lists(&up);
        }
        if self.family == Family::Sdxl {
            let width = self.unet.size("label_emb.0.0.weight", 1);
            let pooled = self.text_2.size("text_projection", 1);
            let sizes = width.saturating_sub(pooled);
            if pooled == 0 || sizes == 0 || !sizes.is_multiple_of(6) {
                let why = format!(
                    "label_emb takes {width} values, {pooled} of pooled text; the rest is not a multiple of 6 sizes"
                );
                return Err(unknown("addition_time_embed_dim", why, FILE));
            }
            config["addition_embed_type"] = json!("text_time");
            config["addition_time_embed_dim"] = json!(sizes / 6);
            config["projection_class_embeddings_input_dim"] = json!(width);
        }
        Ok(config)
    }

    /// `attention_head_dim`, which means the number of heads.
    fn heads(&self, channels: &[usize], depths: &[usize]) -> Result<Value, LdmError> {
        let attending = || channels.iter().zip(depths).filter(|(_, d)| **d > 0).map(|(c, _)| *c);
        let (unit, what) = match self.family {
            Family::Sd1 => (8, "8 heads"),
            _ => (HEAD, "heads of width 64"),
        };
        if let Some(odd) = attending().find(|c| !c.is_multiple_of(unit)) {
            let why = format!(
                "{} has {what}, which do not divide the {odd} channels of a level",
                self.family.title()
            );
            return Err(unknown("attention_head_dim", why, "unet/config.json"));
        }
        Ok(match self.family {
            Family::Sd1 => json!(8),
            _ => json!(channels.iter().map(|c| (c / HEAD).max(1)).collect::<Vec<_>>()),
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

    fn text(&self) -> Result<Value, LdmError> {
        if self.family == Family::Sd2 {
            return self.open_clip(self.text, "text_encoder/config.json", "CLIPTextModel");
        }
        let t = self.text;
        let level =
            if t.has("text_model.embeddings.token_embedding.weight") { "text_model." } else { "" };
        let at = |name: &str| format!("{level}{name}");
        let layers = t.count(|n| at(&format!("encoder.layers.{n}.layer_norm1.weight")));
        let embedding = at("embeddings.token_embedding.weight");
        let sizes = TextSizes {
            vocab: t.size(&embedding, 0),
            width: t.size(&embedding, 1),
            inner: t.size(&at("encoder.layers.0.mlp.fc1.weight"), 0),
            length: t.size(&at("embeddings.position_embedding.weight"), 0),
            layers,
            projection: t.size(&embedding, 1),
        };
        sizes.config("quick_gelu", "text_encoder/config.json", "CLIPTextModel")
    }

    fn text_2(&self) -> Result<Value, LdmError> {
        let class = "CLIPTextModelWithProjection";
        self.open_clip(self.text_2, "text_encoder_2/config.json", class)
    }

    fn open_clip(
        &self,
        t: View<'_>,
        file: &'static str,
        class: &'static str,
    ) -> Result<Value, LdmError> {
        let blocks = t.count(|n| format!("transformer.resblocks.{n}.ln_1.weight"));
        let left_out = usize::from(self.family == Family::Sd2 && blocks == 24);
        let width = t.size("token_embedding.weight", 1);
        let projection = t.size("text_projection", 1);
        let sizes = TextSizes {
            vocab: t.size("token_embedding.weight", 0),
            width,
            inner: t.size("transformer.resblocks.0.mlp.c_fc.weight", 0),
            length: t.size("positional_embedding", 0),
            layers: blocks - left_out,
            projection: if projection == 0 { width } else { projection },
        };
        sizes.config("gelu", file, class)
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
            // diffusers wants these named even where there are none.
            index["safety_checker"] = json!([null, null]);
            index["feature_extractor"] = json!([null, null]);
            index["requires_safety_checker"] = json!(false);
        }
        index
    }
}

struct TextSizes {
    vocab: usize,
    width: usize,
    inner: usize,
    length: usize,
    layers: usize,
    projection: usize,
}

impl TextSizes {
    fn config(self, act: &str, file: &'static str, class: &str) -> Result<Value, LdmError> {
        if self.width == 0 || !self.width.is_multiple_of(HEAD) {
            let why = format!("heads of width {HEAD} do not divide the width {}", self.width);
            return Err(unknown("num_attention_heads", why, file));
        }
        Ok(json!({
            "architectures": [class],
            "model_type": "clip_text_model",
            "vocab_size": self.vocab,
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.width / HEAD,
            "max_position_embeddings": self.length,
            "hidden_act": act,
            "layer_norm_eps": 1e-5,
            "projection_dim": self.projection,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
        }))
    }
}
