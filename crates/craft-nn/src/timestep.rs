//! Sinusoidal timestep features (`diffusers/models/embeddings.py`, `get_timestep_embedding`).

use burn::tensor::{Device, Tensor, TensorData};

/// Features `[B, dim]` of timesteps: sines and cosines of `t · exp(−ln(10000) · i / (half −
/// shift))`.
///
/// `flip` puts the cosines first, as Stable Diffusion does.
pub fn features(
    timesteps: &[f32],
    dim: usize,
    flip: bool,
    shift: f64,
    device: &Device,
) -> Tensor<2> {
    let half = dim / 2;
    let mut data = vec![0.0f32; timesteps.len() * dim];
    for (row, &t) in data.chunks_exact_mut(dim).zip(timesteps) {
        for i in 0..half {
            let exponent = -libm::log(10_000.0) * i as f64 / (half as f64 - shift);
            let angle = t * libm::exp(exponent) as f32;
            let (sin, cos) = (libm::sinf(angle), libm::cosf(angle));
            let (first, second) = if flip { (cos, sin) } else { (sin, cos) };
            row[i] = first;
            row[half + i] = second;
        }
    }
    Tensor::from_data(TensorData::new(data, [timesteps.len(), dim]), device)
}
