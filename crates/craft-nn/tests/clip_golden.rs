//! CLIP networks against transformers and open_clip (fixtures/clip).
#![allow(clippy::unwrap_used, missing_docs, clippy::disallowed_methods)]

mod common;

use burn::tensor::{Device, Tensor};
use common::{close_gradients, ids, tensor};
use craft_nn::clip::{
    ClipConfig, ClipModel, ClipTextConfig, ClipTextModel, ClipVisionConfig, ClipVisionModel,
};
use craft_nn::open_clip::{OpenClipConfig, from_transformers, to_transformers};
use craft_nn::weights::{HostTensor, TensorMap, to_vec};

fn text(name: &str) -> String {
    common::text(&format!("clip/{name}"))
}

fn read(name: &str) -> (TensorMap, common::Ints) {
    common::read(&format!("clip/{name}"))
}

#[track_caller]
fn close<const D: usize>(found: Tensor<D>, expected: &HostTensor) {
    common::close(found, expected, 1e-5);
}

#[test]
fn dual_encoder_matches_transformers() {
    let device = Device::flex();
    let config = ClipConfig::from_json(&text("clip_config.json")).unwrap();
    let (weights, _) = read("clip_model.safetensors");
    let model = ClipModel::from_tensors(&config, weights.clone(), &device).unwrap();
    assert_eq!(model.to_tensors(), weights);
    let (io, int) = read("clip_io.safetensors");
    let images = model.image_embeds(tensor(&io["pixel_values"], &device));
    let texts = model.text_embeds(ids(&int["input_ids"], &device));
    close(images.clone(), &io["image_embeds"]);
    close(texts.clone(), &io["text_embeds"]);
    let logits = images.matmul(texts.transpose()) * model.scale().unsqueeze::<2>();
    close(logits, &io["logits_per_image"]);

    let vision = ClipVisionConfig::from_json(&text("clip_config.json")).unwrap();
    let vision = ClipVisionModel::from_tensors(&vision, weights.clone(), &device).unwrap();
    let out = vision.forward(tensor(&io["pixel_values"], &device));
    close(out.last_hidden_state, &io["vision_last_hidden_state"]);
    assert!(out.image_embeds.is_some());

    let only_text: TensorMap =
        weights.into_iter().filter(|(n, _)| n.starts_with("text_model.")).collect();
    // As transformers 5 saves the tower alone.
    let bare = only_text.iter().map(|(n, t)| (n["text_model.".len()..].to_owned(), t.clone()));
    let bare = ClipTextModel::from_tensors(&config.text_config, bare.collect(), &device).unwrap();
    let bare = bare.forward(ids(&int["input_ids"], &device));
    close(bare.last_hidden_state, &io["text_last_hidden_state"]);
    let only_text = ClipTextModel::from_tensors(&config.text_config, only_text, &device).unwrap();
    let out = only_text.forward(ids(&int["input_ids"], &device));
    close(out.last_hidden_state, &io["text_last_hidden_state"]);
    assert!(out.text_embeds.is_none());
}

#[test]
fn text_encoder_and_its_gradients_match_transformers() {
    let device = Device::flex().autodiff();
    let config = ClipTextConfig::from_json(&text("text_config.json")).unwrap();
    let (mut weights, _) = read("text_model.safetensors");
    weights.insert(
        "text_model.embeddings.position_ids".to_owned(),
        HostTensor { shape: vec![1, 9], data: vec![0.0; 9] },
    );
    let model = ClipTextModel::from_tensors(&config, weights, &device).unwrap();
    let (io, int) = read("text_io.safetensors");
    let out = model.forward(ids(&int["input_ids"], &device));
    let embeds = out.text_embeds.unwrap();
    close(out.last_hidden_state, &io["last_hidden_state"]);
    close(out.penultimate_hidden_state, &io["penultimate_hidden_state"]);
    close(out.pooled, &io["pooled"]);
    close(embeds.clone(), &io["text_embeds"]);
    let loss = (embeds * tensor(&io["direction"], &device)).sum();
    let gradients = loss.backward();
    close_gradients(&model, &gradients, &io, 1e-4);
}

#[test]
fn open_clip_file_matches_open_clip() {
    let device = Device::flex();
    let config = OpenClipConfig::from_json(&text("open_clip_config.json")).unwrap();
    assert_eq!(config.mean.unwrap()[0], 0.481_454_66);
    let (weights, _) = read("open_clip_model.safetensors");
    let renamed = to_transformers(weights.clone()).unwrap();
    assert_eq!(from_transformers(&renamed), weights);
    let model = ClipModel::from_tensors(&config.clip, renamed, &device).unwrap();
    let (io, int) = read("open_clip_io.safetensors");
    close(model.image_features(tensor(&io["pixel_values"], &device)), &io["image_embeds"]);
    close(model.text_features(ids(&int["input_ids"], &device)), &io["text_embeds"]);
}

#[test]
fn the_first_end_token_stands_for_the_text() {
    // What follows the end token changes nothing, with either rule.
    let device = Device::flex();
    let (weights, _) = read("text_model.safetensors");
    for (eos, end) in [(2, 39), (17, 17)] {
        let mut config = ClipTextConfig::from_json(&text("text_config.json")).unwrap();
        config.eos_token_id = eos;
        let model = ClipTextModel::from_tensors(&config, weights.clone(), &device).unwrap();
        let row = |tail: [i64; 3]| {
            let row = [[3, 5, end, tail[0], tail[1], tail[2]]];
            to_vec(model.forward(Tensor::from_data(row, &device)).pooled)
        };
        assert_eq!(row([end, end, end]), row([0, 0, 0]));
        assert_eq!(row([1, end, 4]), row([0, 0, 0]));
    }
}

#[test]
fn a_text_alone_is_a_text_in_a_batch() {
    let device = Device::flex();
    let config = ClipConfig::from_json(&text("clip_config.json")).unwrap();
    let (weights, _) = read("clip_model.safetensors");
    let model = ClipModel::from_tensors(&config, weights, &device).unwrap();
    let (io, int) = read("clip_io.safetensors");
    let pixels: Tensor<4> = tensor(&io["pixel_values"], &device);
    let ids = ids(&int["input_ids"], &device);
    let images = to_vec(model.image_features(pixels.clone()));
    let texts = to_vec(model.text_features(ids.clone()));
    for b in 0..3 {
        let image = to_vec(model.image_features(pixels.clone().narrow(0, b, 1)));
        assert_eq!(image, images[b * 10..(b + 1) * 10]);
        let text = to_vec(model.text_features(ids.clone().narrow(0, b, 1)));
        assert_eq!(text, texts[b * 10..(b + 1) * 10]);
    }
}
