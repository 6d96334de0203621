//! The autoencoder on large pictures in less memory: one picture at a time, and in overlapping
//! tiles whose seams are blended. Off unless asked for, since tiles change the picture a little.
//!
//! Source: diffusers `autoencoder_kl.py`, `tiled_decode`, `_tiled_encode`, `blend_v`, `blend_h`.

use burn::tensor::{Tensor, TensorData};

use crate::vae::{AutoencoderKL, VaeConfig};

/// Share of a tile that lies under its neighbour.
const OVERLAP: f64 = 0.25;

/// Sizes of square tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Height and width in pixels.
    pixels: usize,
    /// Height and width in latents.
    latents: usize,
}

impl Tiles {
    /// Tiles of the size that the model was trained on, as in diffusers.
    pub fn of(config: &VaeConfig) -> Self {
        let pixels = config.sample_size.height();
        Self { pixels, latents: pixels / config.scale() }
    }
}

/// How a batch is cut up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VaeParts {
    /// One picture at a time.
    pub slicing: bool,
    /// Larger pictures in tiles of this size.
    pub tiles: Option<Tiles>,
}

impl VaeParts {
    /// [`AutoencoderKL::decode`] in parts.
    pub fn decode(&self, vae: &AutoencoderKL, latents: Tensor<4>) -> Tensor<4> {
        self.sliced(latents, |z| match self.tiles {
            Some(t) if exceeds(&z, t.latents) => {
                tiled(&z, t.latents, t.pixels, |tile| vae.decode(tile))
            }
            _ => vae.decode(z),
        })
    }

    /// [`AutoencoderKL::encode`] in parts: mean and log-variance.
    pub fn encode(&self, vae: &AutoencoderKL, images: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let moments = self.sliced(images, |x| match self.tiles {
            Some(t) if exceeds(&x, t.pixels) => {
                tiled(&x, t.pixels, t.latents, |tile| vae.moments(tile))
            }
            _ => vae.moments(x),
        });
        AutoencoderKL::mean_and_logvar(moments)
    }

    fn sliced(&self, x: Tensor<4>, f: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let batch = x.dims()[0];
        if !self.slicing || batch < 2 {
            return f(x);
        }
        Tensor::cat((0..batch).map(|i| f(x.clone().narrow(0, i, 1))).collect(), 0)
    }
}

fn exceeds(x: &Tensor<4>, size: usize) -> bool {
    let [_, _, height, width] = x.dims();
    height > size || width > size
}

/// Applies `f`, which makes tiles of `output` from tiles of `input`, and joins the results.
fn tiled(
    x: &Tensor<4>,
    input: usize,
    output: usize,
    f: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let step = ((input as f64 * (1.0 - OVERLAP)) as usize).max(1);
    let blend = (output as f64 * OVERLAP) as usize;
    let keep = output - blend;
    let [_, _, height, width] = x.dims();
    let mut above: Vec<Tensor<4>> = vec![];
    let mut rows = vec![];
    for top in (0..height).step_by(step) {
        let strip = x.clone().narrow(2, top, input.min(height - top));
        let mut row: Vec<Tensor<4>> = vec![];
        for (i, left) in (0..width).step_by(step).enumerate() {
            let mut tile = f(strip.clone().narrow(3, left, input.min(width - left)));
            if let Some(upper) = above.get(i) {
                tile = blended(upper, tile, 2, blend);
            }
            if let Some(before) = row.last() {
                tile = blended(before, tile, 3, blend);
            }
            row.push(tile);
        }
        let kept = row.iter().map(|tile| {
            let [_, _, h, w] = tile.dims();
            tile.clone().narrow(2, 0, keep.min(h)).narrow(3, 0, keep.min(w))
        });
        rows.push(Tensor::cat(kept.collect(), 3));
        above = row;
    }
    Tensor::cat(rows, 2)
}

/// `tile` with its first rows (axis 2) or columns (axis 3) faded in over the last ones of the tile
/// before it.
fn blended(before: &Tensor<4>, tile: Tensor<4>, axis: usize, extent: usize) -> Tensor<4> {
    let (last, size) = (before.dims()[axis], tile.dims()[axis]);
    let extent = extent.min(last).min(size);
    if extent == 0 {
        return tile;
    }
    let ramp: Vec<f32> = (0..extent).map(|i| i as f32 / extent as f32).collect();
    let mut shape = [1; 4];
    shape[axis] = extent;
    let ramp = Tensor::<4>::from_data(TensorData::new(ramp, shape), &tile.device());
    let start = tile.clone().narrow(axis, 0, extent);
    let end = before.clone().narrow(axis, last - extent, extent);
    let mixed = end.clone() + (start - end) * ramp;
    if extent == size {
        return mixed;
    }
    Tensor::cat(vec![mixed, tile.narrow(axis, extent, size - extent)], axis)
}
