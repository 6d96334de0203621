//! Pairs of names: the single file's and diffusers'.

use std::collections::BTreeMap;

use super::text_names::{clip_name, clip_names, open_clip_name, open_clip_names};
use super::{Family, LdmError, Part};
use crate::unet_config::UNetConfig;
use crate::vae::VaeConfig;

/// What becomes of a tensor's values on the way to diffusers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Take {
    /// They stay as they are.
    Whole,
    /// A 1×1 convolution `[out, in, 1, 1]` becomes a linear map `[out, in]`.
    Square,
    /// A matrix is transposed.
    Transposed,
    /// One of three equal parts along the first axis: query, key, value.
    Third(usize),
}

/// Where a tensor of a single file goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The network.
    pub part: Part,
    /// The parameter's name in diffusers or transformers.
    pub name: String,
    /// What becomes of its values.
    pub take: Take,
}

/// How many blocks a checkpoint's UNet and VAE have, and where attention is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skeleton {
    /// Residual blocks by level on the way down, outermost first; one more on the way up.
    pub layers: Vec<usize>,
    /// Whether a level attends on the way down, outermost first.
    pub down_attention: Vec<bool>,
    /// Whether a level attends on the way up, innermost first.
    pub up_attention: Vec<bool>,
    /// Levels of the VAE.
    pub vae_levels: usize,
    /// Residual blocks by level of the VAE's encoder; one more in its decoder.
    pub vae_layers: usize,
}

impl Skeleton {
    /// The blocks that configs describe.
    pub fn of(unet: &UNetConfig, vae: &VaeConfig) -> Self {
        let attends = |types: &[String]| types.iter().map(|t| t.starts_with("CrossAttn")).collect();
        let levels = unet.block_out_channels.len();
        Self {
            layers: (0..levels).map(|level| unet.layers(level).unwrap_or(0)).collect(),
            down_attention: attends(&unet.down_block_types),
            up_attention: attends(&unet.up_block_types),
            vae_levels: vae.block_out_channels.len(),
            vae_layers: vae.layers_per_block,
        }
    }
}

/// What ends a UNet's name in a file, by the names of its parameters in diffusers; for LoRA files,
/// which name modules of one network. `None` where such files have no place for a parameter.
pub(crate) fn unet_names<'a>(
    parameters: impl Iterator<Item = &'a String> + Clone,
) -> impl Fn(&str) -> Option<String> {
    let has = |wanted: String| parameters.clone().any(|name| *name == wanted);
    let count = |name: &dyn Fn(usize) -> String| (0..).take_while(|n| has(name(*n))).count();
    let levels = count(&|n| format!("down_blocks.{n}.resnets.0.conv1.weight"));
    let attends = |way: &str, n| has(format!("{way}_blocks.{n}.attentions.0.norm.weight"));
    let skeleton = Skeleton {
        layers: (0..levels)
            .map(|level| count(&|n| format!("down_blocks.{level}.resnets.{n}.conv1.weight")))
            .collect(),
        down_attention: (0..levels).map(|n| attends("down", n)).collect(),
        up_attention: (0..levels).map(|n| attends("up", n)).collect(),
        vae_levels: 0,
        vae_layers: 0,
    };
    let table = unet(&skeleton);
    move |parameter| replace(&table.backward, parameter)
}

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";

/// Parts of a UNet's residual block: the single file's, diffusers'.
const RESNET: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];
/// Parts of the VAE's residual block.
const VAE_RESNET: [(&str, &str); 5] = [
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("nin_shortcut", "conv_shortcut"),
];
/// Parts of the VAE's attention.
const VAE_ATTENTION: [(&str, &str); 5] =
    [("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];

/// The names of one checkpoint in both forms.
#[derive(Clone, Debug)]
pub struct Names {
    family: Family,
    /// By prefix of a single file's name, without the network's own prefix.
    unet: Table,
    vae: Table,
}

/// Module prefixes in both directions.
#[derive(Clone, Debug, Default)]
struct Table {
    forward: BTreeMap<String, String>,
    backward: BTreeMap<String, String>,
}

impl Table {
    fn add(&mut self, ldm: impl Into<String>, diffusers: impl Into<String>) {
        let (ldm, diffusers) = (ldm.into(), diffusers.into());
        self.forward.insert(ldm.clone(), diffusers.clone());
        self.backward.insert(diffusers, ldm);
    }

    fn add_parts(&mut self, ldm: &str, diffusers: &str, parts: &[(&str, &str)]) {
        for (old, new) in parts {
            self.add(format!("{ldm}.{old}"), format!("{diffusers}.{new}"));
        }
    }
}

/// Replaces the longest known prefix that ends at a dot.
fn replace(map: &BTreeMap<String, String>, name: &str) -> Option<String> {
    let dots = name.rmatch_indices('.').map(|(at, _)| at);
    dots.into_iter().find_map(|at| Some(format!("{}{}", map.get(&name[..at])?, &name[at..])))
}

impl Names {
    /// The names of a checkpoint with these blocks.
    pub fn new(family: Family, skeleton: &Skeleton) -> Self {
        Self { family, unet: unet(skeleton), vae: vae(skeleton) }
    }

    /// Where a tensor of the single file goes; several places for stacked tensors, none for tensors
    /// of no network (buffers of training code, moving averages, what only training needed).
    ///
    /// # Errors
    /// When the name stands inside a network but names nothing there.
    pub fn to_diffusers(&self, name: &str, shape: &[usize]) -> Result<Vec<Piece>, LdmError> {
        let one = |part, found: Option<String>, take| match found {
            Some(name) => Ok(vec![Piece { part, name, take }]),
            None => Err(self.unknown(name, part)),
        };
        if let Some(rest) = name.strip_prefix(UNET) {
            return one(Part::Unet, replace(&self.unet.forward, rest), Take::Whole);
        }
        if let Some(rest) = name.strip_prefix(VAE) {
            if rest.starts_with("loss.") || rest.starts_with("model_ema.") {
                return Ok(vec![]);
            }
            let found = replace(&self.vae.forward, rest);
            let linear = found.as_deref().is_some_and(is_vae_linear) && shape.len() == 4;
            return one(Part::Vae, found, if linear { Take::Square } else { Take::Whole });
        }
        let pieces = |part, found: Option<Vec<(String, Take)>>| match found {
            Some(found) => {
                Ok(found.into_iter().map(|(name, take)| Piece { part, name, take }).collect())
            }
            None => Err(self.unknown(name, part)),
        };
        for (part, open_clip, prefix) in towers(self.family) {
            let Some(rest) = name.strip_prefix(prefix) else { continue };
            return pieces(
                *part,
                match open_clip {
                    false => clip_names(rest),
                    true => open_clip_names(rest, *part == Part::Text2),
                },
            );
        }
        Ok(vec![])
    }

    /// The single file's name of a parameter of diffusers, and what became of its values; `None` if
    /// such checkpoints have no place for it.
    pub fn to_ldm(&self, part: Part, name: &str) -> Option<(String, Take)> {
        match part {
            Part::Unet => {
                Some((format!("{UNET}{}", replace(&self.unet.backward, name)?), Take::Whole))
            }
            Part::Vae => {
                let take = if is_vae_linear(name) { Take::Square } else { Take::Whole };
                Some((format!("{VAE}{}", replace(&self.vae.backward, name)?), take))
            }
            Part::Text | Part::Text2 => {
                let (_, open_clip, prefix) = towers(self.family).iter().find(|t| t.0 == part)?;
                let (name, take) =
                    if *open_clip { open_clip_name(name)? } else { (clip_name(name), Take::Whole) };
                Some((format!("{prefix}{name}"), take))
            }
        }
    }

    fn unknown(&self, name: &str, part: Part) -> LdmError {
        let family = self.family.title();
        LdmError::Name { name: name.to_owned(), part: part.folder(), family }
    }
}

/// Text encoders of a family: network, whether its names are open_clip's, prefix. If a network has
/// two prefixes, the first is written.
pub(super) fn towers(family: Family) -> &'static [(Part, bool, &'static str)] {
    match family {
        Family::Sd1 => &[(Part::Text, false, "cond_stage_model.transformer.")],
        Family::Sd2 => &[
            (Part::Text, true, "cond_stage_model.model."),
            // Written by Stability's generative-models, as `sd_turbo.safetensors` is.
            (Part::Text, true, "conditioner.embedders.0.model."),
        ],
        Family::Sdxl => &[
            (Part::Text, false, "conditioner.embedders.0.transformer."),
            (Part::Text2, true, "conditioner.embedders.1.model."),
        ],
    }
}

fn is_vae_linear(name: &str) -> bool {
    name.contains(".attentions.") && name.ends_with(".weight") && !name.contains("group_norm")
}

fn unet(s: &Skeleton) -> Table {
    let mut t = Table::default();
    t.add("time_embed.0", "time_embedding.linear_1");
    t.add("time_embed.2", "time_embedding.linear_2");
    t.add("label_emb.0.0", "add_embedding.linear_1");
    t.add("label_emb.0.2", "add_embedding.linear_2");
    t.add("input_blocks.0.0", "conv_in");
    t.add("out.0", "conv_norm_out");
    t.add("out.2", "conv_out");
    let levels = s.layers.len();
    let mut n = 1;
    for (level, &layers) in s.layers.iter().enumerate() {
        let block = format!("down_blocks.{level}");
        for i in 0..layers {
            t.add_parts(&format!("input_blocks.{n}.0"), &format!("{block}.resnets.{i}"), &RESNET);
            if s.down_attention[level] {
                t.add(format!("input_blocks.{n}.1"), format!("{block}.attentions.{i}"));
            }
            n += 1;
        }
        if level + 1 < levels {
            t.add(format!("input_blocks.{n}.0.op"), format!("{block}.downsamplers.0.conv"));
            n += 1;
        }
    }
    t.add_parts("middle_block.0", "mid_block.resnets.0", &RESNET);
    t.add("middle_block.1", "mid_block.attentions.0");
    t.add_parts("middle_block.2", "mid_block.resnets.1", &RESNET);
    n = 0;
    for (up, level) in (0..levels).rev().enumerate() {
        let block = format!("up_blocks.{up}");
        for i in 0..=s.layers[level] {
            t.add_parts(&format!("output_blocks.{n}.0"), &format!("{block}.resnets.{i}"), &RESNET);
            let attends = s.up_attention[up];
            if attends {
                t.add(format!("output_blocks.{n}.1"), format!("{block}.attentions.{i}"));
            }
            if i == s.layers[level] && level > 0 {
                let place = 1 + usize::from(attends);
                t.add(
                    format!("output_blocks.{n}.{place}.conv"),
                    format!("{block}.upsamplers.0.conv"),
                );
            }
            n += 1;
        }
    }
    t
}

fn vae(s: &Skeleton) -> Table {
    let mut t = Table::default();
    for module in ["quant_conv", "post_quant_conv"] {
        t.add(module, module);
    }
    for side in ["encoder", "decoder"] {
        t.add(format!("{side}.conv_in"), format!("{side}.conv_in"));
        t.add(format!("{side}.norm_out"), format!("{side}.conv_norm_out"));
        t.add(format!("{side}.conv_out"), format!("{side}.conv_out"));
        for i in 0..2 {
            let (old, new) = (format!("block_{}", i + 1), format!("resnets.{i}"));
            t.add_parts(
                &format!("{side}.mid.{old}"),
                &format!("{side}.mid_block.{new}"),
                &VAE_RESNET,
            );
        }
        t.add_parts(
            &format!("{side}.mid.attn_1"),
            &format!("{side}.mid_block.attentions.0"),
            &VAE_ATTENTION,
        );
    }
    for level in 0..s.vae_levels {
        let (down, up) = (format!("encoder.down.{level}"), format!("decoder.up.{level}"));
        let new_down = format!("encoder.down_blocks.{level}");
        let new_up = format!("decoder.up_blocks.{}", s.vae_levels - 1 - level);
        for i in 0..=s.vae_layers {
            if i < s.vae_layers {
                let new = format!("{new_down}.resnets.{i}");
                t.add_parts(&format!("{down}.block.{i}"), &new, &VAE_RESNET);
            }
            t.add_parts(&format!("{up}.block.{i}"), &format!("{new_up}.resnets.{i}"), &VAE_RESNET);
        }
        if level + 1 < s.vae_levels {
            t.add(format!("{down}.downsample.conv"), format!("{new_down}.downsamplers.0.conv"));
        }
        if level > 0 {
            t.add(format!("{up}.upsample.conv"), format!("{new_up}.upsamplers.0.conv"));
        }
    }
    t
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
