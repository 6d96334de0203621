//! Single-file checkpoints: names as diffusers pairs them, and configs found from shapes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::Device;
use craft_nn::clip::{ClipTextConfig, ClipTextModel};
use craft_nn::init::Init;
use craft_nn::ldm::{
    Checkpoint, Family, Given, LdmError, Names, Part, Shapes, Skeleton, Take, inspect,
};
use craft_nn::unet::UNet2DConditionModel;
use craft_nn::unet_config::UNetConfig;
use craft_nn::vae::{AutoencoderKL, VaeConfig};
use craft_nn::weights;
use serde_json::{Value, json};

/// Blocks of the published checkpoints.
fn published(family: Family) -> Skeleton {
    let cross: &[bool] =
        if family == Family::Sdxl { &[false, true, true] } else { &[true, true, true, false] };
    Skeleton {
        layers: vec![2; cross.len()],
        down_attention: cross.to_vec(),
        up_attention: cross.iter().rev().copied().collect(),
        vae_levels: 4,
        vae_layers: 2,
    }
}

#[test]
fn names_are_those_of_diffusers() {
    for (file, family) in [("sd1", Family::Sd1), ("sd2", Family::Sd2), ("sdxl", Family::Sdxl)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/single_file");
        let text = std::fs::read_to_string(path.join(format!("{file}.tsv"))).unwrap();
        let names = Names::new(family, &published(family));
        let mut expected: BTreeMap<&str, BTreeSet<[&str; 3]>> = BTreeMap::new();
        for line in text.lines() {
            let [part, old, new, take] = line.split('\t').collect::<Vec<_>>()[..] else { panic!() };
            expected.entry(old).or_default().insert([part, new, take]);
            let part = *family.parts().iter().find(|p| p.folder() == part).unwrap();
            let (back, kind) = names.to_ldm(part, new).unwrap();
            assert_eq!((back.as_str(), word(kind)), (old, take), "{new}");
        }
        assert!(expected.len() > 900, "{}", expected.len());
        for (old, expected) in expected {
            let shape: &[usize] =
                if expected.iter().any(|e| e[2] == "square") { &[2, 2, 1, 1] } else { &[6, 2] };
            let pieces = names.to_diffusers(old, shape).unwrap();
            let found: BTreeSet<[&str; 3]> =
                pieces.iter().map(|p| [p.part.folder(), p.name.as_str(), word(p.take)]).collect();
            assert_eq!(found, expected, "{old}");
        }
    }
}

fn word(take: Take) -> &'static str {
    match take {
        Take::Whole => "whole",
        Take::Square => "square",
        Take::Transposed => "transposed",
        Take::Third(i) => ["third0", "third1", "third2"][i],
    }
}

/// A small model of a family: what the configs say, and the shapes that its single file has.
struct Small {
    family: Family,
    unet: Value,
    shapes: Shapes,
}

fn small(family: Family, change: impl FnOnce(&mut Value)) -> Small {
    let init = &mut Init::zeros(&Device::flex());
    let mut unet = match family {
        Family::Sd1 => json!({
            "block_out_channels": [32, 64, 64], "layers_per_block": [1, 2, 1], "cross_attention_dim": 64,
            "attention_head_dim": 8, "transformer_layers_per_block": [1, 1, 1],
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            "use_linear_projection": false,
        }),
        Family::Sd2 => json!({
            "block_out_channels": [64, 128], "layers_per_block": [1, 1], "cross_attention_dim": 64,
            "attention_head_dim": [1, 2], "transformer_layers_per_block": [1, 1],
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "use_linear_projection": true,
        }),
        Family::Sdxl => json!({
            "block_out_channels": [32, 64, 128], "layers_per_block": [1, 1, 1], "cross_attention_dim": 192,
            "attention_head_dim": [1, 1, 2], "transformer_layers_per_block": [1, 2, 3],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "use_linear_projection": true, "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 64,
        }),
    };
    for (key, value) in
        [("in_channels", json!(4)), ("out_channels", json!(4)), ("norm_num_groups", json!(32))]
    {
        unet[key] = value;
    }
    change(&mut unet);
    let config = UNetConfig::from_json(&unet.to_string()).unwrap();
    let vae = json!({
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": [32, 64],
        "layers_per_block": 1, "norm_num_groups": 32,
    });
    let vae = VaeConfig::from_json(&vae.to_string()).unwrap();
    let names = Names::new(family, &Skeleton::of(&config, &vae));
    let mut networks = vec![
        (Part::Unet, weights::shapes(&UNet2DConditionModel::new(init, &config))),
        (Part::Vae, weights::shapes(&AutoencoderKL::new(init, &vae))),
    ];
    for (part, width, layers, projection) in
        [(Part::Text, 64, 2, false), (Part::Text2, 128, 3, true)]
    {
        let config = ClipTextConfig {
            vocab_size: 96,
            hidden_size: width,
            intermediate_size: 2 * width,
            num_hidden_layers: layers,
            num_attention_heads: width / 64,
            max_position_embeddings: 12,
            projection_dim: 64,
            ..ClipTextConfig::default()
        };
        if family.parts().contains(&part) {
            networks.push((part, weights::shapes(&ClipTextModel::new(init, &config, projection))));
        }
    }
    let mut shapes = Shapes::new();
    for (part, network) in networks {
        for (name, mut shape) in network {
            let (old, take) = names.to_ldm(part, &name).unwrap();
            match take {
                Take::Whole => {}
                Take::Square => shape.extend([1, 1]),
                Take::Transposed => shape.reverse(),
                Take::Third(_) => shape[0] *= 3,
            }
            shapes.insert(old, shape);
        }
    }
    Small { family, unet, shapes }
}

impl Small {
    fn inspect(&self) -> Result<Checkpoint, LdmError> {
        inspect(&self.shapes, &BTreeMap::new(), &Given::default(), &mut |_| None)
    }
}

#[test]
fn configs_are_found_from_shapes() {
    for family in [Family::Sd1, Family::Sd2, Family::Sdxl] {
        let mut model = small(family, |_| ());
        model.shapes.insert("model_ema.decay".to_owned(), vec![]);
        let found = model.inspect().unwrap();
        assert_eq!((found.family, found.ignored), (model.family, 1));
        for (key, value) in model.unet.as_object().unwrap() {
            assert_eq!(&found.configs.unet[key], value, "{family:?} {key}");
        }
        let text = &found.configs.text;
        assert_eq!((&text["hidden_size"], &text["num_attention_heads"]), (&json!(64), &json!(1)));
        assert_eq!((&text["num_hidden_layers"], &text["vocab_size"]), (&json!(2), &json!(96)));
        assert_eq!(text["hidden_act"], if family == Family::Sd2 { "gelu" } else { "quick_gelu" });
        assert_eq!(found.configs.vae["block_out_channels"], json!([32, 64]));
        assert_eq!(
            found.configs.vae["scaling_factor"],
            if family == Family::Sdxl { 0.13025 } else { 0.18215 }
        );
        assert_eq!(found.configs.text_2.is_some(), family == Family::Sdxl);
        if let Some(text_2) = &found.configs.text_2 {
            assert_eq!(
                (&text_2["projection_dim"], &text_2["hidden_act"]),
                (&json!(64), &json!("gelu"))
            );
        }
        UNetConfig::from_json(&found.configs.unet.to_string()).unwrap();
        VaeConfig::from_json(&found.configs.vae.to_string()).unwrap();
    }
}

#[test]
fn the_prediction_type_is_found() {
    let predicts = |model: &Small, header: &[(&str, &str)]| {
        let texts = header.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let found =
            inspect(&model.shapes, &texts, &Given::default(), &mut |_| Some(vec![-0.1, 0.1]));
        found.unwrap().configs.scheduler["prediction_type"].clone()
    };
    let mut sdxl = small(Family::Sdxl, |_| ());
    assert_eq!(predicts(&sdxl, &[]), "epsilon");
    assert_eq!(predicts(&sdxl, &[("modelspec.prediction_type", "v")]), "v_prediction");
    sdxl.shapes.insert("v_pred".to_owned(), vec![]);
    assert_eq!(predicts(&sdxl, &[]), "v_prediction");
    // ComfyUI and A1111 go by the key.
    assert_eq!(predicts(&sdxl, &[("modelspec.prediction_type", "epsilon")]), "v_prediction");
    // Stable Diffusion 2 as published has four levels; a bias of its last block tells.
    let four = small(Family::Sd2, |unet| {
        unet["block_out_channels"] = json!([64, 64, 64, 64]);
        unet["layers_per_block"] = json!([2, 2, 2, 2]);
        unet["attention_head_dim"] = json!([1, 1, 1, 1]);
        unet["transformer_layers_per_block"] = json!([1, 1, 1, 1]);
        let (down, up) = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D");
        unet["down_block_types"] = json!([down, down, down, "DownBlock2D"]);
        unet["up_block_types"] = json!(["UpBlock2D", up, up, up]);
    });
    assert_eq!(predicts(&four, &[]), "v_prediction");
    let given =
        Given { scheduler: Some(json!({"prediction_type": "epsilon"})), ..Given::default() };
    let found = inspect(&four.shapes, &BTreeMap::new(), &given, &mut |_| Some(vec![-0.1, 0.1]));
    assert_eq!(found.unwrap().configs.scheduler["prediction_type"], "epsilon");
}

/// A model of v with a terminal signal-to-noise ratio of zero begins at the last timestep; with ε
/// the mark means nothing.
#[test]
fn a_terminal_snr_of_zero_is_sampled_from_the_last_timestep() {
    for family in [Family::Sd1, Family::Sdxl] {
        let schedule = |marks: &[&str], header: &[(&str, &str)]| {
            let mut model = small(family, |_| ());
            model.shapes.extend(marks.iter().map(|mark| ((*mark).to_owned(), vec![0])));
            let texts = header.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let found = inspect(&model.shapes, &texts, &Given::default(), &mut |_| None).unwrap();
            let s = found.configs.scheduler;
            let zero = s["rescale_betas_zero_snr"].as_bool().unwrap();
            assert_eq!(s["timestep_spacing"], if zero { "trailing" } else { "leading" });
            (s["prediction_type"] == "v_prediction", zero)
        };
        assert_eq!(schedule(&["v_pred", "ztsnr"], &[]), (true, true));
        assert_eq!(schedule(&["v_pred"], &[]), (true, false));
        assert_eq!(schedule(&["ztsnr"], &[]), (false, false));
        assert_eq!(schedule(&["ztsnr"], &[("modelspec.prediction_type", "v")]), (true, true));
        let trained = [("ss_v_parameterization", "True"), ("ss_zero_terminal_snr", "True")];
        assert_eq!(schedule(&[], &trained), (true, true));
    }
}

#[test]
fn what_cannot_be_used_says_why() {
    #[track_caller]
    fn fails(shapes: Shapes, words: &[&str]) {
        let result = inspect(&shapes, &BTreeMap::new(), &Given::default(), &mut |_| None);
        let text = result.unwrap_err().to_string();
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
    }
    let one = |name: &str| Shapes::from([(name.to_owned(), vec![2, 2])]);
    for (name, word) in [
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"),
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "--lora"),
        ("first_stage_model.decoder.up.0.block.0.conv1.weight", "autoencoder"),
        ("something", "unknown architecture (something)"),
    ] {
        fails(one(name), &[word, "Stable Diffusion 1.x", "SDXL base"]);
    }
    let sd1 = || small(Family::Sd1, |_| ()).shapes;
    let without = |prefix: &str| {
        let mut shapes = sd1();
        shapes.retain(|name, _| !name.starts_with(prefix));
        shapes
    };
    fails(without("first_stage_model."), &["no autoencoder", "first_stage_model.*"]);
    fails(without("cond_stage_model."), &["no text encoder"]);
    let mut inpainting = sd1();
    inpainting.get_mut("model.diffusion_model.input_blocks.0.0.weight").unwrap()[1] = 9;
    fails(inpainting, &["9 channels", "inpainting"]);
    let mut more = sd1();
    more.insert("model.diffusion_model.time_mix.weight".to_owned(), vec![1]);
    fails(more, &["model.diffusion_model.time_mix.weight", "no place in the unet"]);
    let mut refiner = one("conditioner.embedders.0.model.ln_final.weight");
    refiner.insert("model.diffusion_model.input_blocks.0.0.weight".to_owned(), vec![32, 4, 3, 3]);
    refiner.insert("model.diffusion_model.label_emb.0.0.weight".to_owned(), vec![128, 256]);
    fails(refiner, &["refiner"]);
    let odd = small(Family::Sd2, |unet| {
        unet["block_out_channels"] = json!([32, 96]);
        unet["attention_head_dim"] = json!([2, 3]);
    });
    fails(
        odd.shapes,
        &["attention_head_dim", "width 64", "32 channels", "--model-config", "unet/config.json"],
    );
}
