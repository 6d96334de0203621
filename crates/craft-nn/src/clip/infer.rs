//! Sizes of CLIP networks read off the shapes of their weights, for files that come without a
//! config.
//!
//! What shapes do not tell is the number of heads: it follows from the width as in the published
//! models, whose heads are 64 wide, except in the image encoders of ViT-H, ViT-g and ViT-bigG,
//! which have 16 of them.

use super::{ClipConfig, ClipTextConfig, ClipVisionConfig};
use crate::config::ConfigError;
use crate::ops::Act;
use crate::weights::TensorMap;

/// Widths of image encoders whose heads are not 64 wide; they have 16 heads.
const SIXTEEN_HEADS: [usize; 3] = [1280, 1408, 1664];

impl ClipConfig {
    /// The sizes of a `CLIPModel` with these weights (transformers' names), activation `act`, and
    /// layer norms with ε = 1e-5.
    ///
    /// # Errors
    /// When tensors are missing or contradict each other, or the heads cannot be told.
    pub fn from_weights(weights: &TensorMap, act: Act) -> Result<Self, ConfigError> {
        let text = ClipTextConfig::from_weights(weights, act)?;
        let vision = ClipVisionConfig::from_weights(weights, act)?;
        if text.projection_dim != vision.projection_dim {
            return Err(unclear(
                "text_projection.weight",
                format!("{} outputs", text.projection_dim),
                format!("{}, as visual_projection.weight has", vision.projection_dim),
            ));
        }
        let dim = text.projection_dim;
        Self::new(text, vision, dim)
    }
}

impl ClipTextConfig {
    /// The sizes of a text encoder with a projection; see [`ClipConfig::from_weights`].
    ///
    /// # Errors
    /// The same.
    pub fn from_weights(weights: &TensorMap, act: Act) -> Result<Self, ConfigError> {
        let [vocab_size, width] = shape(weights, "text_model.embeddings.token_embedding.weight")?;
        let [positions, _] = shape(weights, "text_model.embeddings.position_embedding.weight")?;
        let (layers, inner) = tower(weights, "text_model.encoder.layers.")?;
        let [projection_dim, _] = shape(weights, "text_projection.weight")?;
        let config = Self {
            vocab_size,
            hidden_size: width,
            intermediate_size: inner,
            num_hidden_layers: layers,
            num_attention_heads: heads("the text encoder", width)?,
            max_position_embeddings: positions,
            hidden_act: act,
            layer_norm_eps: 1e-5,
            eos_token_id: 2, // The largest id, which is the end token in CLIP's vocabulary.
            projection_dim,
        };
        config.check()?;
        Ok(config)
    }
}

impl ClipVisionConfig {
    /// The sizes of an image encoder with a projection; see [`ClipConfig::from_weights`].
    ///
    /// # Errors
    /// The same.
    pub fn from_weights(weights: &TensorMap, act: Act) -> Result<Self, ConfigError> {
        const PATCHES: &str = "vision_model.embeddings.patch_embedding.weight";
        const POSITIONS: &str = "vision_model.embeddings.position_embedding.weight";
        let [width, _, patch, _] = shape(weights, PATCHES)?;
        let [positions, _] = shape(weights, POSITIONS)?;
        let side = positions.saturating_sub(1).isqrt();
        if side == 0 || side * side + 1 != positions {
            return Err(unclear(
                POSITIONS,
                format!("{positions} positions"),
                "a square number and one".to_owned(),
            ));
        }
        let (layers, inner) = tower(weights, "vision_model.encoder.layers.")?;
        let [projection_dim, _] = shape(weights, "visual_projection.weight")?;
        let heads =
            if SIXTEEN_HEADS.contains(&width) { 16 } else { heads("the image encoder", width)? };
        let config = Self {
            hidden_size: width,
            intermediate_size: inner,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            image_size: side * patch,
            patch_size: patch,
            hidden_act: act,
            layer_norm_eps: 1e-5,
            projection_dim,
        };
        config.check()?;
        Ok(config)
    }
}

/// Heads that are 64 wide.
pub(crate) fn heads(what: &str, width: usize) -> Result<usize, ConfigError> {
    if width >= 64 && width.is_multiple_of(64) {
        return Ok(width / 64);
    }
    Err(unclear(
        what,
        format!("width {width}, from which the number of heads does not follow"),
        "a multiple of 64, or a config that says the heads".to_owned(),
    ))
}

/// Number of layers of a tower with such names, and the inner width of its feed-forward blocks.
fn tower(weights: &TensorMap, prefix: &str) -> Result<(usize, usize), ConfigError> {
    let layers = layers(weights, prefix);
    let [inner, _] = shape(weights, &format!("{prefix}0.mlp.fc1.weight"))?;
    Ok((layers, inner))
}

/// One more than the largest `N` of names `<prefix>N.…`.
pub(crate) fn layers(weights: &TensorMap, prefix: &str) -> usize {
    let index = |name: &String| -> Option<usize> {
        name.strip_prefix(prefix)?.split_once('.')?.0.parse().ok()
    };
    weights.keys().filter_map(index).max().map_or(0, |last| last.saturating_add(1).min(4096))
}

/// The shape of a tensor that must have so many axes.
pub(crate) fn shape<const N: usize>(
    weights: &TensorMap,
    name: &str,
) -> Result<[usize; N], ConfigError> {
    let found = weights.get(name).map(|tensor| tensor.shape.as_slice());
    found.and_then(|s| s.try_into().ok()).ok_or_else(|| {
        let found = found.map_or("no such tensor".to_owned(), |s| format!("shape {s:?}"));
        unclear(name, found, format!("{N} axes"))
    })
}

pub(crate) fn unclear(what: &str, found: String, expected: String) -> ConfigError {
    ConfigError::Weights { what: what.to_owned(), found, expected }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::clip::ClipModel;
    use crate::init::Init;
    use burn::tensor::Device;

    fn config() -> ClipConfig {
        let text = ClipTextConfig {
            vocab_size: 30,
            hidden_size: 128,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            max_position_embeddings: 9,
            hidden_act: Act::Gelu,
            eos_token_id: 2,
            ..ClipTextConfig::default()
        };
        let vision = ClipVisionConfig {
            hidden_size: 64,
            intermediate_size: 20,
            num_hidden_layers: 11,
            num_attention_heads: 1,
            image_size: 12,
            patch_size: 4,
            hidden_act: Act::Gelu,
            ..ClipVisionConfig::default()
        };
        ClipConfig::new(text, vision, 10).unwrap()
    }

    #[test]
    fn sizes_follow_from_the_weights() {
        let weights = ClipModel::new(&mut Init::zeros(&Device::flex()), &config()).to_tensors();
        assert_eq!(ClipConfig::from_weights(&weights, Act::Gelu).unwrap(), config());
    }

    #[test]
    fn what_shapes_do_not_tell_is_asked_for() {
        let whole = ClipModel::new(&mut Init::zeros(&Device::flex()), &config()).to_tensors();
        let fails = |name: &str, shape: Option<Vec<usize>>| {
            let mut weights = whole.clone();
            match shape {
                Some(shape) => weights.get_mut(name).unwrap().shape = shape,
                None => drop(weights.remove(name)),
            }
            let error = ClipConfig::from_weights(&weights, Act::Gelu).unwrap_err().to_string();
            assert!(error.contains("config.json"), "{error}");
        };
        fails("text_projection.weight", None);
        fails("visual_projection.weight", Some(vec![11, 64]));
        fails("vision_model.embeddings.position_embedding.weight", Some(vec![11, 64]));
        fails("vision_model.embeddings.patch_embedding.weight", Some(vec![72, 3, 4, 4]));
        fails("vision_model.encoder.layers.0.mlp.fc1.weight", Some(vec![20]));
    }
}
