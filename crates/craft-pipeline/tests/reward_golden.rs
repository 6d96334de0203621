//! Reward models from files on disk to scores, against PyTorch (fixtures/rewards).
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use craft_pipeline::rewards::{RewardSource, RewardWeights, for_each, load_reward};
use craft_rewards::preprocess::{Fit, Preprocess};
use craft_rewards::{Reward, RgbImageRef};
use craft_store::{RgbImage, TensorReader, image};
use serde_json::Value;

/// Largest difference of a score, relative to its size.
const TOLERANCE: f64 = 1e-4;
/// Scores nearer to zero than this are compared as if they were so far from it: cosines, others.
const SMALL: [f64; 2] = [1e-2, 1.0];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/rewards")
}

fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixtures().join("scores.json")).unwrap()).unwrap()
}

fn names(expected: &Value) -> Vec<String> {
    serde_json::from_value(expected["images"].clone()).unwrap()
}

fn prompts(expected: &Value) -> Vec<String> {
    serde_json::from_value(expected["prompts"].clone()).unwrap()
}

/// The pictures as the fixture's script saw them: one is repeated to a huge one.
fn pictures(names: &[String]) -> Vec<RgbImage> {
    let read = |name: &String| {
        let small = image::read(&fixtures().join("images").join(name)).unwrap();
        if !name.starts_with("small-of-huge") {
            return small;
        }
        let (width, height) = (small.width * 50, small.height * 50);
        let mut data = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for x in 0..width {
                let at = ((y / 50) * small.width + x / 50) * 3;
                data.extend_from_slice(&small.data[at..at + 3]);
            }
        }
        RgbImage::new(width, height, data).unwrap()
    };
    names.iter().map(read).collect()
}

fn view(picture: &RgbImage) -> RgbImageRef<'_> {
    RgbImageRef { pixels: &picture.data, width: picture.width, height: picture.height }
}

/// Scores of all pictures with all prompts must be those of `expected[picture][prompt]`.
fn compare(reward: &dyn Reward, expected: &Value, all: &Value) {
    let names = names(all);
    let pictures = pictures(&names);
    let views: Vec<_> = pictures.iter().map(view).collect();
    let small = SMALL[usize::from(reward.range() != [-1.0, 1.0])];
    for (p, prompt) in prompts(all).iter().enumerate() {
        let scores = reward.score(&views, &vec![prompt.as_str(); views.len()]);
        for ((name, row), score) in names.iter().zip(expected.as_array().unwrap()).zip(scores) {
            if name.ends_with(".jpg") {
                // Its decoder here and Pillow's differ by some grey levels; see the test of pixels.
                continue;
            }
            let wanted = row[p].as_f64().unwrap();
            let found = score.unwrap().get();
            let error = (found - wanted).abs() / wanted.abs().max(small);
            assert!(
                error <= TOLERANCE,
                "{} of {name} for prompt {p}: {found}, expected {wanted} ({error:.1e})",
                reward.name()
            );
        }
    }
}

fn load(name: &str, weights: &str) -> Box<dyn Reward> {
    load_reward(name, &RewardWeights::parse(weights, &fixtures()), &Device::flex()).unwrap()
}

#[test]
fn hpsv21_from_its_torch_zip_is_open_clips() {
    let all = expected();
    compare(load("hpsv2.1", "hps,tokenizer").as_ref(), &all["hpsv2.1"]["smooth"], &all);
    // The same file named alone, its tokenizer in another folder.
    let file = load("mine", "hps/HPS_v2.1_compressed.pt,tokenizer");
    compare(file.as_ref(), &all["hpsv2.1"]["smooth"], &all);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("preprocessor_config.json"), r#"{"antialias": false}"#).unwrap();
    let weights = format!("hps,tokenizer,{}", dir.path().display());
    compare(load("hpsv2.1", &weights).as_ref(), &all["hpsv2.1"]["aliased"], &all);
}

#[test]
fn pickscore_is_transformers() {
    let all = expected();
    compare(load("pickscore", "pickscore,tokenizer").as_ref(), &all["pickscore"], &all);
}

#[test]
fn imagereward_is_blip_with_its_head() {
    let all = expected();
    let reward = load("imagereward", "imagereward");
    compare(reward.as_ref(), &all["imagereward"], &all);
    assert!(reward.tokens_cut(&prompts(&all)[2]) > 0 && reward.tokens_cut("a red circle") == 0);
    // Its kind shows in the file.
    compare(load("mine", "imagereward").as_ref(), &all["imagereward"], &all);
}

#[test]
fn mps_looks_with_its_cross_model() {
    let all = expected();
    // A pickled module, as it is published: in its folder, and where its kind shows in the file.
    compare(load("mps", "mps,tokenizer").as_ref(), &all["mps"], &all);
    let file = "mps/MPS_overall_checkpoint.pth";
    compare(load("mine", &format!("{file},tokenizer")).as_ref(), &all["mps"], &all);
    // Its state dict as safetensors.
    let dir = tempfile::tempdir().unwrap();
    let tensors = craft_store::tensors::read(&fixtures().join(file)).unwrap();
    let path = dir.path().join("model.safetensors");
    craft_store::tensors::write_map(&path, &tensors, craft_store::tensors::Dtype::F16).unwrap();
    let weights = format!("{},tokenizer", path.display());
    compare(load("mps", &weights).as_ref(), &all["mps"], &all);
}

#[test]
fn clipscore_is_openais() {
    let all = expected();
    let reward = load("clipscore", "clip-vit-large-patch14,tokenizer");
    compare(reward.as_ref(), &all["clipscore"], &all);
    assert!(reward.tokens_cut(&prompts(&all)[2]) > 0 && reward.tokens_cut("a red circle") == 0);
}

#[test]
fn the_aesthetic_head_finds_its_encoder() {
    let all = expected();
    let head = "sac+logos+ava1-l14-linearMSE.pth";
    // Beside it, named, and as one file of a folder of many.
    for weights in [head.to_owned(), format!("{head},clip-vit-large-patch14"), ".".to_owned()] {
        compare(load("aesthetic", &weights).as_ref(), &all["aesthetic"], &all);
    }
}

#[test]
fn rewards_without_weights_are_their_formulas() {
    let all = expected();
    let names = names(&all);
    let pictures = pictures(&names);
    let views: Vec<_> = pictures.iter().map(view).collect();
    for kind in ["jpeg-size", "colorfulness"] {
        let reward = load_reward(kind, &RewardWeights::default(), &Device::flex()).unwrap();
        let scores = reward.score(&views, &vec![""; views.len()]);
        for ((name, wanted), score) in names.iter().zip(all[kind].as_array().unwrap()).zip(scores) {
            let (wanted, found) = (wanted.as_f64().unwrap(), score.unwrap().get());
            let error = (found - wanted).abs() / wanted.abs().max(1e-9);
            assert!(error <= 1e-9, "{kind} of {name}: {found}, expected {wanted}");
        }
    }
}

#[test]
fn pixels_are_those_of_pillow_and_torchvision() {
    let names = names(&expected());
    let mut file = TensorReader::open(&fixtures().join("preprocessed.safetensors")).unwrap();
    for (name, picture) in names.iter().zip(pictures(&names)) {
        for (fit, kind) in [
            (Fit::CentreCrop, "floor"),
            (Fit::CentreCropEven, "even"),
            (Fit::Pad, "smooth"),
            (Fit::PadAliased, "aliased"),
        ] {
            let preprocess = Preprocess { fit, size: 28, mean: [0.0; 3], std: [1.0; 3] };
            let found = preprocess.apply(view(&picture)).unwrap();
            let wanted = file.read(&format!("{name}.{kind}")).unwrap();
            let scale = if kind == "floor" || kind == "even" { 255.0 } else { 1.0 };
            let pairs = found.iter().zip(&wanted.data);
            let worst = pairs.fold(0f32, |m, (a, b)| m.max((a - b / scale).abs()));
            let most = if name.ends_with(".jpg") { 3.0 } else { 0.2 };
            assert!(worst <= most / 255.0, "{kind} of {name}: {worst}");
        }
    }
}

#[test]
fn rewards_with_the_same_encoder_load_and_run_it_once() {
    let all = expected();
    let weights = |text: &str| RewardSource::Weights(RewardWeights::parse(text, &fixtures()));
    let (head, clip, pick) = (
        weights("sac+logos+ava1-l14-linearMSE.pth,clip-vit-large-patch14"),
        weights("clip-vit-large-patch14,tokenizer"),
        weights("pickscore,tokenizer"),
    );
    let rewards = [("aesthetic", &head), ("pickscore", &pick), ("clipscore", &clip)];
    let mut order = Vec::new();
    for_each(&rewards, &Device::flex(), |index, reward| {
        compare(reward, &all[rewards[index].0], &all);
        order.push(index);
        Ok(())
    })
    .unwrap();
    assert_eq!(order, [0, 2, 1], "rewards with a weight file in common come together");
}
