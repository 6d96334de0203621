//! What a single file holds, found from its keys and shapes.

use std::collections::BTreeMap;

use super::configs::{Configs, Facts, Given};
use super::names::{Names, Piece, Skeleton, towers};
use super::{Family, LdmError, Part, Shapes};

/// Layers of the text encoder of the published Stable Diffusion 2. Its last one is in the files,
/// but the model reads the states before it, so diffusers leaves it out.
const SD2_TEXT_LAYERS: usize = 24;

/// A checkpoint as diffusers would describe it.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The family.
    pub family: Family,
    /// Its names in both forms.
    pub names: Names,
    /// What becomes of each tensor of the file, in the file's order.
    pub pieces: Vec<(String, Vec<Piece>)>,
    /// Tensors that belong to no network.
    pub ignored: usize,
    /// The component configs.
    pub configs: Configs,
}

/// Lookups below the prefix of a network.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) shapes: &'a Shapes,
    pub(super) prefix: &'a str,
}

impl View<'_> {
    pub(super) fn get(&self, name: &str) -> Option<&[usize]> {
        self.shapes.get(&format!("{}{name}", self.prefix)).map(Vec::as_slice)
    }
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
    /// Size of an axis; 0 if there is none.
    pub(super) fn size(&self, name: &str, axis: usize) -> usize {
        self.get(name).and_then(|s| s.get(axis)).copied().unwrap_or(0)
    }
    /// How many numbers from 0 on give a name that exists.
    pub(super) fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..).take_while(|n| self.has(&name(*n))).count()
    }
}

/// Finds out what a file with these tensors and header texts is. `given` holds configs that win
/// over what is found; `values` reads a tensor, which only the prediction type of Stable Diffusion
/// 2 needs.
///
/// # Errors
/// When it is another kind of file, lacks a network, or something cannot be found out.
pub fn inspect(
    shapes: &Shapes,
    metadata: &BTreeMap<String, String>,
    given: &Given,
    values: &mut dyn FnMut(&str) -> Option<Vec<f32>>,
) -> Result<Checkpoint, LdmError> {
    let unet = View { shapes, prefix: "model.diffusion_model." };
    let vae = View { shapes, prefix: "first_stage_model." };
    let any = |prefix: &str| shapes.keys().any(|name| name.starts_with(prefix));
    if !unet.has("input_blocks.0.0.weight") {
        return Err(foreign(shapes));
    }
    let family = if any("conditioner.embedders.1.model.") {
        Family::Sdxl
    } else if any("conditioner.embedders.0.model.") && unet.has("label_emb.0.0.weight") {
        return Err(other("the SDXL refiner", "use the base checkpoint"));
    } else if towers(Family::Sd2).iter().any(|tower| any(tower.2)) {
        Family::Sd2
    } else if any("cond_stage_model.transformer.") {
        Family::Sd1
    } else {
        let keys = "cond_stage_model.* or conditioner.embedders.*";
        return Err(incomplete("text encoder", keys, "Stable Diffusion"));
    };
    if unet.has("label_emb.0.0.weight") != (family == Family::Sdxl) {
        let found =
            "a UNet with label_emb and the text encoder of another family (unCLIP, or a merge)";
        return Err(other(found, "use a plain text-to-image checkpoint"));
    }
    if !vae.has("encoder.conv_in.weight") || !vae.has("decoder.conv_in.weight") {
        return Err(incomplete("autoencoder", "first_stage_model.*", family.title()));
    }
    for name in ["edm_mean", "edm_vpred.sigma_max"] {
        if shapes.contains_key(name) {
            let found = format!("{} with the EDM formulation (key {name})", family.title());
            return Err(other(&found, "use a checkpoint with epsilon or v prediction"));
        }
    }
    let (input, latent) =
        (unet.size("input_blocks.0.0.weight", 1), vae.size("decoder.conv_in.weight", 1));
    if input != latent {
        let kind = match input {
            9 => "an inpainting model",
            8 => "an image-to-image (InstructPix2Pix) model",
            5 => "a depth-to-image model",
            _ => "not a text-to-image model",
        };
        let found = format!("a UNet for {input} channels over latents of {latent}: {kind}");
        return Err(other(&found, "use the text-to-image checkpoint it was made from"));
    }

    let skeleton = skeleton(unet, vae)?;
    let names = Names::new(family, &skeleton);
    let prefix = |part: Part| {
        let mut prefixes = towers(family).iter().filter(|t| t.0 == part).map(|t| t.2);
        prefixes.find(|prefix| any(prefix)).unwrap_or("")
    };
    let text = View { shapes, prefix: prefix(Part::Text) };
    let text_2 = View { shapes, prefix: prefix(Part::Text2) };
    let resblocks = text.count(|n| format!("transformer.resblocks.{n}.ln_1.weight"));
    let dropped = (family == Family::Sd2 && resblocks == SD2_TEXT_LAYERS)
        .then(|| format!("{}transformer.resblocks.{}.", text.prefix, SD2_TEXT_LAYERS - 1));

    let mut pieces = Vec::with_capacity(shapes.len());
    let mut ignored = 0;
    for (name, shape) in shapes {
        let left_out = dropped.as_ref().is_some_and(|prefix| name.starts_with(prefix));
        let found = if left_out { vec![] } else { names.to_diffusers(name, shape)? };
        ignored += usize::from(found.is_empty());
        if !found.is_empty() {
            pieces.push((name.clone(), found));
        }
    }
    let facts = Facts { family, skeleton: &skeleton, unet, vae, text, text_2, metadata };
    let configs = Configs::new(&facts, given, values)?;
    Ok(Checkpoint { family, names, pieces, ignored, configs })
}

/// Blocks of UNet and VAE.
fn skeleton(unet: View<'_>, vae: View<'_>) -> Result<Skeleton, LdmError> {
    let resnet = |n: usize| unet.has(&format!("input_blocks.{n}.0.in_layers.2.weight"));
    let down = |n: usize| unet.has(&format!("input_blocks.{n}.0.op.weight"));
    let mixed = |key: &'static str| LdmError::Config {
        key,
        why: "some blocks of one level attend and some do not".to_owned(),
        file: "unet/config.json",
    };
    let (mut layers, mut attends) = (vec![0], vec![vec![]]);
    for n in 1.. {
        if down(n) {
            layers.push(0);
            attends.push(vec![]);
        } else if resnet(n) {
            let level = layers.len() - 1;
            layers[level] += 1;
            attends[level].push(unet.has(&format!("input_blocks.{n}.1.norm.weight")));
        } else {
            break;
        }
    }
    let same = |flags: &[bool], key| match flags {
        [first, rest @ ..] if rest.iter().all(|f| f == first) => Ok(*first),
        [] => Ok(false),
        _ => Err(mixed(key)),
    };
    let down_attention =
        attends.iter().map(|f| same(f, "down_block_types")).collect::<Result<_, _>>()?;
    let mut n = 0;
    let mut up_attention = Vec::with_capacity(layers.len());
    for count in layers.iter().rev() {
        let flags: Vec<bool> = (n..=n + count)
            .map(|i| unet.has(&format!("output_blocks.{i}.1.norm.weight")))
            .collect();
        up_attention.push(same(&flags, "up_block_types")?);
        n += count + 1;
    }
    Ok(Skeleton {
        layers,
        down_attention,
        up_attention,
        vae_levels: vae.count(|i| format!("encoder.down.{i}.block.0.norm1.weight")),
        vae_layers: vae.count(|i| format!("encoder.down.0.block.{i}.norm1.weight")),
    })
}

fn incomplete(what: &'static str, keys: &'static str, family: &'static str) -> LdmError {
    LdmError::Incomplete { what, keys, family }
}

fn other(found: &str, hint: &str) -> LdmError {
    LdmError::Foreign { found: found.to_owned(), hint: hint.to_owned() }
}

/// What keys that are not of such a checkpoint tell; the first that fits wins.
const MARKS: [(&str, &str, &str); 22] = [
    (".lora_down.weight", "a LoRA", "give it with --lora beside a model"),
    (".lora_A.weight", "a LoRA", "give it with --lora beside a model"),
    (".lora.down.weight", "a LoRA", "give it with --lora beside a model"),
    ("control_model.", "a ControlNet", "use a text-to-image checkpoint"),
    ("controlnet_down_blocks.", "a ControlNet", "use a text-to-image checkpoint"),
    ("double_blocks.", "a Flux transformer", "use a checkpoint of a known architecture"),
    (
        "joint_blocks.",
        "a Stable Diffusion 3 transformer",
        "use a checkpoint of a known architecture",
    ),
    ("double_layers.", "an AuraFlow transformer", "use a checkpoint of a known architecture"),
    ("cap_embedder.", "a Lumina transformer", "use a checkpoint of a known architecture"),
    ("adaln_single.", "a PixArt transformer", "use a checkpoint of a known architecture"),
    ("y_embedder.", "a PixArt transformer", "use a checkpoint of a known architecture"),
    ("clip_txt_mapper.", "Stable Cascade", "use a checkpoint of a known architecture"),
    ("time_stack.", "a video model", "use a checkpoint of a known architecture"),
    ("motion_modules.", "a motion module (AnimateDiff)", "use a text-to-image checkpoint"),
    ("emb_params", "a textual inversion", "use a text-to-image checkpoint"),
    ("vision_model.", "a CLIP model", "use a text-to-image checkpoint"),
    ("down_blocks.0.", "a UNet or autoencoder in diffusers' names", "give the whole model folder"),
    ("input_blocks.0.", "a UNet without the rest of its model", "use the full checkpoint"),
    ("decoder.up.0.", "an autoencoder without the rest of its model", "use the full checkpoint"),
    ("text_model.encoder.", "a text encoder", "use a text-to-image checkpoint"),
    ("encoder.block.0.", "a T5 text encoder", "use a text-to-image checkpoint"),
    (
        "transformer_blocks.0.",
        "a transformer of another architecture",
        "use a checkpoint of a known architecture",
    ),
];

fn foreign(shapes: &Shapes) -> LdmError {
    let mark = MARKS.iter().find(|(mark, _, _)| shapes.keys().any(|name| name.contains(mark)));
    match mark {
        Some((_, found, hint)) => other(found, hint),
        None => {
            let keys: Vec<&str> = shapes.keys().take(5).map(String::as_str).collect();
            let keys = if keys.is_empty() { "no tensors".to_owned() } else { keys.join(", ") };
            other(&format!("tensors of an unknown architecture ({keys})"), "use another file")
        }
    }
}
