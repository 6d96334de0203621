//! Names of the text encoders of single files.

use super::Take;
use crate::open_clip::{PARTS, QKV, STACKED, TEXT_NAMES};

/// Names of transformers' text encoder below its prefix, with or without the level `text_model`.
/// `None` never; an empty list for buffers.
pub(super) fn clip_names(name: &str) -> Option<Vec<(String, Take)>> {
    if name.ends_with("position_ids") || name == "logit_scale" {
        return Some(vec![]);
    }
    Some(vec![(clip_name(name), Take::Whole)])
}

/// transformers' name with the level `text_model`, which its newer versions leave out.
pub(super) fn clip_name(name: &str) -> String {
    let below = ["embeddings.", "encoder.", "final_layer_norm."];
    if below.iter().any(|b| name.starts_with(b)) {
        format!("text_model.{name}")
    } else {
        name.to_owned()
    }
}

const LAYERS: &str = "transformer.resblocks.";
const NEW_LAYERS: &str = "text_model.encoder.layers.";

/// Names of open_clip's text encoder below its prefix; the projection only if the family uses it.
pub(super) fn open_clip_names(name: &str, projection: bool) -> Option<Vec<(String, Take)>> {
    if ["attn_mask", "logit_scale"].contains(&name)
        || name.starts_with("visual.")
        || name.ends_with("position_ids")
        || (name == "text_projection" && !projection)
    {
        return Some(vec![]);
    }
    if let Some((_, new)) = TEXT_NAMES.iter().find(|(old, _)| *old == name) {
        let take = if name == "text_projection" { Take::Transposed } else { Take::Whole };
        return Some(vec![((*new).to_owned(), take)]);
    }
    let (layer, part) = name.strip_prefix(LAYERS)?.split_once('.')?;
    layer.parse::<usize>().ok()?;
    if let Some((_, kind)) = STACKED.iter().find(|(stacked, _)| *stacked == part) {
        let third = |(i, p): (usize, &&str)| {
            (format!("{NEW_LAYERS}{layer}.self_attn.{p}.{kind}"), Take::Third(i))
        };
        return Some(QKV.iter().enumerate().map(third).collect());
    }
    let (new, kind) = PARTS.iter().find_map(|(old, new)| Some((new, part.strip_prefix(old)?)))?;
    Some(vec![(format!("{NEW_LAYERS}{layer}.{new}{kind}"), Take::Whole)])
}

/// open_clip's name of a parameter of transformers' text encoder.
pub(super) fn open_clip_name(name: &str) -> Option<(String, Take)> {
    let name = clip_name(name);
    if let Some((old, _)) = TEXT_NAMES.iter().find(|(_, new)| *new == name) {
        let take = if *old == "text_projection" { Take::Transposed } else { Take::Whole };
        return Some(((*old).to_owned(), take));
    }
    let (layer, part) = name.strip_prefix(NEW_LAYERS)?.split_once('.')?;
    for (i, projection) in QKV.iter().enumerate() {
        for (stacked, kind) in STACKED {
            if part == format!("self_attn.{projection}.{kind}") {
                return Some((format!("{LAYERS}{layer}.{stacked}"), Take::Third(i)));
            }
        }
    }
    let (old, kind) = PARTS.iter().find_map(|(old, new)| Some((old, part.strip_prefix(new)?)))?;
    Some((format!("{LAYERS}{layer}.{old}{kind}"), Take::Whole))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn open_clip_names_come_back() {
        for (old, first, take, count) in [
            (
                "positional_embedding",
                "text_model.embeddings.position_embedding.weight",
                Take::Whole,
                1,
            ),
            ("text_projection", "text_projection.weight", Take::Transposed, 1),
            (
                "transformer.resblocks.3.attn.in_proj_bias",
                "text_model.encoder.layers.3.self_attn.q_proj.bias",
                Take::Third(0),
                3,
            ),
            (
                "transformer.resblocks.3.attn.out_proj.weight",
                "text_model.encoder.layers.3.self_attn.out_proj.weight",
                Take::Whole,
                1,
            ),
            (
                "transformer.resblocks.3.mlp.c_proj.bias",
                "text_model.encoder.layers.3.mlp.fc2.bias",
                Take::Whole,
                1,
            ),
        ] {
            let found = open_clip_names(old, true).unwrap();
            assert_eq!((found.len(), &found[0]), (count, &(first.to_owned(), take)));
            for (new, take) in found {
                assert_eq!(open_clip_name(&new).unwrap(), (old.to_owned(), take));
            }
        }
        assert_eq!(open_clip_names("text_projection", false).unwrap(), []);
        assert_eq!(open_clip_names("logit_scale", true).unwrap(), []);
        assert!(open_clip_names("transformer.resblocks.x.ln_1.bias", true).is_none());
        assert!(open_clip_names("something.else", true).is_none());
        assert!(open_clip_name("text_model.encoder.layers.0.other.weight").is_none());
    }

    #[test]
    fn newer_names_lack_a_level() {
        assert_eq!(clip_name("embeddings.x"), "text_model.embeddings.x");
        assert_eq!(clip_name("text_projection.weight"), "text_projection.weight");
        assert_eq!(clip_names("text_model.embeddings.position_ids").unwrap(), []);
    }
}
