//! UNet and VAE against diffusers (fixtures/unet, fixtures/vae).
#![allow(clippy::unwrap_used, missing_docs, clippy::disallowed_methods)]

mod common;

use burn::tensor::{Device, Tensor};
use common::{close, close_gradients, error, read, tensor, text};
use craft_nn::init::Init;
use craft_nn::unet::{AddedCondition, UNet2DConditionModel};
use craft_nn::unet_config::UNetConfig;
use craft_nn::vae::{AutoencoderKL, VaeConfig};
use craft_nn::vae_tiles::{Tiles, VaeParts};
use craft_nn::weights::{self, TensorMap, to_vec};

const OUTPUT: f32 = 1e-4;
const GRADIENT: f32 = 1e-3;

struct Unet {
    model: UNet2DConditionModel,
    io: TensorMap,
    timesteps: Vec<f32>,
    device: Device,
}

impl Unet {
    /// Loading is strict: names and shapes are those of diffusers.
    fn load(family: &str, device: Device) -> Self {
        let config = UNetConfig::from_json(&text(&format!("unet/{family}/config.json"))).unwrap();
        let (file, _) = read(&format!("unet/{family}/diffusion_pytorch_model.safetensors"));
        let empty = UNet2DConditionModel::new(&mut Init::zeros(&device), &config);
        let model = weights::load(empty, file.clone()).unwrap();
        assert_eq!(weights::export(&model), file);
        let (io, ints) = read(&format!("unet/{family}/io.safetensors"));
        let timesteps = ints["timestep"].1.iter().map(|&t| t as f32).collect();
        Self { model, io, timesteps, device }
    }

    fn input<const D: usize>(&self, name: &str, rows: std::ops::Range<usize>) -> Tensor<D> {
        tensor::<D>(&self.io[name], &self.device).narrow(0, rows.start, rows.len())
    }

    fn predict(&self, rows: std::ops::Range<usize>) -> Tensor<4> {
        let added = self.io.contains_key("text_embeds").then(|| {
            let ids = &self.io["time_ids"].data;
            AddedCondition {
                text_embeds: self.input("text_embeds", rows.clone()),
                time_ids: rows.clone().map(|b| ids[6 * b..6 * b + 6].to_vec()).collect(),
            }
        });
        self.model.forward(
            self.input("sample", rows.clone()),
            &self.timesteps[rows.clone()],
            &self.input("encoder_hidden_states", rows),
            added.as_ref(),
        )
    }
}

#[test]
fn samples_under_several_texts_are_those_samples_again() {
    for family in ["sd15", "sd2", "sdxl", "ssd1b"] {
        let unet = Unet::load(family, Device::flex());
        let (sample, time) = (unet.input::<4>("sample", 0..1), [unet.timesteps[0]; 2]);
        let context = unet.input("encoder_hidden_states", 0..2);
        let added = unet.io.contains_key("text_embeds").then(|| {
            let ids = &unet.io["time_ids"].data;
            let time_ids = (0..2).map(|b| ids[6 * b..6 * b + 6].to_vec()).collect();
            AddedCondition { text_embeds: unet.input("text_embeds", 0..2), time_ids }
        });
        let once = unet.model.forward(sample.clone(), &time[..1], &context, added.as_ref());
        let again = Tensor::cat(vec![sample.clone(), sample], 0);
        let twice = unet.model.forward(again, &time, &context, added.as_ref());
        let twice = to_vec(twice);
        let (first, second) = twice.split_at(twice.len() / 2);
        assert_ne!(first, second, "{family}: the texts differ");
        assert!(error(&to_vec(once), &twice) < 1e-6, "{family}");
    }
}

#[test]
fn unets_of_all_families_predict_what_diffusers_predicts() {
    for family in ["sd15", "sd2", "sdxl", "ssd1b"] {
        let unet = Unet::load(family, Device::flex());
        close(unet.predict(0..2), &unet.io["out.sample"], OUTPUT);
    }
}

#[test]
fn odd_heights_and_widths_come_back_as_in_diffusers() {
    let mut unet = Unet::load("sd2", Device::flex());
    let (odd, _) = read("unet/sd2/odd.safetensors");
    unet.io.insert("sample".to_owned(), odd["sample"].clone());
    close(unet.predict(0..2), &odd["out.sample"], OUTPUT);
}

#[test]
fn a_prediction_does_not_depend_on_its_batch() {
    for family in ["sd15", "sd2", "sdxl", "ssd1b"] {
        let unet = Unet::load(family, Device::flex());
        let both = to_vec(unet.predict(0..2));
        let each = [to_vec(unet.predict(0..1)), to_vec(unet.predict(1..2))].concat();
        assert_eq!(both, each, "{family}");
    }
}

#[test]
fn the_gradients_of_the_weighted_loss_are_those_of_diffusers() {
    let unet = Unet::load("sd15", Device::flex().autodiff());
    let prediction = unet.predict(0..2);
    close(prediction.clone(), &unet.io["out.sample"], OUTPUT);
    let [b, c, h, w] = prediction.dims();
    let squares = (prediction - unet.input("target", 0..2)).powi_scalar(2).reshape([b, c * h * w]);
    let loss = (squares.mean_dim(1).reshape([b]) * unet.input("weight", 0..2)).mean();
    close(loss.clone(), &unet.io["out.loss"], OUTPUT);
    let gradients = loss.backward();
    close_gradients(&unet.model, &gradients, &unet.io, GRADIENT);
}

#[test]
fn the_vae_and_its_gradients_are_those_of_diffusers() {
    let device = Device::flex().autodiff();
    let config = VaeConfig::from_json(&text("vae/config.json")).unwrap();
    assert_eq!((config.scale(), config.scaling_factor), (4, 0.5));
    let (file, _) = read("vae/diffusion_pytorch_model.safetensors");
    let empty = AutoencoderKL::new(&mut Init::zeros(&device), &config);
    let model = weights::load(empty, file.clone()).unwrap();
    assert_eq!(weights::export(&model), file);

    let (io, _) = read("vae/io.safetensors");
    let input = |name: &str| tensor::<4>(&io[name], &device);
    let (mean, logvar) = model.encode(input("images"));
    let decoded = model.decode(input("latents"));
    close(mean.clone(), &io["out.mean"], OUTPUT);
    close(logvar.clone(), &io["out.logvar"], OUTPUT);
    close(decoded.clone(), &io["out.decoded"], OUTPUT);

    let loss = (mean * input("direction.mean")).sum()
        + (logvar * input("direction.logvar")).sum()
        + (decoded * input("direction.decoded")).sum();
    close_gradients(&model, &loss.backward(), &io, GRADIENT);
}

#[test]
fn a_config_that_asks_for_more_is_refused_by_name() {
    let json = text("unet/sd15/config.json");
    let asks = |from: &str, to: &str| {
        assert!(json.contains(from), "{from}");
        UNetConfig::from_json(&json.replace(from, to)).unwrap_err().to_string()
    };
    let message = asks("\"class_embed_type\": null", "\"class_embed_type\": \"timestep\"");
    assert!(message.contains("class_embed_type") && message.contains("timestep"), "{message}");
    let message = asks("\"attention_head_dim\": 2", "\"attention_head_dim\": 3");
    assert!(message.contains("attention_head_dim") && message.contains("8"), "{message}");
    let message = asks("\"norm_num_groups\": 4", "\"norm_num_groups\": 3");
    assert!(message.contains("norm_num_groups = 3"), "{message}");
    let message = asks(
        "\"transformer_layers_per_block\": 1",
        "\"transformer_layers_per_block\": [[1, 2], [1, 1]]",
    );
    assert!(message.contains("transformer_layers_per_block = [[1,2],[1,1]]"), "{message}");
    let message = asks("\"cross_attention_dim\": 12", "\"cross_attention_dim\": null");
    assert!(message.contains("cross_attention_dim = null"), "{message}");
}

#[test]
fn tiles_are_cut_and_blended_as_in_diffusers() {
    let config = VaeConfig::from_json(&text("vae/config.json")).unwrap();
    let (file, _) = read("vae/diffusion_pytorch_model.safetensors");
    let empty = AutoencoderKL::new(&mut Init::zeros(&Device::flex()), &config);
    let model = weights::load(empty, file).unwrap();
    let (io, _) = read("vae/tiled.safetensors");
    let input = |name: &str| tensor::<4>(&io[name], &Device::flex());
    let part = |sliced| VaeParts { slicing: sliced, tiles: Some(Tiles::of(&config)) };
    let whole = to_vec(model.decode(input("latents")));
    for sliced in [false, true] {
        let decoded = part(sliced).decode(&model, input("latents"));
        close(decoded.clone(), &io["out.decoded"], OUTPUT);
        assert!(error(&to_vec(decoded), &whole) > 1e-3, "seams are blended, not gone");
        let (mean, logvar) = part(sliced).encode(&model, input("images"));
        close(mean, &io["out.mean"], OUTPUT);
        close(logvar, &io["out.logvar"], OUTPUT);
    }
    // A picture that is not larger than a tile is not cut; slices change nothing.
    let small = input("latents").narrow(2, 0, 4).narrow(3, 0, 4);
    let twice = Tensor::cat(vec![small.clone(), small * 0.5], 0);
    let expected = to_vec(model.decode(twice.clone()));
    assert_eq!(to_vec(part(true).decode(&model, twice)), expected);
}
