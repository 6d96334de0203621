//! Pictures of the world as batches of tensors.

use burn::tensor::{Device, Int, Tensor, TensorData};
use craft_nn::tokenizer::ClipTokenizer;
use craft_pocket::world::SIDE;

/// `[B, 3, 64, 64]` in −1..1 from RGB bytes.
pub(crate) fn pixels(images: &[Vec<u8>], device: &Device) -> Tensor<4> {
    scaled(images, device, [0.5; 3], [0.5; 3])
}

/// `[B, 3, 64, 64]`, `(x/255 − mean)/std` by channel.
pub(crate) fn scaled(
    images: &[Vec<u8>],
    device: &Device,
    mean: [f32; 3],
    std: [f32; 3],
) -> Tensor<4> {
    let plane = SIDE * SIDE;
    let mut data = vec![0.0f32; images.len() * 3 * plane];
    for (image, out) in images.iter().zip(data.chunks_exact_mut(3 * plane)) {
        for (i, rgb) in image.chunks_exact(3).enumerate() {
            for c in 0..3 {
                out[c * plane + i] = (f32::from(rgb[c]) / 255.0 - mean[c]) / std[c];
            }
        }
    }
    Tensor::from_data(TensorData::new(data, [images.len(), 3, SIDE, SIDE]), device)
}

/// RGB bytes of `[B, 3, 64, 64]` in −1..1.
pub(crate) fn bytes(images: Tensor<4>) -> Vec<Vec<u8>> {
    let plane = SIDE * SIDE;
    craft_nn::weights::to_vec(images)
        .chunks_exact(3 * plane)
        .map(|planes| {
            (0..3 * plane)
                .map(|i| {
                    let value = planes[(i % 3) * plane + i / 3];
                    ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8
                })
                .collect()
        })
        .collect()
}

/// Token ids `[B, L]`.
pub(crate) fn ids<S: AsRef<str>>(
    tokenizer: &ClipTokenizer,
    texts: &[S],
    device: &Device,
) -> Tensor<2, Int> {
    let rows: Vec<i64> = texts
        .iter()
        .flat_map(|t| tokenizer.encode(t.as_ref()).ids.into_iter().map(i64::from))
        .collect();
    Tensor::from_data(TensorData::new(rows, [texts.len(), tokenizer.length()]), device)
}
