//! Weights with open_clip's names (`open_clip/model.py`, class `CLIP`), from and to transformers'.
//!
//! open_clip stacks the projections of attention (`in_proj_weight` is q, k, v) and stores the last
//! projections transposed (`[width, embed]`).

mod config;

use thiserror::Error;

pub use config::OpenClipConfig;

use crate::weights::{HostTensor, TensorMap};

/// Why weights cannot be renamed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OpenClipError {
    /// A name that open_clip's `CLIP` does not have.
    #[error(
        "tensor {0} is not of an open_clip CLIP model with a vision transformer; expected names such as visual.conv1.weight and transformer.resblocks.0.ln_1.weight: convert the file or use another"
    )]
    Name(String),
    /// A shape that cannot be split or transposed.
    #[error("tensor {name} has shape {found:?}, expected {expected}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// What it should be.
        expected: &'static str,
    },
}

/// Names outside the layers: open_clip's, transformers'.
const VISION_NAMES: [(&str, &str); 8] = [
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"),
    ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
    ("visual.ln_post.weight", "vision_model.post_layernorm.weight"),
    ("visual.ln_post.bias", "vision_model.post_layernorm.bias"),
    ("visual.proj", "visual_projection.weight"),
];

/// The same for the text encoder.
pub(crate) const TEXT_NAMES: [(&str, &str); 5] = [
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.weight", "text_model.final_layer_norm.weight"),
    ("ln_final.bias", "text_model.final_layer_norm.bias"),
    ("text_projection", "text_projection.weight"),
];

/// The same for neither.
const OTHER_NAMES: [(&str, &str); 5] = [
    ("logit_scale", "logit_scale"),
    ("attn_mask", ""), // A buffer of early versions; holds no weights.
    // Sizes that OpenAI's files carry as numbers.
    ("input_resolution", ""),
    ("context_length", ""),
    ("vocab_size", ""),
];

fn names() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    VISION_NAMES.iter().chain(&TEXT_NAMES).chain(&OTHER_NAMES)
}

/// The layers of a tower: open_clip's, transformers'.
const TOWERS: [(&str, &str); 2] = [
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("transformer.resblocks.", "text_model.encoder.layers."),
];

/// Parts of a layer that keep their shape.
pub(crate) const PARTS: [(&str, &str); 5] = [
    ("attn.out_proj.", "self_attn.out_proj."),
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];

/// Stacked projections of attention, and what they are of each.
pub(crate) const STACKED: [(&str, &str); 2] =
    [("attn.in_proj_weight", "weight"), ("attn.in_proj_bias", "bias")];
/// What is stacked, in order.
pub(crate) const QKV: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// Splits `<tower prefix><layer>.<part>`.
fn in_layer<'a>(name: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let (layer, part) = name.strip_prefix(prefix)?.split_once('.')?;
    layer.bytes().all(|b| b.is_ascii_digit()).then_some((layer, part))
}

fn is_transposed(open_clip_name: &str) -> bool {
    matches!(open_clip_name, "visual.proj" | "text_projection")
}

fn transpose(name: &str, tensor: &HostTensor) -> Result<HostTensor, OpenClipError> {
    let [rows, columns] = tensor.shape[..] else {
        return Err(OpenClipError::Shape {
            name: name.to_owned(),
            found: tensor.shape.clone(),
            expected: "two axes",
        });
    };
    let mut data = Vec::with_capacity(tensor.data.len());
    for c in 0..columns {
        data.extend((0..rows).map(|r| tensor.data[r * columns + c]));
    }
    Ok(HostTensor { shape: vec![columns, rows], data })
}

/// Renames open_clip's tensors to transformers' names. A prefix that all names share (`model.`,
/// `module.`), as wrappers leave it, is dropped.
///
/// # Errors
/// When a name or shape is not of such a model.
pub fn to_transformers(tensors: TensorMap) -> Result<TensorMap, OpenClipError> {
    let tensors = unwrap_prefix(tensors, &["model.", "module."]);
    let mut out = TensorMap::new();
    'tensors: for (name, tensor) in tensors {
        if let Some((_, new)) = names().find(|(old, _)| *old == name) {
            if !new.is_empty() {
                let tensor = if is_transposed(&name) { transpose(&name, &tensor)? } else { tensor };
                out.insert((*new).to_owned(), tensor);
            }
            continue;
        }
        for (old_tower, new_tower) in TOWERS {
            let Some((layer, part)) = in_layer(&name, old_tower) else {
                continue;
            };
            if let Some((_, kind)) = STACKED.iter().find(|(stacked, _)| *stacked == part) {
                for (projection, piece) in QKV.iter().zip(split(&name, &tensor)?) {
                    out.insert(format!("{new_tower}{layer}.self_attn.{projection}.{kind}"), piece);
                }
                continue 'tensors;
            }
            for (old, new) in PARTS {
                if let Some(kind @ ("weight" | "bias")) = part.strip_prefix(old) {
                    out.insert(format!("{new_tower}{layer}.{new}{kind}"), tensor);
                    continue 'tensors;
                }
            }
        }
        return Err(OpenClipError::Name(name));
    }
    Ok(out)
}

/// Renames transformers' tensors of a `CLIPModel` to open_clip's names. What open_clip has no name
/// for is left out.
pub fn from_transformers(tensors: &TensorMap) -> TensorMap {
    let mut out = TensorMap::new();
    'tensors: for (name, tensor) in tensors {
        if let Some((old, _)) = names().find(|(_, new)| new == name) {
            let tensor = match transpose(name, tensor) {
                Ok(transposed) if is_transposed(old) => transposed,
                _ => tensor.clone(),
            };
            out.insert((*old).to_owned(), tensor);
            continue;
        }
        for (old_tower, new_tower) in TOWERS {
            let Some((layer, part)) = in_layer(name, new_tower) else {
                continue;
            };
            for (stacked, kind) in STACKED {
                // q comes first and brings k and v along.
                if part == format!("self_attn.q_proj.{kind}") {
                    let piece =
                        |p: &str| tensors.get(&format!("{new_tower}{layer}.self_attn.{p}.{kind}"));
                    let pieces: Vec<&HostTensor> = QKV.iter().filter_map(|p| piece(p)).collect();
                    if pieces.len() == QKV.len() {
                        out.insert(format!("{old_tower}{layer}.{stacked}"), stack(&pieces));
                    }
                    continue 'tensors;
                }
            }
            for (old, new) in PARTS {
                if let Some(kind) = part.strip_prefix(new) {
                    out.insert(format!("{old_tower}{layer}.{old}{kind}"), tensor.clone());
                    continue 'tensors;
                }
            }
        }
    }
    out
}

/// Three equal parts along the first axis.
fn split(name: &str, tensor: &HostTensor) -> Result<[HostTensor; 3], OpenClipError> {
    let rows = tensor.shape.first().copied().unwrap_or(0);
    if rows == 0 || !rows.is_multiple_of(3) {
        return Err(OpenClipError::Shape {
            name: name.to_owned(),
            found: tensor.shape.clone(),
            expected: "three times the width on the first axis",
        });
    }
    let mut shape = tensor.shape.clone();
    shape[0] = rows / 3;
    let n = tensor.data.len() / 3;
    Ok([0, 1, 2].map(|i| HostTensor {
        shape: shape.clone(),
        data: tensor.data[i * n..(i + 1) * n].to_vec(),
    }))
}

fn stack(pieces: &[&HostTensor]) -> HostTensor {
    let mut shape = pieces[0].shape.clone();
    shape[0] = pieces.iter().map(|p| p.shape[0]).sum();
    HostTensor { shape, data: pieces.iter().flat_map(|p| p.data.iter().copied()).collect() }
}

/// Drops the prefixes that wrappers put before all names of a file.
pub fn unwrap_prefix(mut tensors: TensorMap, prefixes: &[&str]) -> TensorMap {
    while let Some(prefix) = prefixes
        .iter()
        .find(|p| !tensors.is_empty() && tensors.keys().all(|name| name.starts_with(**p)))
    {
        tensors = tensors
            .into_iter()
            .map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor))
            .collect();
    }
    tensors
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::clip::{ClipConfig, ClipModel};
    use crate::init::Init;
    use burn::tensor::Device;

    fn config() -> ClipConfig {
        let json = r#"{"model_cfg": {"embed_dim": 6,
            "vision_cfg": {"image_size": 8, "layers": 2, "width": 8, "head_width": 4, "patch_size": 4},
            "text_cfg": {"context_length": 5, "vocab_size": 11, "width": 12, "heads": 3, "layers": 1}}}"#;
        OpenClipConfig::from_json(json).unwrap().clip
    }

    #[test]
    fn round_trips_are_exact() {
        let model = ClipModel::new(&mut Init::seeded(1, &Device::flex()), &config());
        let ours = model.to_tensors();
        let theirs = from_transformers(&ours);
        assert_eq!(theirs["visual.proj"].shape, [8, 6]);
        assert_eq!(theirs["text_projection"].shape, [12, 6]);
        assert_eq!(theirs["visual.transformer.resblocks.1.attn.in_proj_weight"].shape, [24, 8]);
        assert_eq!(theirs["logit_scale"].shape, [0usize; 0]);
        let back = to_transformers(theirs.clone()).unwrap();
        assert_eq!(back, ours);
        assert_eq!(from_transformers(&back), theirs);
        let wrapped = theirs.into_iter().map(|(n, t)| (format!("model.{n}"), t)).collect();
        assert_eq!(to_transformers(wrapped).unwrap(), ours);
    }

    #[test]
    fn foreign_names_and_shapes_are_refused() {
        let one = |name: &str, shape: Vec<usize>| {
            let data = vec![0.0; shape.iter().product()];
            to_transformers(TensorMap::from([(name.to_owned(), HostTensor { shape, data })]))
        };
        assert_eq!(
            one("visual.trunk.blocks.0.norm1.weight", vec![2]).unwrap_err(),
            OpenClipError::Name("visual.trunk.blocks.0.norm1.weight".to_owned())
        );
        assert!(one("transformer.resblocks.0.attn.in_proj_bias", vec![7]).is_err());
        assert!(one("visual.proj", vec![7]).is_err());
        assert!(one("transformer.resblocks.0.ln_3.bias", vec![7]).is_err());
    }
}
