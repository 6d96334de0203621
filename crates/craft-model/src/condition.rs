//! What a denoiser is conditioned on.

use burn::tensor::{Device, Tensor, TensorData};

/// A text as the denoiser sees it, on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextEmbedding {
    /// States of the tokens, `[L · D]`.
    pub states: Vec<f32>,
    /// Projected state of the whole text, `[P]`; empty but for SDXL.
    pub pooled: Vec<f32>,
}

/// The condition of a batch, on a device.
#[derive(Clone, Debug)]
pub struct Condition {
    /// States of the tokens, `[B, L, D]`.
    pub states: Tensor<3>,
    /// How many tokens of each row count; `None`: all of them, as with CLIP, whose padding is read as text.
    pub mask: Option<Vec<usize>>,
    /// Projected state of the whole text, `[B, P]`, for families that take one.
    pub pooled: Option<Tensor<2>>,
    /// Further numbers of each row, `[B][n]`; SDXL: original size, crop, target size.
    pub ids: Vec<Vec<f32>>,
}

impl Condition {
    /// Token states and pooled states, with the further numbers that a family derives from the size of the pictures
    /// in pixels, `[height, width]`.
    pub fn new(states: Tensor<3>, pooled: Option<Tensor<2>>, pixels: [usize; 2]) -> Self {
        let rows = states.dims()[0];
        let ids = if pooled.is_some() { vec![crate::sdxl::ids(pixels); rows] } else { Vec::new() };
        Self { states, mask: None, pooled, ids }
    }

    /// Stacks embeddings of `length` tokens for pictures of a size in pixels, `[height, width]`.
    pub fn stack(
        embeddings: &[&TextEmbedding],
        length: usize,
        pixels: [usize; 2],
        device: &Device,
    ) -> Self {
        let b = embeddings.len();
        let states: Vec<f32> = embeddings.iter().flat_map(|e| e.states.iter().copied()).collect();
        let features = states.len() / (b * length).max(1);
        let states = Tensor::from_data(TensorData::new(states, [b, length, features]), device);
        let pooled: Vec<f32> = embeddings.iter().flat_map(|e| e.pooled.iter().copied()).collect();
        let features = pooled.len() / b.max(1);
        let pooled = (features > 0)
            .then(|| Tensor::from_data(TensorData::new(pooled, [b, features]), device));
        Self::new(states, pooled, pixels)
    }
}
