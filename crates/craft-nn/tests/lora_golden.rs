//! LoRA files of both dialects against diffusers' and PEFT's merge (fixtures/lora).
#![allow(clippy::unwrap_used, missing_docs, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeMap;

use burn::tensor::Device;
use common::{error, path, read, text};
use craft_nn::init::Init;
use craft_nn::lora::{Adapter, Component, KohyaNames, LoraError, Pair, merge, unplaced};
use craft_nn::unet::UNet2DConditionModel;
use craft_nn::unet_config::UNetConfig;
use craft_nn::weights::{self, HostTensor, TensorMap};
use safetensors::SafeTensors;

fn unet() -> UNet2DConditionModel {
    let config = UNetConfig::from_json(&text("unet/sd15/config.json")).unwrap();
    let empty = UNet2DConditionModel::new(&mut Init::zeros(&Device::flex()), &config);
    weights::load(empty, read("unet/sd15/diffusion_pytorch_model.safetensors").0).unwrap()
}

fn header(name: &str) -> BTreeMap<String, String> {
    let bytes = std::fs::read(path(name)).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    header.metadata().clone().unwrap_or_default().into_iter().collect()
}

fn parse(tensors: TensorMap, header: &BTreeMap<String, String>) -> Result<Adapter, LoraError> {
    Adapter::from_tensors(tensors, header, &[(Component::Unet, weights::shapes(&unet()))])
}

#[test]
fn both_dialects_merge_to_what_diffusers_fuses() {
    let (expected, _) = read("lora/merged.safetensors");
    for name in ["lora/peft.safetensors", "lora/kohya.safetensors"] {
        let adapter = parse(read(name).0, &header(name)).unwrap();
        assert_eq!(adapter.len(), expected.len());
        let before = weights::export(&unet());
        let merged = weights::export(&merge(unet(), &adapter.components[&Component::Unet], 1.0));
        for (parameter, values) in &merged {
            match expected.get(parameter) {
                Some(expected) => {
                    assert_ne!(values, &before[parameter]);
                    let error = error(&values.data, &expected.data);
                    assert!(error < 1e-6, "{name}: {parameter}: relative error {error}");
                }
                None => assert_eq!(values, &before[parameter], "{name}: {parameter}"),
            }
        }
    }
}

#[test]
fn strength_scales_the_change() {
    let name = "lora/kohya.safetensors";
    let adapter = parse(read(name).0, &header(name)).unwrap();
    let pairs = &adapter.components[&Component::Unet];
    let there_and_back = merge(merge(unet(), pairs, 0.5), pairs, -0.5);
    for (name, values) in weights::export(&there_and_back) {
        let error = error(&values.data, &weights::export(&unet())[&name].data);
        assert!(error < 1e-6, "{name}: {error}");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let none = BTreeMap::new();
    let (kohya, _) = read("lora/kohya.safetensors");
    let key = kohya.keys().find(|k| k.ends_with("to_q.lora_down.weight")).unwrap().clone();
    let module = key.strip_suffix(".lora_down.weight").unwrap().to_owned();

    let mut other = kohya.clone();
    let tensor = other[&key].clone();
    for i in 0..7 {
        other.insert(
            format!("lora_unet_down_blocks_{i}_elsewhere.lora_down.weight"),
            tensor.clone(),
        );
    }
    let message = parse(other, &none).unwrap_err().to_string();
    for word in ["7 of", "lora_unet_down_blocks_0_elsewhere", "and 2 more", "another model"] {
        assert!(message.contains(word), "{message}");
    }

    let mut half = kohya.clone();
    half.remove(&key);
    assert_eq!(
        parse(half, &none).unwrap_err(),
        LoraError::Half { module: module.clone(), missing: "lora_down (lora_A)" }
    );

    let mut wide = kohya.clone();
    wide.insert(key.clone(), HostTensor { shape: vec![2, 5], data: vec![0.0; 10] });
    let message = parse(wide, &none).unwrap_err().to_string();
    assert!(message.contains(&module) && message.contains("[2, 5]"), "{message}");

    let mut kind = kohya;
    kind.insert(format!("{module}.dora_scale"), tensor);
    let message = parse(kind, &none).unwrap_err().to_string();
    assert!(message.contains("dora_scale") && message.contains("not supported"), "{message}");

    assert!(matches!(parse(TensorMap::new(), &none), Err(LoraError::Empty(_))));
}

#[test]
fn older_diffusers_keys_name_the_same_modules() {
    let (peft, _) = read("lora/peft.safetensors");
    let older: TensorMap = peft
        .iter()
        .filter(|(key, _)| key.contains("attn1.to_"))
        .map(|(key, tensor)| {
            let key =
                key.replace("attn1.to_out.0", "attn1.to_out").replace("attn1.", "attn1.processor.");
            let key = key.replace(".lora_A", "_lora.down").replace(".lora_B", "_lora.up");
            (key, tensor.clone())
        })
        .collect();
    let found = parse(older, &BTreeMap::new()).unwrap();
    let new = parse(peft, &header("lora/peft.safetensors")).unwrap();
    let pairs = &found.components[&Component::Unet];
    assert!(pairs.keys().any(|name| name.ends_with("attn1.to_out.0.weight")));
    for (name, pair) in pairs {
        assert_eq!((pair.scale, &pair.up), (1.0, &new.components[&Component::Unet][name].up));
        assert_eq!(new.components[&Component::Unet][name].scale, 1.5);
    }
}

#[test]
fn written_files_have_the_names_of_others_and_read_back() {
    let (kohya, _) = read("lora/kohya.safetensors");
    let adapter = parse(kohya.clone(), &BTreeMap::new()).unwrap();
    assert_eq!(adapter.to_kohya(&KohyaNames::default()), kohya);
    let (peft, _) = read("lora/peft.safetensors");
    let written = adapter.to_diffusers();
    assert_eq!(written.keys().collect::<Vec<_>>(), peft.keys().collect::<Vec<_>>());
    let back = parse(written, &BTreeMap::new()).unwrap();
    let change = |adapter: &Adapter| {
        let merged = merge(unet(), &adapter.components[&Component::Unet], 1.0);
        weights::export(&merged)
    };
    for (name, values) in change(&back) {
        assert!(error(&values.data, &change(&adapter)[&name].data) < 1e-6, "{name}");
    }
}

#[test]
fn the_nearest_adapter_of_a_low_rank_change_is_the_change() {
    let before = weights::export(&unet());
    for (name, mut change) in read("lora/merged.safetensors").0 {
        change.data.iter_mut().zip(&before[&name].data).for_each(|(new, old)| *new -= old);
        for rank in [2, 5] {
            let pair = Pair::nearest(&change, rank);
            assert_eq!((pair.rank(), pair.up.shape[1]), (rank, rank));
            let mut rebuilt = vec![0.0; change.data.len()];
            pair.add_to(&mut rebuilt, 1.0);
            assert!(error(&rebuilt, &change.data) < 1e-4, "{name} at rank {rank}");
        }
        // Rank 1 takes the larger one of two singular values, or one of two that are nearly equal.
        let mut rest = change.data.clone();
        Pair::nearest(&change, 1).add_to(&mut rest, -1.0);
        let squares = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>();
        let share = squares(&rest) / squares(&change.data);
        assert!(share > 1e-6 && share < 0.55, "{name}: {share}");
    }
}

/// A module of fixtures/lora/names_*.tsv: network, name in diffusers, name in files, programs that
/// place it.
fn modules(family: &str) -> Vec<(Component, String, String, String)> {
    let all = text(&format!("lora/names_{family}.tsv"));
    let one = |line: &str| {
        let [part, module, name, programs] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let component = match part {
            "unet" => Component::Unet,
            "text_encoder" => Component::TextEncoder,
            _ => Component::TextEncoder2,
        };
        (component, module.to_owned(), name.to_owned(), programs.to_owned())
    };
    all.lines().map(one).collect()
}

#[test]
fn names_of_files_are_those_that_programs_place() {
    for family in ["sd1", "sd2", "sdxl"] {
        let modules = modules(family);
        let parameter = |module: &str| format!("{module}.weight");
        let mut model: BTreeMap<Component, BTreeMap<String, Vec<usize>>> = BTreeMap::new();
        // Blocks are known by all parameters of a denoiser, norms among them.
        for line in text(&format!("single_file/{family}.tsv")).lines() {
            let [part, _, name, _] = line.split('\t').collect::<Vec<_>>()[..] else { panic!() };
            if part == "unet" {
                model.entry(Component::Unet).or_default().insert(name.to_owned(), vec![1]);
            }
        }
        let mut adapter = Adapter::default();
        for (component, module, _, _) in &modules {
            let scalar = HostTensor { shape: vec![1, 1], data: vec![0.0] };
            let pair = Pair { down: scalar.clone(), up: scalar, scale: 1.0 };
            adapter.components.entry(*component).or_default().insert(parameter(module), pair);
            model.entry(*component).or_default().insert(parameter(module), vec![1, 1]);
        }
        let names = KohyaNames::of(&model[&Component::Unet]);
        let written = adapter.to_kohya(&names);
        assert_eq!(written.len(), 3 * modules.len(), "{family}: a name stands for two modules");
        for (component, module, name, programs) in &modules {
            assert_eq!(&names.module(*component, module), name, "{family}");
            assert!(written.contains_key(&format!("{name}.lora_up.weight")), "{name}");
            // ComfyUI and diffusers place all of it; what others do not, is told.
            let told = unplaced([(*component, parameter(module).as_str())].into_iter());
            for (letter, program) in
                [("C", "ComfyUI"), ("A", "A1111"), ("K", "sd-scripts"), ("D", "diffusers")]
            {
                let said = told.iter().any(|lacking| lacking.program == program);
                assert_eq!(said, !programs.contains(letter), "{family}: {program}: {module}");
            }
        }
        // What is written is read back, and names of before are.
        let model: Vec<_> = model.into_iter().collect();
        let read = |tensors| Adapter::from_tensors(tensors, &BTreeMap::new(), &model).unwrap();
        assert_eq!(read(written), adapter, "{family}");
        assert_eq!(read(adapter.to_kohya(&KohyaNames::default())), adapter, "{family}");
        assert!(modules.len() > 100);
    }
}
