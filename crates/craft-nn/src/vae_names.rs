//! Names of an autoencoder's tensors in older files.
//!
//! Before diffusers 0.18 the attention in the middle was an `AttentionBlock` with `query`, `key`,
//! `value` and `proj_attn`; the published Stable Diffusion 1.x and 2.x have these names. Some files
//! keep its linear maps as the 1×1 convolutions that they were in the original code. Source:
//! `diffusers/models/modeling_utils.py`, `_fix_state_dict_keys_on_load`.

/// Linear maps of the attention: before 0.18, and since.
const LINEAR: [(&str, &str); 4] =
    [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];

/// Name and shape that a tensor of an autoencoder has today, where they differ from those of its
/// file.
pub fn current(name: &str, shape: &[usize]) -> Option<(String, Vec<usize>)> {
    let (block, part) = name.rsplit_once(".attentions.")?;
    let (index, part) = part.split_once('.')?;
    let (module, kind) = part.rsplit_once('.')?;
    let (_, new) = LINEAR.iter().find(|(old, new)| [*old, *new].contains(&module))?;
    let square = matches!(shape, [_, _, 1, 1]) && kind == "weight";
    if *new == module && !square {
        return None;
    }
    let shape = if square { &shape[..2] } else { shape };
    Some((format!("{block}.attentions.{index}.{new}.{kind}"), shape.to_vec()))
}

/// The same for an autoencoder in a single file, whose attention is `attn_1` with `q`, `k`, `v` and
/// `proj_out`: some converters left diffusers' names in it.
pub fn original(name: &str, shape: &[usize]) -> Option<(String, Vec<usize>)> {
    let inner = name.strip_prefix("first_stage_model.")?;
    let (side, part) = inner.split_once(".mid.attn_1.")?;
    let (module, kind) = part.rsplit_once('.')?;
    let place = LINEAR.iter().position(|(old, new)| [*old, *new].contains(&module))?;
    let new = ["q", "k", "v", "proj_out"][place];
    Some((format!("first_stage_model.{side}.mid.attn_1.{new}.{kind}"), shape.to_vec()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn attention_has_todays_names_and_shapes() {
        let block = "decoder.mid_block.attentions.0";
        for (old, new) in LINEAR {
            for shape in [&[8, 8][..], &[8, 8, 1, 1]] {
                let found = current(&format!("{block}.{old}.weight"), shape).unwrap();
                assert_eq!(found, (format!("{block}.{new}.weight"), vec![8, 8]));
            }
            let found = current(&format!("{block}.{old}.bias"), &[8]).unwrap();
            assert_eq!(found, (format!("{block}.{new}.bias"), vec![8]));
            assert_eq!(current(&format!("{block}.{new}.weight"), &[8, 8]), None);
            let found = current(&format!("{block}.{new}.weight"), &[8, 8, 1, 1]).unwrap();
            assert_eq!(found, (format!("{block}.{new}.weight"), vec![8, 8]));
        }
        for other in [
            "decoder.mid_block.attentions.0.group_norm.weight",
            "decoder.mid_block.resnets.0.conv1.weight",
            "decoder.mid_block.attentions.0.query.more.weight",
            "quant_conv.weight",
            "attentions.query",
        ] {
            assert_eq!(current(other, &[8, 8, 1, 1]), None, "{other}");
        }
    }
}
