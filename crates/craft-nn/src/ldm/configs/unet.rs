//! `config.json` of the UNet, from the shapes of its weights.

use serde_json::{Value, json};

use super::{Facts, GROUPS, HEAD, unknown};
use crate::ldm::{Family, LdmError};

const FILE: &str = "unet/config.json";

/// Transformer blocks of the attentions.
struct BlockDepths {
    /// By level and attention on the way down, outermost level first.
    down: Vec<Vec<usize>>,
    /// By level and attention on the way up, innermost level first.
    up: Vec<Vec<usize>>,
    /// The number of each level, if its attentions agree.
    levels: Vec<usize>,
    /// Whether attentions of one level differ.
    nested: bool,
}

impl Facts<'_> {
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
    pub(super) fn depth(&self, module: &str) -> usize {
        self.unet.count(|n| format!("{module}.transformer_blocks.{n}.norm1.weight"))
    }

    /// Places where attentions may be, in the order of computation but for the middle.
    pub(super) fn attentions(&self) -> impl Iterator<Item = String> + use<> {
        let blocks = self.skeleton.layers.iter().map(|n| n + 1).sum::<usize>();
        let of = move |way: &'static str| (0..blocks).map(move |n| format!("{way}_blocks.{n}.1"));
        of("input").chain(of("output"))
    }

    /// Transformer blocks of every attention: by level of the way down, and of the way up, which
    /// begins with the innermost.
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

    pub(super) fn unet(&self, v: bool) -> Result<Value, LdmError> {
        let s = self.skeleton;
        let channels = self.sound_channels()?;
        let (mid_block, attends) = self.middle()?;
        let BlockDepths { down, up, levels: depths, nested } = self.block_depths(attends)?;
        let example = self.attentions().find(|module| self.depth(module) > 0);
        let example = example.unwrap_or_else(|| "middle_block.1".to_owned());
        let block = format!("{example}.transformer_blocks.0");
        let context = self.unet.size(&format!("{block}.attn2.to_k.weight"), 1);
        let heads = self.heads(&channels, &depths)?;
        let depths: Vec<usize> = depths.into_iter().map(|d| d.max(1)).collect();
        let lists = |levels: &[Vec<usize>]| -> Value {
            let list = |d: &Vec<usize>| if d.contains(&0) { json!(1) } else { json!(d) };
            levels.iter().map(list).collect()
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
            self.add_condition(&mut config)?;
        }
        Ok(config)
    }

    /// Channels by level, each a multiple of the groups of group norm.
    fn sound_channels(&self) -> Result<Vec<usize>, LdmError> {
        let channels = self.channels();
        if self.skeleton.layers.contains(&0) || channels.contains(&0) {
            let why = "a level has no residual block".to_owned();
            return Err(unknown("layers_per_block", why, FILE));
        }
        if let Some(odd) = channels.iter().find(|c| !c.is_multiple_of(GROUPS)) {
            let why = format!(
                "a level has {odd} channels, which the usual {GROUPS} groups do not divide"
            );
            return Err(unknown("norm_num_groups", why, FILE));
        }
        Ok(channels)
    }

    /// The kind of the middle block, and whether it attends to the text.
    fn middle(&self) -> Result<(Value, bool), LdmError> {
        let middle = self.unet.has("middle_block.0.in_layers.2.weight");
        let attends = self.unet.has("middle_block.1.norm.weight");
        if middle && !attends && self.unet.has("middle_block.1.in_layers.2.weight") {
            let why = "the middle has several residual blocks and does not attend, which is not supported".to_owned();
            return Err(unknown("mid_block_type", why, FILE));
        }
        let kind = match (middle, attends) {
            (false, _) => Value::Null,
            (true, true) => json!("UNetMidBlock2DCrossAttn"),
            (true, false) => json!("UNetMidBlock2D"),
        };
        Ok((kind, attends))
    }

    /// Transformer blocks of every attention, where `attends` says whether the middle has one.
    fn block_depths(&self, attends: bool) -> Result<BlockDepths, LdmError> {
        let levels = self.skeleton.layers.len();
        let (down, up) = self.depths();
        let mid = self.depth("middle_block.1");
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
        Ok(BlockDepths { down, up, levels: depths, nested })
    }

    /// Adds the widths of SDXL's condition on pooled text and sizes.
    fn add_condition(&self, config: &mut Value) -> Result<(), LdmError> {
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
        Ok(())
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
}
