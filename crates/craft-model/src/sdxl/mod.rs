//! The family of SDXL: the UNet under two CLIP text encoders, a pooled text, and the size of the picture.

use craft_nn::clip::ClipTextModel;
use craft_nn::tokenizer::ClipTokenizer;

/// SDXL's second text encoder.
#[derive(Clone, Debug)]
pub struct SecondEncoder {
    /// The network, with a projection.
    pub text: ClipTextModel,
    /// Its tokenizer, which pads otherwise than the first.
    pub tokenizer: ClipTokenizer,
    /// Whether no negative prompt is all zeros (`force_zeros_for_empty_prompt`).
    pub zero_empty: bool,
}

/// Numbers of a row beside the text: original size, crop, target size; the picture whole.
pub(crate) fn ids([height, width]: [usize; 2]) -> Vec<f32> {
    let (height, width) = (height as f32, width as f32);
    vec![height, width, 0.0, 0.0, height, width]
}
