//! Published sizes: the networks that published configs describe have exactly the published tensors.
//! No values are made: networks stay empty, and files are holes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;

use burn::tensor::Device;
use craft_nn::clip::{ClipTextConfig, ClipTextModel, drop_buffers};
use craft_nn::init::Init;
use craft_nn::ldm::{Given, Part, Take, inspect};
use craft_nn::unet::UNet2DConditionModel;
use craft_nn::unet_config::UNetConfig;
use craft_nn::vae::{AutoencoderKL, VaeConfig};
use craft_nn::vae_names;
use craft_nn::weights::{check, shapes};
use craft_store::raw::{Format, RawReader};
use serde_json::{Value, json};

use super::facts::{Facts, Size, Tensor};

type Shapes = BTreeMap<String, Vec<usize>>;

/// Names and shapes of the network that a component's config describes.
fn network(component: &str, config: &Value) -> Shapes {
    let (mut zeros, json) = (Init::zeros(&Device::flex()), config.to_string());
    match component {
        "unet" => {
            let config = UNetConfig::from_json(&json).unwrap();
            shapes(&UNet2DConditionModel::new(&mut zeros, &config))
        }
        "vae" => shapes(&AutoencoderKL::new(&mut zeros, &VaeConfig::from_json(&json).unwrap())),
        _ => {
            let projection = config["architectures"][0] == "CLIPTextModelWithProjection";
            let config = ClipTextConfig::from_json(&json).unwrap();
            shapes(&ClipTextModel::new(&mut zeros, &config, projection))
        }
    }
}

#[test]
fn published_configs_describe_the_published_tensors() {
    let mut compared = 0;
    for model in Facts::all() {
        let facts = Facts::of(&model);
        for path in facts.files() {
            let Some((component, _)) = path.split_once('/') else { continue };
            let network = network(component, facts.text(&format!("{component}/config.json")));
            let tensors = facts.weights(path).tensors(Size::Published).into_iter();
            let today = |(name, (_, shape)): (String, Tensor)| {
                vae_names::current(&name, &shape).unwrap_or((name, shape))
            };
            let mut file: Shapes = tensors.map(today).collect();
            drop_buffers(&mut file);
            check(&network, &file).unwrap_or_else(|error| panic!("{model} {path}: {error}"));
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared}");
}

/// A safetensors file of these tensors as the library lays it out, its values a hole.
fn hole(path: &std::path::Path, tensors: &BTreeMap<String, Tensor>) -> u64 {
    let width = |format| match format {
        Format::I64 => 8,
        Format::F16 => 2,
        _ => 4,
    };
    let rank = |format| match format {
        Format::I64 => 0,
        Format::I32 => 1,
        Format::F32 => 2,
        _ => 3,
    };
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(name, (format, _))| (rank(*format), name.as_str()));
    let (mut text, mut at) = (r#"{"__metadata__":{"format":"pt"}"#.to_owned(), 0u64);
    for (name, (format, shape)) in order {
        let end = at + shape.iter().map(|n| *n as u64).product::<u64>() * width(*format);
        let entry =
            json!({"dtype": format!("{format:?}"), "shape": shape, "data_offsets": [at, end]});
        text.push_str(&format!(",{}:{entry}", json!(name)));
        at = end;
    }
    text.push('}');
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut file = File::create(path).unwrap();
    file.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let length = 8 + text.len() as u64 + at;
    file.set_len(length).unwrap();
    length
}

/// What a file has of each network, by its diffusers name, with the shape it gets there.
fn pieces(found: &craft_nn::ldm::Checkpoint, file: &Shapes) -> BTreeMap<Part, Shapes> {
    let mut all: BTreeMap<Part, Shapes> = BTreeMap::new();
    for (name, pieces) in &found.pieces {
        for piece in pieces {
            let shape = &file[name];
            let shape = match piece.take {
                Take::Whole => shape.clone(),
                Take::Square => shape[..2].to_vec(),
                Take::Transposed => shape.iter().rev().copied().collect(),
                Take::Third(_) => [&[shape[0] / 3], &shape[1..]].concat(),
            };
            all.entry(piece.part).or_default().insert(piece.name.clone(), shape);
        }
    }
    all
}

/// Keys of a UNet's config that its tensors do not tell all of.
const TOLD: [&str; 6] = [
    "block_out_channels",
    "cross_attention_dim",
    "down_block_types",
    "in_channels",
    "up_block_types",
    "use_linear_projection",
];

#[test]
fn single_files_of_published_sizes_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hole.safetensors");
    let mut read = 0;
    for model in Facts::all() {
        let facts = Facts::of(&model);
        for file in facts.files().filter(|f| f.ends_with(".safetensors") && !f.contains('/')) {
            let weights = facts.weights(file);
            let tensors = weights.tensors(Size::Published);
            if !tensors.contains_key("model.diffusion_model.out.0.weight") {
                continue;
            }
            let length = hole(&path, &tensors);
            if let Some(published) = weights.exact_length() {
                // Without metadata, sd_turbo's header is shorter.
                assert!(length.abs_diff(published) <= 40, "{file}: {length}, not {published}");
            }
            let shapes = RawReader::open(&path).unwrap().shapes();
            let mut bias = |_: &str| Some(vec![0.0, 1.0]); // Spread as in a v model.
            let found = inspect(&shapes, &BTreeMap::new(), &Given::default(), &mut bias);
            let found = found.unwrap_or_else(|error| panic!("{file}: {error}"));
            for (part, of_file) in pieces(&found, &shapes) {
                let (component, config) = match part {
                    Part::Unet => ("unet", &found.configs.unet),
                    Part::Vae => ("vae", &found.configs.vae),
                    Part::Text => ("text_encoder", &found.configs.text),
                    Part::Text2 => ("text_encoder_2", found.configs.text_2.as_ref().unwrap()),
                };
                let published = facts.text(&format!("{component}/config.json"));
                check(&network(component, published), &of_file)
                    .unwrap_or_else(|error| panic!("{file}, {component}: {error}"));
                check(&network(component, config), &of_file)
                    .unwrap_or_else(|error| panic!("{file}, {component} as found: {error}"));
                if part == Part::Unet {
                    for key in TOLD {
                        let published = match &published[key] {
                            Value::Null => json!(false),
                            value => value.clone(),
                        };
                        assert_eq!(config[key], published, "{file}: {key}");
                    }
                    assert_eq!(heads(config), heads(published), "{file}");
                }
                for key in ["num_attention_heads", "hidden_act"] {
                    assert_eq!(config[key], published[key], "{file}, {component}: {key}");
                }
            }
            read += 1;
        }
    }
    assert!(read >= 11, "{read}");
}

/// Attention heads by level.
fn heads(unet: &Value) -> Vec<u64> {
    let levels = unet["block_out_channels"].as_array().unwrap().len();
    match &unet["attention_head_dim"] {
        Value::Array(list) => list.iter().map(|n| n.as_u64().unwrap()).collect(),
        one => vec![one.as_u64().unwrap(); levels],
    }
}

/// Files of published lengths that are opened by their header alone.
#[test]
fn a_header_of_published_length_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hole.safetensors");
    let mut exact = 0;
    for model in Facts::all() {
        let facts = Facts::of(&model);
        for file in facts.files().filter(|f| f.ends_with(".safetensors")) {
            let weights = facts.weights(file);
            let tensors = weights.tensors(Size::Published);
            let length = hole(&path, &tensors);
            if weights.exact_length().is_some_and(|published| published == length) {
                exact += 1;
            }
            let reader = RawReader::open(&path).unwrap();
            assert_eq!(reader.shapes().len(), tensors.len(), "{model} {file}");
        }
    }
    fs::remove_file(&path).unwrap();
    assert!(exact >= 20, "{exact} files have the published length to the byte");
}
