//! CLIP text and image encoders (`transformers/models/clip/modeling_clip.py`).
//!
//! Fields carry transformers' names, so the files of `CLIPTextModel`,
//! `CLIPTextModelWithProjection`,
//! `CLIPVisionModelWithProjection` and `CLIPModel` load as they are. Files with open_clip names go
//! through [`crate::open_clip`] first.

mod config;
mod dual;
mod encoder;
pub(crate) mod infer;
mod text;
mod vision;

pub use config::{ClipConfig, ClipTextConfig, ClipVisionConfig};
pub use dual::{ClipModel, normalise};
pub use encoder::{ClipAttention, ClipEncoder, ClipEncoderLayer, ClipMlp};
pub use text::{ClipTextModel, ClipTextOutput, TextEmbeddings, TextTransformer};
pub use vision::{ClipVisionModel, ClipVisionOutput, VisionEmbeddings, VisionTransformer};

use std::collections::BTreeMap;

use crate::init::Init;
use crate::layers::Linear;
use crate::weights::{HostTensor, TensorMap};

/// Removes the index buffers (`*.position_ids`) that older files carry; they hold no weights.
pub fn drop_buffers<T>(tensors: &mut BTreeMap<String, T>) {
    tensors.retain(|name, _| name != "position_ids" && !name.ends_with(".position_ids"));
}

/// Removes what a text encoder's file may hold in addition to the encoder: index buffers, and of a
/// whole
/// `CLIPModel` the other half. transformers passes over it, too.
pub fn keep_text<T>(tensors: &mut BTreeMap<String, T>) {
    drop_buffers(tensors);
    let text = tensors.keys().any(|name| name.starts_with("text_model."));
    let other = |name: &str| {
        name.starts_with("vision_model.")
            || ["visual_projection.weight", "logit_scale"].contains(&name)
    };
    tensors.retain(|name, _| !(text && other(name)));
}

/// Puts the tower's name before the names of a tower that was saved alone: transformers 5 writes
/// `CLIPTextModel` and `CLIPVisionModel` without it, earlier versions with it. Returns whether it
/// did.
fn name_tower<T>(tensors: &mut BTreeMap<String, T>, tower: &str) -> bool {
    let alone = tensors.keys().any(|name| name.starts_with("embeddings."));
    if alone {
        *tensors = std::mem::take(tensors)
            .into_iter()
            .map(|(name, tensor)| match name.as_str() {
                // The projection is not part of the tower.
                "text_projection.weight" | "visual_projection.weight" => (name, tensor),
                _ => (format!("{tower}.{name}"), tensor),
            })
            .collect();
    }
    alone
}

/// A linear map with normal weights and a zero bias if it has one.
fn normal_linear(init: &mut Init, input: usize, output: usize, bias: bool, std: f32) -> Linear {
    Linear {
        weight: init.normal([output, input], std),
        bias: bias.then(|| init.constant([output], 0.0)),
    }
}

/// Gives a 0-d tensor of a file the shape `[1]` that parameters have here.
fn scalar_to_vector(tensors: &mut TensorMap, name: &str) {
    if let Some(HostTensor { shape, data }) = tensors.get_mut(name)
        && shape.is_empty()
        && data.len() == 1
    {
        shape.push(1);
    }
}
