//! The size of pictures where none is given, as diffusers' pipelines take it from `unet/config.json`.

use crate::sd::Config as UNetConfig;
use serde_json::Value;

/// Latent height and width that the model was trained on.
///
/// `StableDiffusionPipeline` does not believe a `sample_size` below 64 that was written before version
/// 0.9: the files of 2022 say 32 of models for 64. Source: diffusers
/// `pipelines/stable_diffusion/pipeline_stable_diffusion.py`.
pub(crate) fn latent_size(unet: &UNetConfig, xl: bool) -> [usize; 2] {
    let usual = if xl { 128 } else { 64 };
    let side = |value: &Value| {
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
        size.filter(|n| *n > 0).unwrap_or(usual)
    };
    match &unet.sample_size {
        Some(Value::Array(sides)) if sides.len() == 2 => [side(&sides[0]), side(&sides[1])],
        Some(value) => match side(value) {
            size if !xl && size < 64 && unet.diffusers_version().is_some_and(before_0_9) => [64; 2],
            size => [size; 2],
        },
        None => [usual; 2],
    }
}

/// Whether a version such as `0.8.0.dev0` is one before 0.9.
fn before_0_9(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map(|part| {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse::<u64>().ok()
    });
    match (numbers.next(), numbers.next()) {
        (Some(Some(major)), minor) => (major, minor.flatten().unwrap_or(0)) < (0, 9),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for old in ["0.2.2", "0.8.0.dev0", "0.8.1rc1", "0.0.4"] {
            assert!(before_0_9(old), "{old}");
        }
        for new in ["0.9.0", "0.9.0.dev0", "0.10.2", "0.39.0", "1.0", "x", ""] {
            assert!(!before_0_9(new), "{new}");
        }
    }

    #[test]
    fn sizes_are_those_of_diffusers() {
        let size = |keys: &str, xl| {
            let text = format!(
                r#"{{"in_channels":4,"out_channels":4,"block_out_channels":[32],
                "down_block_types":["CrossAttnDownBlock2D"],"up_block_types":["CrossAttnUpBlock2D"],
                "cross_attention_dim":8{keys}}}"#
            );
            latent_size(&UNetConfig::from_json(&text).unwrap(), xl)
        };
        for (keys, sd, xl) in [
            (r#","sample_size":32,"_diffusers_version":"0.2.2""#, [64; 2], [32; 2]),
            (r#","sample_size":32,"_diffusers_version":"0.9.0""#, [32; 2], [32; 2]),
            (r#","sample_size":32"#, [32; 2], [32; 2]),
            (r#","sample_size":96,"_diffusers_version":"0.8.0""#, [96; 2], [96; 2]),
            (r#","sample_size":[32,48],"_diffusers_version":"0.2.2""#, [32, 48], [32, 48]),
            (r#","sample_size":null"#, [64; 2], [128; 2]),
            ("", [64; 2], [128; 2]),
        ] {
            assert_eq!((size(keys, false), size(keys, true)), (sd, xl), "{keys}");
        }
    }
}
