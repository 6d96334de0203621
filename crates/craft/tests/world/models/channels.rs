//! Networks that do not draw from a text alone, and parts of different models.

use craft_store::tensors::Tensor;
use serde_json::json;

use super::{TEXT, UNET, VAE, edit_json, refused};
use crate::support::{Tiny, WIDTH};

/// Makes the denoiser one of other channels.
fn channels(tiny: &Tiny, input: usize, output: usize) {
    edit_json(tiny, "model/unet/config.json", |config| {
        config["in_channels"] = json!(input);
        config["out_channels"] = json!(output);
    });
    tiny.edit(UNET, |all| {
        all.insert(
            "conv_in.weight".to_owned(),
            Tensor::new([8, input, 3, 3], vec![0.01; 8 * input * 9]).unwrap(),
        );
        all.insert(
            "conv_out.weight".to_owned(),
            Tensor::new([output, 8, 3, 3], vec![0.01; 8 * output * 9]).unwrap(),
        );
        all.insert("conv_out.bias".to_owned(), Tensor::new([output], vec![0.0; output]).unwrap());
    });
}

#[test]
fn denoisers_that_take_more_than_a_text_are_named() {
    for (input, output, words) in [
        (9, 4, "inpainting"),
        (8, 4, "InstructPix2Pix"),
        (5, 4, "depth-to-image"),
        (7, 4, "upscaler"),
        (4, 8, "variance"),
        (16, 16, "not a text-to-image model"),
        (3, 3, "not a text-to-image model"),
    ] {
        let tiny = Tiny::new();
        channels(&tiny, input, output);
        let found = format!("in_channels is {input} and out_channels {output}");
        refused(&tiny, &["unet/config.json", words, &found, "latents of 4 channels"]);
    }
}

/// One network alone runs on whatever it takes.
#[test]
fn forward_runs_a_denoiser_of_any_channels() {
    let tiny = Tiny::new();
    channels(&tiny, 9, 4);
    tiny.tensors(
        "in.safetensors",
        &[
            ("sample", &[1, 9, 8, 8], &[0.5; 576]),
            ("timestep", &[1], &[3.0]),
            ("encoder_hidden_states", &[1, 2, WIDTH], &[0.1; 2 * WIDTH]),
        ],
    );
    let forward = ["forward", "--model", "model", "--component", "unet", "--in", "in.safetensors"];
    tiny.expect(&[&forward[..], &["--out", "o.safetensors"]].concat(), 0, &[]);
    tiny.tensors("in.safetensors", &[("sample", &[1, 4, 8, 8], &[0.5; 256])]);
    let words = ["in.safetensors", "sample", "[1, 4, 8, 8]"];
    tiny.expect(&[&forward[..], &["--out", "o.safetensors"]].concat(), 3, &words);
}

#[test]
fn class_conditions_and_the_like_are_named() {
    for (key, value, words) in [
        ("num_class_embeds", json!(1000), "upscaler"),
        ("class_embed_type", json!("projection"), "unCLIP"),
        ("time_cond_proj_dim", json!(256), "LCM"),
        ("encoder_hid_dim", json!(4096), "DeepFloyd"),
        ("encoder_hid_dim_type", json!("image_proj"), "pictures"),
        ("addition_embed_type", json!("text_image"), "text_time"),
    ] {
        let tiny = Tiny::new();
        edit_json(&tiny, "model/unet/config.json", |config| config[key] = value);
        refused(&tiny, &["unet/config.json", key, words]);
    }
}

#[test]
fn parts_of_different_models_are_refused() {
    let tiny = Tiny::new();
    edit_json(&tiny, "model/vae/config.json", |config| config["latent_channels"] = json!(16));
    tiny.edit(VAE, |all| {
        all.insert("longest".to_owned(), Tensor::new([16], vec![0.0; 16]).unwrap());
    });
    refused(&tiny, &["unet/config.json", "latents of 16 channels"]);

    let tiny = Tiny::new();
    edit_json(&tiny, "model/text_encoder/config.json", |config| config["hidden_size"] = json!(16));
    refused(&tiny, &["unet/config.json", "cross_attention_dim is 8", "width 16"]);

    let tiny = Tiny::new();
    edit_json(&tiny, "model/vae/config.json", |config| config["out_channels"] = json!(6));
    refused(&tiny, &["vae/config.json", "colour"]);

    // The config of one model and the weights of another.
    let tiny = Tiny::new();
    tiny.edit(TEXT, |all| all.retain(|name, _| !name.contains("layers.0.mlp.fc1")));
    refused(&tiny, &["text_encoder/model.safetensors", "missing", "mlp.fc1"]);

    // SDXL's class over the parts of Stable Diffusion.
    let tiny = Tiny::new();
    tiny.write("model/model_index.json", r#"{"_class_name": "StableDiffusionXLPipeline"}"#);
    refused(&tiny, &["text_encoder_2/config.json"]);
    crate::support::copy(&tiny.path("model/text_encoder"), &tiny.path("model/text_encoder_2"));
    crate::support::copy(&tiny.path("model/tokenizer"), &tiny.path("model/tokenizer_2"));
    refused(&tiny, &["unet/config.json", "cross_attention_dim is 8", "side by side 16"]);
}
