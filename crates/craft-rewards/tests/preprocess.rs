//! Resizing and normalisation against Pillow and torchvision (fixtures/clip).
#![allow(clippy::unwrap_used, missing_docs, clippy::disallowed_methods)]

mod common;

use common::{image, picture};
use craft_rewards::preprocess::{Fit, Preprocess, resize_float, resize_pillow};
use safetensors::SafeTensors;

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

#[test]
fn pillow_and_torchvision_agree() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/clip/preprocess.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for index in 0..5 {
        let get = |kind: &str| file.tensor(&format!("{kind}.{index}")).unwrap();
        let source = get("image");
        let picture = image(source.data(), source.shape()[1], source.shape()[0]);
        let pil = get("pil");
        let resized = resize_pillow(picture, pil.shape()[1], pil.shape()[0]);
        assert_eq!(resized, pil.data(), "bytes of image {index}");
        let crop = Preprocess::clip(Fit::CentreCrop, 12).apply(picture).unwrap();
        assert!(worst(&crop, &floats(get("clip").data())) < 1e-6);
        let pad = Preprocess::clip(Fit::Pad, 12).apply(picture).unwrap();
        let error = worst(&pad, &floats(get("hps").data()));
        assert!(error < 1e-5, "image {index}: {error}");
    }
}

#[test]
fn odd_crops_and_aliased_padding_agree_with_torchvision() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/preprocess/cases.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (mut crops_differ, mut pads_differ) = (0, 0);
    for index in 0..8 {
        let get = |kind: &str| file.tensor(&format!("{kind}.{index}")).unwrap();
        let source = get("image");
        let picture = image(source.data(), source.shape()[1], source.shape()[0]);
        let apply = |fit| {
            let preprocess = Preprocess { fit, size: 12, mean: [0.0; 3], std: [1.0; 3] };
            preprocess.apply(picture).unwrap()
        };
        let (floor, even) = (apply(Fit::CentreCrop), apply(Fit::CentreCropEven));
        assert!(worst(&floor, &floats(get("floor").data())) < 1e-6, "crop of image {index}");
        assert!(worst(&even, &floats(get("even").data())) < 1e-6, "even crop of image {index}");
        let (smooth, aliased) = (apply(Fit::Pad), apply(Fit::PadAliased));
        assert!(worst(&smooth, &floats(get("smooth").data())) < 1e-5, "image {index}");
        let error = worst(&aliased, &floats(get("aliased").data()));
        assert!(error < 1e-5, "image {index} without antialiasing: {error}");
        crops_differ += usize::from(worst(&floor, &even) > 0.1);
        pads_differ += usize::from(worst(&smooth, &aliased) > 0.1);
    }
    assert!(crops_differ > 0 && pads_differ > 0, "{crops_differ} {pads_differ}");
}

#[test]
fn a_picture_of_the_right_size_is_only_normalised() {
    let pixels = picture(3, 64, 64);
    let source = image(&pixels, 64, 64);
    assert_eq!(resize_pillow(source, 64, 64), pixels);
    let plane = |c: usize| pixels.iter().skip(c).step_by(3).map(|b| f32::from(*b) / 255.0);
    let expected: Vec<f32> = (0..3).flat_map(plane).collect();
    assert_eq!(resize_float(source, 64, 64), expected);
    let crop = Preprocess::clip(Fit::CentreCrop, 64).apply(source).unwrap();
    let pad = Preprocess::clip(Fit::Pad, 64).apply(source).unwrap();
    assert_eq!(crop, pad);
    assert_eq!(crop[0], (expected[0] - 0.481_454_66) / 0.268_629_54);
}

#[test]
fn a_constant_picture_stays_constant() {
    for (width, height) in [(5, 5), (100, 100), (13, 13)] {
        let pixels = vec![77u8; width * height * 3];
        let out = resize_pillow(image(&pixels, width, height), 16, 16);
        assert!(out.iter().all(|b| *b == 77));
    }
}

#[test]
fn padding_is_black_before_normalisation() {
    let pixels = vec![255u8; 64 * 16 * 3];
    let preprocess = Preprocess { fit: Fit::Pad, size: 16, mean: [0.0; 3], std: [1.0; 3] };
    let out = preprocess.apply(image(&pixels, 64, 16)).unwrap();
    for (i, v) in out[..256].iter().enumerate() {
        let inside = (6..10).contains(&(i / 16));
        assert!((v - f32::from(u8::from(inside))).abs() < 1e-6, "{i}: {v}");
    }
}
