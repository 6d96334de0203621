//! Exports as other programs read them, in the number format that is asked for, and whatever kills one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use craft_nn::init::Init;
use craft_nn::ldm::{Family, Names, Part, Skeleton};
use craft_nn::unet::UNet2DConditionModel;
use craft_nn::unet_config::UNetConfig;
use craft_nn::vae::VaeConfig;
use craft_nn::weights;
use craft_store::hash::{sha256_bytes, sha256_dir, sha256_file};
use craft_store::tensors::{self, Dtype, TensorReader};
use serde_json::{Value, json};

use crate::support::Tiny;

const UNET: &str = "model/unet/diffusion_pytorch_model.safetensors";
const LORA: [&str; 6] =
    ["--set", "train.mode=lora", "--set", "train.lora.rank=2", "--set", "train.lora.targets=all"];

fn run(tiny: &Tiny, out: &str, more: &[&str]) {
    tiny.expect(&[&["run", "recipe.toml", "--out", out, "-q"], more].concat(), 0, &[]);
}

/// Exports and returns the line of `--json`.
fn export(tiny: &Tiny, from: &str, format: &str, to: &str, more: &[&str]) -> Value {
    let args = ["export", from, "--format", format, "--out", to, "--json"];
    serde_json::from_str(&tiny.expect(&[&args[..], more].concat(), 0, &[])).unwrap()
}

/// Rounds a weight file to 16 bits.
fn narrow(path: &Path) {
    let all = tensors::read(path).unwrap();
    tensors::write_map(path, &all, Dtype::F16).unwrap();
}

/// Number formats of a file's tensors whose names contain a text.
fn formats(path: &Path, with: &str) -> Vec<String> {
    let file = TensorReader::open(path).unwrap();
    let names = file.names().into_iter().filter(|name| name.contains(with));
    let mut all: Vec<String> = names.map(|name| file.dtype(&name).unwrap()).collect();
    all.sort();
    all.dedup();
    all
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut all: Vec<String> =
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

#[test]
fn an_export_has_the_number_format_of_its_base_or_the_one_asked_for() {
    let tiny = Tiny::new();
    narrow(&tiny.path(UNET));
    narrow(&tiny.path("model/text_encoder/model.safetensors"));
    for (run_name, more) in [("full", &[][..]), ("lora", &LORA[..])] {
        run(&tiny, run_name, more);
        for (flag, wanted, vae) in [
            ("base", "F16", "F32"),
            ("f16", "F16", "F16"),
            ("bf16", "BF16", "BF16"),
            ("f32", "F32", "F32"),
        ] {
            let at = |what: &str| format!("{run_name}-{flag}-{what}");
            let dtype = ["--dtype", flag];
            let to = at("s.safetensors");
            let line = export(&tiny, run_name, "single-file", &to, &dtype);
            assert_eq!(line["dtype"], wanted.to_lowercase(), "{to}");
            assert_eq!(formats(&tiny.path(&to), "model.diffusion_model."), [wanted], "{to}");
            assert_eq!(formats(&tiny.path(&to), "cond_stage_model."), [wanted], "{to}");
            assert_eq!(formats(&tiny.path(&to), "first_stage_model."), [vae], "{to}");
            assert_eq!(flag == "f32", line["max_difference"] == 0 && wanted == "F32", "{line}");
            let to = at("d");
            export(&tiny, run_name, "diffusers", &to, &dtype);
            let file = tiny.path(&to).join("unet/diffusion_pytorch_model.safetensors");
            assert_eq!(formats(&file, ""), [wanted], "{to}");
            for (dialect, factor) in [("lora-kohya", "lora_up"), ("lora-diffusers", "lora_B")] {
                let to = at(&format!("{dialect}.safetensors"));
                let line = export(&tiny, run_name, dialect, &to, &dtype);
                assert_eq!(line["dtype"], wanted.to_lowercase());
                assert_eq!(formats(&tiny.path(&to), factor), [wanted], "{to}");
            }
            let to = tiny.path(&at("lora-kohya.safetensors"));
            assert_eq!(formats(&to, ".alpha"), ["F32"]);
        }
        let size = |flag: &str| {
            std::fs::metadata(tiny.path(&format!("{run_name}-{flag}-s.safetensors"))).unwrap().len()
        };
        assert!(size("f16") * 3 < size("f32") * 2, "{} {}", size("f16"), size("f32"));
    }
    // A base in 32 bits stays so, without any rounding.
    let tiny = Tiny::new();
    run(&tiny, "out", &LORA);
    for format in ["single-file", "diffusers", "lora-kohya"] {
        let line = export(&tiny, "out", format, &format!("{format}.safetensors"), &[]);
        assert_eq!((&line["dtype"], &line["max_difference"]), (&"f32".into(), &0.into()), "{line}");
    }
    let large = ["export", "out", "--format", "lora-kohya", "--out", "x", "--dtype", "f64"];
    tiny.expect(&large, 2, &["--dtype"]);
}

#[test]
fn the_line_says_which_programs_read_a_file_and_what_they_leave_out() {
    let tiny = Tiny::new();
    run(&tiny, "out", &LORA);
    for (format, words) in [
        ("lora-kohya", &["ComfyUI, A1111, sd-scripts and diffusers"][..]),
        ("lora-diffusers", &["read by diffusers", "ComfyUI reads only a part", "lora-kohya"]),
        ("single-file", &["ComfyUI, A1111"]),
        ("diffusers", &["model folder, f32, read by diffusers"]),
    ] {
        let args = ["export", "out", "--format", format, "--out", format];
        let lacking: &[&str] = match format {
            "lora-kohya" => &["sd-scripts has no place for conv_in, conv_out, time_embedding"],
            _ => &[],
        };
        let says = tiny.expect(&args, 0, lacking);
        assert!(words.iter().all(|word| says.contains(word)), "{says}");
    }
    let args = [&["run", "recipe.toml", "--dry-run"][..], &LORA].concat();
    tiny.expect(&args, 0, &["sd-scripts has no place for conv_in, conv_out, time_embedding"]);
    let attention = ["run", "recipe.toml", "--dry-run", "--set", "train.mode=lora"];
    let output = tiny.craft(&attention).output().unwrap();
    assert!(!String::from_utf8(output.stderr).unwrap().contains("no place"));
}

#[test]
fn headers_tell_the_truth() {
    let tiny = Tiny::new();
    let size = ["--set", "generate.height=16", "--set", "generate.width=24"];
    run(&tiny, "out", &[&LORA[..], &size].concat());
    let header = |path: &str| TensorReader::open(&tiny.path(path)).unwrap().metadata();
    // The tiny model has the text encoder of Stable Diffusion 2.
    export(&tiny, "out", "lora-kohya", "k.safetensors", &[]);
    let texts = header("k.safetensors");
    for (key, value) in [
        ("ss_v2", "True"),
        ("ss_base_model_version", "sd_v2"),
        ("ss_output_name", "k"),
        ("ss_network_dim", "2"),
        ("ss_network_alpha", "2"),
        ("modelspec.resolution", "24x16"),
        ("modelspec.implementation", "diffusers"),
        ("modelspec.architecture", "stable-diffusion-v2-512/lora"),
    ] {
        assert_eq!(texts.get(key).map(String::as_str), Some(value), "{key}");
    }
    export(&tiny, "out", "single-file", "s.safetensors", &[]);
    let texts = header("s.safetensors");
    assert_eq!(texts["modelspec.resolution"], "24x16");
    assert_eq!(texts["modelspec.title"], "s");
    assert!(texts["modelspec.implementation"].contains("generative-models"));
}

#[test]
fn a_lora_of_sdxl_has_the_names_of_sd_scripts() {
    let tiny = Tiny::new();
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/sdxl/model");
    let recipe = std::fs::read_to_string(tiny.path("recipe.toml")).unwrap();
    let path = format!("path = {:?}", model.canonicalize().unwrap());
    tiny.write("recipe.toml", recipe.replace("path = \"model\"", &path));
    let small = ["--set", "generate.height=16", "--set", "generate.width=16"];
    let text =
        ["--set", "train.lora.text_encoders=true", "--set", "train.lora.text_encoder_targets=all"];
    run(&tiny, "out", &[&LORA[..], &small, &text].concat());
    export(&tiny, "out", "lora-kohya", "k.safetensors", &[]);
    for file in ["k.safetensors", "out/aligned/lora.safetensors"] {
        let modules: Vec<String> = TensorReader::open(&tiny.path(file))
            .unwrap()
            .names()
            .iter()
            .filter_map(|name| Some(name.strip_suffix(".alpha")?.to_owned()))
            .collect();
        let has = |name: &str| modules.iter().any(|module| module == name);
        for name in [
            "lora_unet_input_blocks_0_0",
            "lora_unet_label_emb_0_0",
            "lora_unet_label_emb_0_2",
            "lora_unet_time_embed_0",
            "lora_unet_out_2",
        ] {
            assert!(has(name), "{file}: {name} is not in {modules:?}");
        }
        for part in ["_down_blocks_", "_up_blocks_", "_resnets_", "add_embedding", "lora_te_"] {
            assert!(!modules.iter().any(|module| module.contains(part)), "{file}: {part}");
        }
        let starts = |start: &str| modules.iter().any(|module| module.starts_with(start));
        assert!(starts("lora_te1_text_model_") && starts("lora_te2_text_model_"), "{modules:?}");
        assert!(
            starts("lora_unet_input_blocks_1_0_in_layers_2") && starts("lora_unet_middle_block_")
        );
    }
    let texts = TensorReader::open(&tiny.path("k.safetensors")).unwrap().metadata();
    assert_eq!(texts["ss_base_model_version"], "sdxl_base_v1-0");
    assert_eq!(texts["modelspec.resolution"], "16x16");
    assert!(texts["modelspec.implementation"].contains("generative-models"));
    export(&tiny, "out", "lora-diffusers", "d.safetensors", &[]);
    let file = TensorReader::open(&tiny.path("d.safetensors")).unwrap();
    assert_eq!(file.metadata()["modelspec.implementation"], "diffusers");
    assert!(file.names().contains(&"unet.add_embedding.linear_1.lora_A.weight".to_owned()));
    // Files of before draw what those of today draw.
    let old: BTreeMap<_, _> = tensors::read(&tiny.path("k.safetensors")).unwrap();
    let unet = tensors::read(&model.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let table = craft_nn::lora::KohyaNames::of(&unet);
    let mut back = BTreeMap::new();
    for parameter in unet.keys() {
        let Some(module) = parameter.strip_suffix(".weight") else { continue };
        let today = table.module(craft_nn::lora::Component::Unet, module);
        for part in ["lora_down.weight", "lora_up.weight", "alpha"] {
            if let Some(tensor) = old.get(&format!("{today}.{part}")) {
                let before = format!("lora_unet_{}.{part}", module.replace('.', "_"));
                back.insert(before, tensor.clone());
            }
        }
    }
    back.extend(
        old.iter().filter(|(k, _)| k.starts_with("lora_te")).map(|(k, t)| (k.clone(), t.clone())),
    );
    assert_eq!(back.len(), old.len());
    tensors::write_map(&tiny.path("old.safetensors"), &back, Dtype::F32).unwrap();
    let latents = |lora: &str| {
        let model = model.display().to_string();
        let args = ["sample", "--model", &model, "--prompt", "a red circle", "--steps", "2"];
        let rest = ["--height", "16", "--width", "16", "--lora", lora, "--dump-latents", "l"];
        tiny.expect(&[&args[..], &rest].concat(), 0, &[]);
        tensors::read(&tiny.path("l")).unwrap().remove("latents").unwrap().data
    };
    assert_eq!(latents("old.safetensors"), latents("k.safetensors"));
}

/// The command without waiting for it.
fn started(tiny: &Tiny, args: &[&str]) -> std::process::Child {
    let quiet = tiny.craft(args);
    let mut command = Command::new(env!("CARGO_BIN_EXE_craft"));
    for (key, value) in quiet.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command.args(args).current_dir(tiny.path("."));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_killed_export_is_done_again_and_nothing_stays() {
    let tiny = Tiny::new();
    run(&tiny, "out", &LORA);
    std::fs::create_dir(tiny.path("to")).unwrap();
    for (format, target) in
        [("single-file", "m.safetensors"), ("diffusers", "m"), ("lora-kohya", "l.safetensors")]
    {
        let out = format!("to/{target}");
        let args = ["export", "out", "--format", format, "--out", &out, "-q"];
        let content = || {
            let path = tiny.path(&out);
            if path.is_dir() { sha256_dir(&path).unwrap() } else { sha256_file(&path).unwrap() }
        };
        let remove = || {
            let path = tiny.path(&out);
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
                .unwrap();
        };
        let begun = Instant::now();
        tiny.expect(&args, 0, &[]);
        let (whole, expected) = (begun.elapsed(), content());
        remove();
        let points = 10;
        let mut cut = 0;
        for point in 0..points {
            let mut child = started(&tiny, &args);
            std::thread::sleep(whole * point / points + Duration::from_millis(5));
            cut += u32::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
            // Whatever has the name is whole.
            if tiny.path(&out).exists() {
                assert_eq!(content(), expected, "{format}, point {point}");
            }
            // It was done, or is done now.
            if names(&tiny.path("to")) != [target] {
                tiny.expect(&args, 0, &[]);
            }
            assert_eq!(content(), expected, "{format}, point {point}");
            assert_eq!(names(&tiny.path("to")), [target], "{format}, point {point}");
            remove();
        }
        assert!(cut > 1, "{format}: {cut} of {points} were killed at work");
    }
    // Nothing of it is in the cache of checkpoints.
    assert!(!tiny.path("cache/craft/models").exists());
}

#[test]
fn a_name_that_is_taken_by_something_else_is_refused() {
    let tiny = Tiny::new();
    run(&tiny, "out", &LORA);
    for (format, other) in
        [("lora-kohya", "single-file"), ("single-file", "lora-kohya"), ("diffusers", "lora-kohya")]
    {
        let to = format!("{format}.x");
        let export = |format: &str, code: i32, more: &[&str], words: &[&str]| {
            let args = ["export", "out", "--format", format, "--out", &to];
            tiny.expect(&[&args[..], more].concat(), code, words);
        };
        export(format, 0, &[], &[]);
        export(format, 2, &[], &["it exists"]);
        // One that was killed when it had just got its name is looked at again.
        std::fs::create_dir(tiny.path(&format!(".{to}.4194999-0.tmp"))).unwrap();
        export(format, 0, &[], &[]);
        std::fs::create_dir(tiny.path(&format!(".{to}.4194999-0.tmp"))).unwrap();
        export(other, 2, &[], &["it exists", &to, "remove it"]);
        export(format, 2, &["--dtype", "f16"], &["it exists"]);
        let left = tiny.path(&format!(".{to}.4194999-0.tmp"));
        assert!(!left.exists() || std::fs::remove_dir(left).is_ok());
    }
    tiny.write("mine.safetensors", "my notes");
    std::fs::create_dir(tiny.path("mine")).unwrap();
    for (format, to) in
        [("lora-kohya", "mine.safetensors"), ("diffusers", "mine"), ("single-file", "mine")]
    {
        let args = ["export", "out", "--format", format, "--out", to];
        tiny.expect(&args, 2, &["it exists", "new"]);
    }
    assert_eq!(std::fs::read(tiny.path("mine.safetensors")).unwrap(), b"my notes");
    assert!(!names(&tiny.path(".")).iter().any(|name| name.ends_with(".tmp")));
}

/// The keys of a checkpoint's denoiser are those of ComfyUI's network, all of them (fixtures/single_file).
#[test]
fn keys_of_checkpoints_are_those_of_comfyuis_network() {
    let fixture =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/single_file/unet_keys.tsv");
    for line in std::fs::read_to_string(fixture).unwrap().lines() {
        let [family, count, digest] = line.split('\t').collect::<Vec<_>>()[..] else { panic!() };
        let (family, mut config) = match family {
            "sd1" => (Family::Sd1, json!({})),
            "sd2" => (Family::Sd2, json!({ "use_linear_projection": true })),
            _ => (
                Family::Sdxl,
                json!({
                    "use_linear_projection": true, "transformer_layers_per_block": [1, 2, 10],
                    "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
                    "projection_class_embeddings_input_dim": 32,
                    "block_out_channels": [8, 16, 32],
                    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
                }),
            ),
        };
        let (down, up) = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D");
        for (key, value) in [
            ("in_channels", json!(4)),
            ("out_channels", json!(4)),
            ("sample_size", json!(8)),
            ("layers_per_block", json!(2)),
            ("attention_head_dim", json!(2)),
            ("cross_attention_dim", json!(8)),
            ("norm_num_groups", json!(4)),
            ("block_out_channels", json!([8, 16, 32, 32])),
            ("down_block_types", json!([down, down, down, "DownBlock2D"])),
            ("up_block_types", json!(["UpBlock2D", up, up, up])),
        ] {
            if config.get(key).is_none() {
                config[key] = value;
            }
        }
        let config = UNetConfig::from_json(&config.to_string()).unwrap();
        let vae = VaeConfig::from_json(
            &std::fs::read_to_string(Tiny::new().path("model/vae/config.json")).unwrap(),
        );
        let names = Names::new(family, &Skeleton::of(&config, &vae.unwrap()));
        let unet = UNet2DConditionModel::new(&mut Init::zeros(&Device::flex()), &config);
        let mut keys: Vec<String> = weights::shapes(&unet)
            .keys()
            .map(|name| names.to_ldm(Part::Unet, name).unwrap().0)
            .map(|key| key.strip_prefix("model.diffusion_model.").unwrap().to_owned())
            .collect();
        keys.sort();
        assert_eq!(keys.len().to_string(), count, "{family:?}");
        assert_eq!(sha256_bytes(keys.join("\n")), digest, "{family:?}");
    }
}
