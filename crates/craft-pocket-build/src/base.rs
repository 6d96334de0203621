//! The pocket denoiser and its text encoder, trained together on captioned pictures.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use craft_core::process::Process;
use craft_core::rng::Key;
use craft_core::schedule::NoiseSchedule;
use craft_model::sd::{self, CLASS};
use craft_nn::clip::{ClipTextConfig, ClipTextModel};
use craft_nn::init::Init;
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::weights;
use craft_pocket::world::{WorldRng, sample_training_example};
use craft_train::loss::weighted_mse;
use rayon::prelude::*;
use serde_json::json;

use crate::fit::{Fit, fit};
use crate::io::{write_tensors, write_text};
use crate::vae::Vae;
use crate::{BuildError, MAX_TOKENS, Options};

const BATCH: usize = 64;
/// Values of one picture's latents.
const LATENT: usize = 4 * 16 * 16;
/// Width of the text embeddings.
const TEXT_WIDTH: usize = 96;
/// Share of captions replaced by the empty text, for classifier-free guidance.
const UNCONDITIONAL: f64 = 0.1;

/// Denoiser and text encoder as one network.
#[derive(Module, Debug)]
struct Base {
    unet: sd::UNet,
    text: ClipTextModel,
}

fn unet_config() -> serde_json::Value {
    json!({
        "_class_name": CLASS,
        "_diffusers_version": "0.39.0",
        "act_fn": "silu",
        "attention_head_dim": 4,
        "block_out_channels": [32, 64],
        "center_input_sample": false,
        "cross_attention_dim": TEXT_WIDTH,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 1,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-05,
        "norm_num_groups": 8,
        "out_channels": 4,
        "sample_size": 16,
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": true,
    })
}

fn text_config(vocabulary: usize, eos: u32) -> serde_json::Value {
    json!({
        "architectures": ["CLIPTextModel"],
        "bos_token_id": eos - 1,
        "eos_token_id": eos,
        "pad_token_id": eos,
        "hidden_act": "gelu",
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 2 * TEXT_WIDTH,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": MAX_TOKENS,
        "model_type": "clip_text_model",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "projection_dim": TEXT_WIDTH,
        "vocab_size": vocabulary,
    })
}

/// The noise schedule of Stable Diffusion.
pub(crate) fn scheduler_config() -> serde_json::Value {
    json!({
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.39.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": false,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "set_alpha_to_one": false,
        "steps_offset": 1,
        "timestep_spacing": "trailing",
        "trained_betas": null,
    })
}

/// γ of min-SNR weighting (Hang et al. 2023): timesteps with a higher signal-to-noise ratio count less.
const MIN_SNR: f64 = 5.0;

/// Share of draws of the second part that come from the noisiest timesteps alone. A picture's brightness and layout
/// still show through the noise at nearly all timesteps of this schedule, so that a model trained on all of them alike
/// hardly learns to take them from the text, where sampling needs it (Lin et al. 2023, arXiv 2305.08891).
const NOISY: f64 = 0.75;
/// The first of these timesteps.
const NOISY_FROM: usize = 700;

/// Captions with the latents of their pictures.
struct Dataset {
    latents: Vec<f32>,
    captions: Vec<String>,
}

fn dataset(o: &Options, vae: &Vae) -> Result<Dataset, BuildError> {
    let n = o.scaled(96_000);
    let mut set = Dataset { latents: Vec::with_capacity(n * LATENT), captions: Vec::new() };
    for start in (0..n).step_by(64) {
        o.check()?;
        let part: Vec<(Vec<u8>, String)> = (start..(start + 64).min(n))
            .into_par_iter()
            .map(|i| {
                let mut rng = WorldRng::stream(o.seed ^ 0xba5e, i as u64);
                let example = sample_training_example(&mut rng);
                (example.render(), example.caption)
            })
            .collect();
        let (pictures, captions): (Vec<_>, Vec<_>) = part.into_iter().unzip();
        set.latents.extend(vae.encode(&pictures));
        set.captions.extend(captions);
    }
    tracing::info!("base: {n} captioned pictures encoded");
    Ok(set)
}

/// What the loss of an update is drawn from.
struct Lesson<'a> {
    data: &'a Dataset,
    tokens: &'a [Vec<i64>],
    empty: &'a [i64],
    process: Box<dyn Process>,
    device: Device,
}

impl Lesson<'_> {
    /// Min-SNR weighted loss of a step's batch, of which a share `noisy` comes from the noisiest timesteps.
    fn loss(&self, model: &Base, key: &Key, step: usize, noisy_share: f64) -> Tensor<1> {
        let key = key.clone().step(step as u64);
        let mut stream = key.stream();
        let (mut noisy, mut target, mut ids, mut times) = (vec![], vec![], vec![], vec![]);
        let mut importance = [0.0; BATCH];
        for weight in &mut importance {
            let i = stream.index(self.tokens.len());
            let last = self.process.levels();
            let low = if noisy_share > 0.0 && stream.chance(noisy_share) { NOISY_FROM } else { 0 };
            let t = low + stream.index(last - low);
            let noise = stream.standard_normals(LATENT);
            let clean = &self.data.latents[i * LATENT..(i + 1) * LATENT];
            let level = self.process.level(t);
            *weight = self.process.min_snr(level, MIN_SNR);
            self.process.noised(level, clean, &noise, &mut noisy);
            self.process.target(level, clean, &noise, &mut target);
            let drop = stream.chance(UNCONDITIONAL);
            ids.extend_from_slice(if drop { self.empty } else { &self.tokens[i] });
            times.push(t as f32);
        }
        let shape = [BATCH, 4, 16, 16];
        let noisy = Tensor::<4>::from_data(TensorData::new(noisy, shape), &self.device);
        let target = Tensor::<4>::from_data(TensorData::new(target, shape), &self.device);
        let ids = Tensor::from_data(TensorData::new(ids, [BATCH, MAX_TOKENS]), &self.device);
        let context = model.text.forward(ids).last_hidden_state;
        let prediction = model.unet.forward(noisy, &times, &context, None);
        weighted_mse(prediction, target, &importance, BATCH)
    }
}

/// Trains and writes `unet`, `text_encoder`, `scheduler` and `model_index.json`.
pub(crate) fn build(o: &Options, tokenizer: &ClipTokenizer) -> Result<(), BuildError> {
    let vae = Vae::load(&o.out, &Device::flex())?;
    let data = dataset(o, &vae)?;
    let tokens: Vec<Vec<i64>> = data
        .captions
        .par_iter()
        .map(|c| tokenizer.encode(c).ids.into_iter().map(i64::from).collect())
        .collect();
    let empty: Vec<i64> = tokenizer.encode("").ids.into_iter().map(i64::from).collect();

    let device = Device::flex().autodiff();
    let unet = sd::Config::from_json(&unet_config().to_string())?;
    let text_json = text_config(tokenizer.vocab_size(), tokenizer.eos());
    let text = ClipTextConfig::from_json(&text_json.to_string())?;
    let mut init = Init::seeded(o.seed ^ 0x0e7, &device);
    let model = Base {
        unet: sd::UNet::new(&mut init, &unet),
        text: ClipTextModel::new(&mut init, &text, false),
    };
    let schedule = NoiseSchedule::from_json(&scheduler_config().to_string())?;
    let lesson =
        Lesson { data: &data, tokens: &tokens, empty: &empty, process: schedule.process(), device };
    let key = Key::new(o.seed).stage("pocket-base");
    let first = Fit {
        name: "base",
        steps: o.scaled(12_000),
        lr: 2e-3,
        weight_decay: 1e-2,
        ema: 0.9985,
        save_every: 250,
    };
    let model = fit(o, &first, model, |model, step| lesson.loss(model, &key, step, 0.0))?;
    let key = key.stage("noisy");
    let second = Fit { name: "base-noisy", steps: o.scaled(6_000), lr: 1e-3, ..first };
    let fitted = fit(o, &second, model, |model, step| lesson.loss(model, &key, step, NOISY))?;
    write(&o.out, &fitted, &text_json)
}

fn write(out: &Path, base: &Base, text: &serde_json::Value) -> Result<(), BuildError> {
    for (dir, config) in
        [("unet", &unet_config()), ("text_encoder", text), ("scheduler", &scheduler_config())]
    {
        craft_store::atomic::create_dir(&out.join(dir))?;
        let name = if dir == "scheduler" { "scheduler_config.json" } else { "config.json" };
        write_text(&out.join(dir).join(name), &format!("{config:#}\n"))?;
    }
    let unet = weights::export(&base.unet);
    write_tensors(&out.join("unet/diffusion_pytorch_model.safetensors"), unet, true)?;
    let text = weights::export(&base.text);
    write_tensors(&out.join("text_encoder/model.safetensors"), text, true)?;
    let index = json!({
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.39.0",
        "feature_extractor": [null, null],
        "requires_safety_checker": false,
        "safety_checker": [null, null],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", CLASS],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    write_text(&out.join("model_index.json"), &format!("{index:#}\n"))
}
