//! Reward models on tiny networks.
#![allow(clippy::unwrap_used, missing_docs, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use common::{CLIP_JSON, OPEN_CLIP_JSON, files, image, model, picture};
use craft_nn::clip::ClipModel;
use craft_nn::init::Init;
use craft_nn::open_clip::from_transformers;
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::weights::{self, TensorMap, to_vec};
use craft_rewards::preprocess::{Fit, Preprocess};
use craft_rewards::registry::{build, build_with};
use craft_rewards::{AestheticHead, MissingReason, Reward, RewardFiles, RewardKind, Towers};

fn hps(device: &Device) -> RewardFiles {
    let mut files = files();
    files.configs.insert("open_clip_config.json".to_owned(), OPEN_CLIP_JSON.to_owned());
    let tensors = from_transformers(&model(1, device).to_tensors());
    files.tensors.insert("open_clip_model.safetensors".to_owned(), tensors);
    files
}

fn pick(device: &Device) -> RewardFiles {
    let mut files = files();
    files.configs.insert("config.json".to_owned(), CLIP_JSON.to_owned());
    files.tensors.insert("model.safetensors".to_owned(), model(1, device).to_tensors());
    files
}

fn head(device: &Device) -> AestheticHead {
    AestheticHead::new(&mut Init::seeded(5, device), 10, [12, 7, 5, 3])
}

fn aesthetic(device: &Device) -> RewardFiles {
    let mut tower: TensorMap = model(1, device).to_tensors();
    tower.retain(|name, _| name.starts_with("vision_model.") || name.starts_with("visual_"));
    RewardFiles {
        configs: BTreeMap::from([("config.json".to_owned(), CLIP_JSON.to_owned())]),
        tensors: BTreeMap::from([
            ("model.safetensors".to_owned(), tower),
            ("head.safetensors".to_owned(), weights::export(&head(device))),
        ]),
    }
}

fn all(device: &Device) -> Vec<Box<dyn Reward>> {
    let of = |kind, files| build(kind, "r", files, device).unwrap();
    vec![
        of(RewardKind::HpsV2, hps(device)),
        of(RewardKind::PickScore, pick(device)),
        of(RewardKind::Aesthetic, aesthetic(device)),
    ]
}

/// Embeddings of length 1 of a picture and a text, straight from the model.
fn embeds(
    model: &ClipModel,
    preprocess: &Preprocess,
    pixels: &[u8],
    text: &str,
    pad: u32,
) -> (Tensor<2>, Tensor<2>) {
    let device = Device::flex();
    let data = preprocess.apply(image(pixels, 16, 16)).unwrap();
    let pixels = Tensor::<4>::from_data(TensorData::new(data, [1, 3, 16, 16]), &device);
    let configs = files().configs;
    let tokenizer = ClipTokenizer::from_files(
        &configs["vocab.json"],
        &configs["merges.txt"],
        configs.get("tokenizer_config.json").map(String::as_str),
        None,
    );
    let ids: Vec<i32> =
        tokenizer.unwrap().with_pad(pad).encode(text).ids.iter().map(|i| *i as i32).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, 8]), &device);
    (model.image_embeds(pixels), model.text_embeds(ids))
}

#[test]
fn scores_are_the_formulas() {
    let device = Device::flex();
    let model = model(1, &device);
    let pixels = picture(9, 16, 16);
    let rewards = all(&device);
    let found: Vec<f64> = rewards
        .iter()
        .map(|r| r.score(&[image(&pixels, 16, 16)], &["a red circle"])[0].clone().unwrap().get())
        .collect();
    let mut open = Preprocess::clip(Fit::Pad, 16);
    (open.mean, open.std) = ([0.4, 0.5, 0.6], [0.2, 0.3, 0.25]);
    let (i, t) = embeds(&model, &open, &pixels, "a red circle", 0);
    let cosine = to_vec((i * t).sum())[0];
    assert!((found[0] - f64::from(cosine)).abs() < 1e-5, "{} {cosine}", found[0]);
    let clip = Preprocess::clip(Fit::CentreCrop, 16);
    let (i, t) = embeds(&model, &clip, &pixels, "a red circle", 0);
    let scaled = to_vec((i.clone() * t).sum())[0] * 2.6592f32.exp();
    assert!((found[1] - f64::from(scaled)).abs() < 1e-4, "{} {scaled}", found[1]);
    let aesthetic = to_vec(head(&device).forward(i))[0];
    assert!((found[2] - f64::from(aesthetic)).abs() < 1e-5, "{} {aesthetic}", found[2]);
}

#[test]
fn hps_without_antialiasing_is_another_score() {
    let device = Device::flex();
    let pixels = picture(9, 61, 43);
    let score = |antialias: Option<&str>| {
        let mut files = hps(&device);
        if let Some(value) = antialias {
            let config = format!("{{\"antialias\": {value}}}");
            files.configs.insert("preprocessor_config.json".to_owned(), config);
        }
        let reward = build(RewardKind::HpsV2, "r", files, &device)?;
        Ok::<_, craft_rewards::RewardError>(
            reward.score(&[image(&pixels, 61, 43)], &["a red circle"])[0].clone().unwrap().get(),
        )
    };
    let default = score(None).unwrap();
    assert_eq!(default, score(Some("true")).unwrap());
    assert!((default - score(Some("false")).unwrap()).abs() > 1e-6);
    assert!(score(Some("0")).unwrap_err().to_string().contains("antialias"));
}

#[test]
fn hps_weights_of_the_other_version_are_refused_by_their_name() {
    let device = Device::flex();
    for (name, file, fits) in [
        ("hpsv2.1", "HPS_v2.1_compressed.pt", true),
        ("hpsv2.1", "HPS_v2_compressed.pt", false),
        ("hpsv2", "HPS_v2_compressed.pt", true),
        ("hpsv2", "HPS_v2.1_compressed.pt", false),
        ("hpsv2", "hpsv21.safetensors", false),
        ("hpsv2.1", "model.safetensors", true),
        ("mine", "HPS_v2_compressed.pt", true),
    ] {
        let mut files = hps(&device);
        let tensors = files.tensors.pop_first().unwrap().1;
        files.tensors.insert(file.to_owned(), tensors);
        let result = build(RewardKind::HpsV2, name, files, &device);
        assert_eq!(result.is_ok(), fits, "{name} from {file}");
        if let Err(error) = result {
            assert!(error.to_string().contains(file), "{error}");
        }
    }
}

#[test]
fn rewards_share_the_same_encoder_and_what_it_saw() {
    let device = Device::flex();
    let mut towers = Towers::shared();
    let mut with = |kind, files| build_with(kind, "r", files, &device, &mut towers).unwrap();
    let clip = pick(&device);
    let rewards = [
        with(RewardKind::Aesthetic, aesthetic(&device)),
        with(RewardKind::ClipScore, clip.clone()),
    ];
    assert_eq!(towers.image_towers(), 1);
    let pictures: Vec<Vec<u8>> = (0..5).map(|seed| picture(seed, 20, 16)).collect();
    let images: Vec<_> = pictures.iter().map(|p| image(p, 20, 16)).collect();
    let prompts = ["a red circle"; 5];
    let scores: Vec<Vec<f64>> = rewards
        .iter()
        .map(|r| r.score(&images, &prompts).into_iter().map(|s| s.unwrap().get()).collect())
        .collect();
    assert_eq!(towers.images_encoded(), 5);
    // Alone they give the same bits.
    for (kind, files, scores) in [
        (RewardKind::Aesthetic, aesthetic(&device), &scores[0]),
        (RewardKind::ClipScore, clip, &scores[1]),
    ] {
        let alone = build(kind, "r", files, &device).unwrap().score(&images, &prompts);
        assert_eq!(&alone.into_iter().map(|s| s.unwrap().get()).collect::<Vec<_>>(), scores);
    }
    // Other weights or another preprocessing are another encoder.
    let mut other = pick(&device);
    let weights = other.tensors.get_mut("model.safetensors").unwrap();
    weights.get_mut("visual_projection.weight").unwrap().data[0] += 1.0;
    let kept = build_with(RewardKind::ClipScore, "r", other, &device, &mut towers).unwrap();
    assert_eq!(towers.image_towers(), 2);
    let padded = build_with(RewardKind::ClipScoreH, "r", pick(&device), &device, &mut towers);
    assert_eq!(towers.image_towers(), 3);
    drop((kept, padded, rewards));
    assert_eq!(towers.image_towers(), 0);
}

#[test]
fn long_prompts_are_cut_and_counted() {
    let device = Device::flex();
    let reward = &all(&device)[0];
    assert_eq!(reward.tokens_cut("a red circle"), 0);
    assert_eq!(reward.tokens_cut("a red circle a red circle a red circle"), 3);
    let pixels = picture(9, 16, 16);
    let score = |text: &str| reward.score(&[image(&pixels, 16, 16)], &[text])[0].clone().unwrap();
    let cut = score("a red circle a red circle a red circle");
    assert_eq!(cut, score("a red circle a red circle a blue square"));
}

#[test]
fn a_score_does_not_depend_on_the_batch() {
    let device = Device::flex();
    let sizes = [(16, 16), (20, 16), (40, 31), (9, 12)];
    let pictures: Vec<(Vec<u8>, usize, usize)> = (0..37)
        .map(|i| {
            let (w, h) = sizes[i % sizes.len()];
            (picture(i as u32, w, h), w, h)
        })
        .collect();
    let images: Vec<_> = pictures.iter().map(|(p, w, h)| image(p, *w, *h)).collect();
    let texts: Vec<String> =
        (0..37).map(|i| format!("a red circle {}", "x".repeat(i % 5))).collect();
    let prompts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for reward in all(&device) {
        let together = reward.score(&images, &prompts);
        assert_eq!(together.len(), images.len());
        for i in 0..images.len() {
            let alone = reward.score(&images[i..=i], &prompts[i..=i]);
            let bits = |s: &Result<craft_rewards::Score, MissingReason>| {
                s.clone().unwrap().get().to_bits()
            };
            assert_eq!(bits(&alone[0]), bits(&together[i]), "{} {i}", reward.version());
        }
        let some = reward.score(&images[5..12], &prompts[5..12]);
        assert_eq!(some[3].clone().unwrap(), together[8].clone().unwrap());
    }
}

#[test]
fn what_has_no_score_has_a_reason() {
    let device = Device::flex();
    let pixels = picture(1, 16, 16);
    let good = image(&pixels, 16, 16);
    let bad = image(&pixels[1..], 16, 16);
    let empty = image(&[], 0, 4);
    for reward in all(&device) {
        let scores = reward.score(&[bad, good, empty], &["a", "b", "c"]);
        assert!(matches!(scores[0], Err(MissingReason::BadImage { .. })));
        assert_eq!(scores[1].clone().unwrap(), reward.score(&[good], &["b"])[0].clone().unwrap());
        assert!(matches!(scores[2], Err(MissingReason::BadImage { .. })));
        assert!(reward.score(&[], &[]).is_empty());
    }
    let scores = all(&device)[0].score(&[good, good], &["a"]);
    assert!(scores[0].is_ok() && matches!(scores[1], Err(MissingReason::NoPrompt)));
    let mut broken = pick(&device);
    for tensor in broken.tensors.values_mut() {
        tensor.get_mut("vision_model.post_layernorm.bias").unwrap().data[0] = f32::NAN;
    }
    let reward = build(RewardKind::PickScore, "r", broken, &device).unwrap();
    let scores = reward.score(&[good], &["a"]);
    assert!(matches!(scores[0], Err(MissingReason::NotFinite(_))));
}

#[test]
fn files_that_do_not_fit_are_named() {
    let device = Device::flex();
    let message = |kind, files| build(kind, "pocket-x", files, &device).unwrap_err().to_string();
    let mut files = hps(&device);
    files.configs.remove("merges.txt");
    assert!(message(RewardKind::HpsV2, files).contains("pocket-x: there is no tokenizer"));
    let mut files = pick(&device);
    files.configs.remove("config.json");
    assert!(message(RewardKind::PickScore, files).contains("config.json"));
    let mut files = pick(&device);
    files.tensors.clear();
    assert!(message(RewardKind::PickScore, files).contains("model.safetensors"));
    let mut files = aesthetic(&device);
    files.tensors.remove("head.safetensors");
    assert!(message(RewardKind::Aesthetic, files).contains("head.safetensors"));
    let mut files = aesthetic(&device);
    let head = files.tensors.get_mut("head.safetensors").unwrap();
    let bias = head.remove("layers.4.bias").unwrap();
    assert!(message(RewardKind::Aesthetic, files.clone()).contains("layers.4.bias"));
    let head = files.tensors.get_mut("head.safetensors").unwrap();
    head.insert("layers.4.bias".to_owned(), bias);
    head.get_mut("layers.0.weight").unwrap().shape = vec![10, 12];
    assert!(message(RewardKind::Aesthetic, files).contains("layers.0.weight"));
    for (key, value) in [
        ("resample", "2"),
        ("crop_size", "{\"height\": 16, \"width\": 24}"),
        ("size", "224"),
        ("do_normalize", "false"),
        ("image_std", "[1, 0, 1]"),
        ("image_mean", "[1, 0]"),
        ("antialias", "false"),
    ] {
        let mut files = pick(&device);
        let config = format!("{{\"{key}\": {value}}}");
        files.configs.insert("preprocessor_config.json".to_owned(), config);
        let message = message(RewardKind::PickScore, files);
        assert!(message.contains("preprocessor_config.json") && message.contains(key), "{message}");
    }
    let mut files = pick(&device);
    let config = CLIP_JSON.replace("\"vocab_size\": 700", "\"vocab_size\": 400");
    files.configs.insert("config.json".to_owned(), config);
    assert!(message(RewardKind::PickScore, files).contains("vocab.json"));
    assert!("hpsv9".parse::<RewardKind>().is_err());
    for kind in RewardKind::ALL {
        assert_eq!(kind.as_str().parse::<RewardKind>().unwrap(), kind);
    }
}
