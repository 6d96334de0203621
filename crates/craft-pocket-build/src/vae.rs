//! The pocket autoencoder: 64×64×3 to 16×16×4.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use craft_core::rng::Key;
use craft_nn::init::Init;
use craft_nn::vae::{AutoencoderKL, VaeConfig};
use craft_nn::weights;
use craft_pocket::world::{SIDE, WorldRng, sample_training_example};
use rayon::prelude::*;
use serde_json::json;

use crate::fit::{Fit, fit};
use crate::io::{read_tensors, write_tensors, write_text};
use crate::{BuildError, Options, images};

const BATCH: usize = 16;
const LATENT_SIDE: usize = 16;
/// Weight of the divergence from unit normals, per latent value.
const KL_WEIGHT: f32 = 1e-4;

fn config(scaling_factor: f64) -> serde_json::Value {
    json!({
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.39.0",
        "act_fn": "silu",
        "block_out_channels": [16, 32, 64],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "out_channels": 3,
        "sample_size": 64,
        "scaling_factor": scaling_factor,
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
    })
}

/// The trained autoencoder on a device without gradients.
pub(crate) struct Vae {
    model: AutoencoderKL,
    config: VaeConfig,
    device: Device,
}

impl Vae {
    /// Reads what [`build`] wrote.
    pub(crate) fn load(out: &Path, device: &Device) -> Result<Self, BuildError> {
        let text = crate::io::read_text(&out.join("vae/config.json"))?;
        Self::with_config(out, &text, device)
    }

    /// Reads the weights that [`build`] wrote, under a config that need not be there yet.
    fn with_config(out: &Path, text: &str, device: &Device) -> Result<Self, BuildError> {
        let config = VaeConfig::from_json(text)?;
        let model = AutoencoderKL::new(&mut Init::zeros(device), &config);
        let tensors = read_tensors(&out.join("vae/diffusion_pytorch_model.safetensors"))?;
        Ok(Self { model: weights::load(model, tensors)?, config, device: device.clone() })
    }

    /// Scaled mean latents of pictures, 1,024 values each.
    pub(crate) fn encode(&self, pictures: &[Vec<u8>]) -> Vec<f32> {
        let (mean, _) = self.model.encode(images::pixels(pictures, &self.device));
        weights::to_vec(self.config.scale_latents(mean))
    }

    /// Pictures of scaled latents.
    pub(crate) fn decode(&self, latents: &[f32]) -> Vec<Vec<u8>> {
        let n = latents.len() / (4 * LATENT_SIDE * LATENT_SIDE);
        let data = TensorData::new(latents.to_vec(), [n, 4, LATENT_SIDE, LATENT_SIDE]);
        let latents = Tensor::<4>::from_data(data, &self.device);
        images::bytes(self.model.decode(self.config.unscale_latents(latents)))
    }

    /// Pictures as the generator's decoder would show them.
    pub(crate) fn round_trip(&self, pictures: &[Vec<u8>]) -> Vec<Vec<u8>> {
        pictures.chunks(32).flat_map(|part| self.decode(&self.encode(part))).collect()
    }
}

fn batch(seed: u64, step: usize) -> Vec<Vec<u8>> {
    (0..BATCH)
        .into_par_iter()
        .map(|i| {
            let mut rng = WorldRng::stream(seed, (step * BATCH + i) as u64);
            sample_training_example(&mut rng).render()
        })
        .collect()
}

fn differences(x: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [_, _, h, w] = x.dims();
    let dx = x.clone().narrow(3, 1, w - 1) - x.clone().narrow(3, 0, w - 1);
    let dy = x.clone().narrow(2, 1, h - 1) - x.narrow(2, 0, h - 1);
    (dx, dy)
}

/// Steps of training.
const STEPS: usize = 3600;
/// How much hue counts at the start and at the end. Objects cover a tenth of a picture; with equal weights
/// their hues are the last thing that is learned. Once hue is there, outlines and clutter need the room.
const HUE: [f32; 2] = [3.0, 1.0];

/// How much a pixel counts, `[B, 1, H, W]`: 1, and up to 1 + `hue` for coloured ones.
fn attention(x: Tensor<4>, hue: f32) -> Tensor<4> {
    (x.clone().max_dim(1) - x.min_dim(1)) * hue + 1.0
}

/// Trains the autoencoder and writes it, with the factor that gives its latents unit variance.
pub(crate) fn build(o: &Options) -> Result<(), BuildError> {
    let device = Device::flex().autodiff();
    let text = config(1.0).to_string();
    let c = VaeConfig::from_json(&text)?;
    let model = AutoencoderKL::new(&mut Init::seeded(o.seed ^ 0x7ae, &device), &c);
    let key = Key::new(o.seed).stage("pocket-vae");
    let steps = o.scaled(STEPS);
    let fitted = fit(
        o,
        &Fit { name: "vae", steps, lr: 2e-3, weight_decay: 1e-4, ema: 0.998, save_every: 500 },
        model,
        |model, step| {
            let x = images::pixels(&batch(o.seed ^ 0xa11, step), &device);
            let (mean, logvar) = model.encode(x.clone());
            let noise = key.clone().step(step as u64).standard_normals(mean.shape().num_elements());
            let noise = Tensor::from_data(TensorData::new(noise, mean.dims()), &device);
            let latents = mean.clone() + noise * (logvar.clone() * 0.5).exp();
            let done = step as f32 / steps as f32;
            let colour = HUE[0] + (HUE[1] - HUE[0]) * (2.0 * done - 0.5).clamp(0.0, 1.0);
            let weight = attention(x.clone(), colour);
            let error = (model.decode(latents) - x) * weight.expand([BATCH, 3, SIDE, SIDE]);
            let hue = error.clone().narrow(1, 0, 2) - error.clone().narrow(1, 1, 2);
            let (dx, dy) = differences(error.clone());
            let kl = (mean.powi_scalar(2) + logvar.clone().exp() - logvar - 1.0).mean() * 0.5;
            error.clone().abs().mean()
                + hue.abs().mean() * (colour / HUE[0])
                + error.powi_scalar(2).mean()
                + (dx.abs().mean() + dy.abs().mean()) * 0.5
                + kl * KL_WEIGHT
        },
    )?;
    let dir = o.out.join("vae");
    let tensors = weights::export(&fitted);
    craft_store::atomic::create_dir(&dir)?;
    write_tensors(&dir.join("diffusion_pytorch_model.safetensors"), tensors, true)?;
    // Unit variance over many pictures, by the weights as they are in the file.
    let vae = Vae::with_config(&o.out, &text, &Device::flex())?;
    let (mut sum, mut squares, mut n) = (0.0f64, 0.0f64, 0.0f64);
    for step in 0..32 {
        o.check()?;
        for v in vae.encode(&batch(o.seed ^ 0x5ca1e, step)) {
            sum += f64::from(v);
            squares += f64::from(v) * f64::from(v);
            n += 1.0;
        }
    }
    let std = (squares / n - (sum / n).powi(2)).sqrt();
    let factor = (1e5 / std).round() / 1e5;
    tracing::info!("vae: latents have mean {:.3} and std {std:.3}; factor {factor}", sum / n);
    // Written last and once: this file says that the part is done.
    write_text(&dir.join("config.json"), &format!("{:#}\n", config(factor)))
}
