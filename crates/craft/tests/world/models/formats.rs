//! Number formats of weights: 8 bits are read, parts of quantised models refused before anything is
//! copied.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use craft_store::raw::{self, Entry, Format, Raw, RawReader};
use craft_store::tensors::{self, Dtype, Tensor};

use super::{UNET, copies, drawn, edit_json, pickled};
use crate::support::Tiny;

/// Codes of a number format of 8 bits that are finite, by their values.
fn codes(format: Format) -> Vec<(f32, u8)> {
    let all = (0..=255u8).map(|code| {
        let raw = Raw { shape: vec![1], format, bytes: vec![code] };
        (raw.to_f32().unwrap()[0], code)
    });
    let mut all: Vec<(f32, u8)> = all.filter(|(value, _)| value.is_finite()).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all
}

/// Values rounded to a format, and their codes.
fn rounded(values: &[f32], codes: &[(f32, u8)]) -> (Vec<f32>, Vec<u8>) {
    let near = |x: &f32| {
        let at = codes.partition_point(|(value, _)| value < x).min(codes.len() - 1);
        let below = codes[at.saturating_sub(1)];
        if (below.0 - x).abs() < (codes[at].0 - x).abs() { below } else { codes[at] }
    };
    values.iter().map(near).unzip()
}

/// Tensors in the order of a file.
type Named = Vec<(String, Raw)>;

fn put(path: &Path, all: &[(String, Raw)]) {
    let entry = |(name, raw): &(String, Raw)| Entry {
        name: name.clone(),
        shape: raw.shape.clone(),
        format: raw.format,
    };
    let entries: Vec<Entry> = all.iter().map(entry).collect();
    let bytes: BTreeMap<&String, &Raw> = all.iter().map(|(name, raw)| (name, raw)).collect();
    raw::write(path, &entries, &BTreeMap::new(), |entry| {
        Ok::<_, craft_store::StoreError>(bytes[&entry.name].bytes.clone())
    })
    .unwrap();
}

/// Rounds the denoiser of a folder or file to a format; returns its tensors in it.
fn narrow(path: &Path, which: &str, format: Format) -> Vec<(String, Raw)> {
    let codes = codes(format);
    let mut all = tensors::read(path).unwrap();
    let mut narrow = Vec::new();
    for (name, tensor) in &mut all {
        let bytes = if name.starts_with(which) {
            let (values, bytes) = rounded(&tensor.data, &codes);
            tensor.data = values;
            (format, bytes)
        } else {
            (Format::F32, tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect())
        };
        let (format, bytes) = bytes;
        narrow.push((name.clone(), Raw { shape: tensor.shape.clone(), format, bytes }));
    }
    tensors::write_map(path, &all, Dtype::F32).unwrap();
    narrow
}

#[test]
fn weights_of_eight_bits_draw_what_their_values_draw() {
    for format in [Format::F8_E4M3, Format::F8_E5M2] {
        let tiny = Tiny::new();
        let narrow = narrow(&tiny.path(UNET), "", format);
        let picture = drawn(&tiny, &["model"], "a red circle");
        put(&tiny.path(UNET), &narrow);
        assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture, "{format}");
        fs::remove_file(tiny.path(UNET)).unwrap();
        pickled::write(&tiny.path("model/unet/diffusion_pytorch_model.bin"), &narrow);
        assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture, "{format}");
    }
}

/// The checkpoint of a run on the tiny model.
fn exported(tiny: &Tiny) {
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &[]);
    let export = ["export", "out", "--format", "single-file", "--out", "a.safetensors"];
    tiny.expect(&export, 0, &[]);
}

const WITH: [&str; 3] = ["a.safetensors", "--model-config", "model"];

#[test]
fn single_files_of_eight_bits_are_read() {
    let tiny = Tiny::new();
    exported(&tiny);
    let path = tiny.path("a.safetensors");
    let narrow = narrow(&path, "model.diffusion_model.", Format::F8_E4M3);
    let picture = drawn(&tiny, &WITH, "a red circle");
    put(&path, &narrow);
    assert_eq!(drawn(&tiny, &WITH, "a red circle"), picture);
    let mut reader = RawReader::open(&path).unwrap();
    assert_eq!(reader.read("model.diffusion_model.out.2.weight").unwrap().format, Format::F8_E4M3);
}

/// Whatever is wrong with a single file is found before anything is written to the cache.
#[test]
fn what_is_refused_is_not_copied() {
    let tiny = Tiny::new();
    exported(&tiny);
    let path = tiny.path("a.safetensors");
    let whole = fs::read(&path).unwrap();
    let out = "model.diffusion_model.out.2.weight";
    #[track_caller]
    fn sample(tiny: &Tiny, words: &[&str]) {
        let args = [&["sample", "--prompt", "x", "--steps", "1", "--model"], &WITH[..]].concat();
        tiny.expect(&args, 3, words);
        assert_eq!(copies(tiny), 0, "{words:?}");
    }
    let change = |to: &dyn Fn(&mut Named)| {
        fs::write(&path, &whole).unwrap();
        let mut reader = RawReader::open(&path).unwrap();
        let names: Vec<String> = reader.shapes().into_keys().collect();
        let mut all: Vec<(String, Raw)> =
            names.into_iter().map(|name| (name.clone(), reader.read(&name).unwrap())).collect();
        to(&mut all);
        put(&path, &all);
    };
    let as_format = |format: Format| {
        change(&|all| {
            let (_, raw) = all.iter_mut().find(|(name, _)| name == out).unwrap();
            raw.format = format;
            raw.bytes = vec![1; raw.shape.iter().product::<usize>() * format.bitsize() / 8];
        });
        sample(&tiny, &["a.safetensors", out, &format.to_string(), "quantised"]);
    };
    for format in [Format::I8, Format::U8, Format::F4, Format::F8_E8M0, Format::F8_E4M3FNUZ] {
        as_format(format);
    }
    for scale in [
        "scaled_fp8",
        "model.diffusion_model.out.2.scale_weight",
        "model.diffusion_model.out.2.weight_scale",
        "model.diffusion_model.out.2.comfy_quant",
        "model.diffusion_model.out.2.weight.absmax",
        "model.diffusion_model.out.2.weight.quant_state.bitsandbytes__nf4",
    ] {
        change(&|all| {
            let raw = Raw { shape: vec![1], format: Format::F32, bytes: vec![0; 4] };
            all.push((scale.to_owned(), raw));
        });
        sample(&tiny, &["a.safetensors", scale, "scale of quantised weights"]);
    }
    let edit = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        fs::write(&path, &whole).unwrap();
        tiny.edit("a.safetensors", change);
    };
    edit(&|all| all.get_mut(out).unwrap().data[7] = f32::NAN);
    sample(&tiny, &["a.safetensors", out, "value 7 is NaN"]);
    edit(&|all| {
        let wide = Tensor::new([8, 9, 3, 3], vec![0.0; 648]).unwrap();
        all.insert("model.diffusion_model.input_blocks.0.0.weight".to_owned(), wide);
    });
    sample(&tiny, &["a.safetensors", "inpainting"]);
    fs::write(&path, &whole).unwrap();
    for (file, key, value, words) in [
        ("unet/config.json", "norm_num_groups", "0", "norm_num_groups = 0"),
        ("unet/config.json", "layers_per_block", "1000000000", "layers_per_block"),
        ("vae/config.json", "layers_per_block", "1000000000", "layers_per_block"),
        ("text_encoder/config.json", "num_hidden_layers", "1000000000", "num_hidden_layers"),
        ("unet/config.json", "nonsense", "1", "nonsense"),
        ("scheduler/scheduler_config.json", "beta_schedule", "\"none\"", "beta_schedule"),
        ("tokenizer/tokenizer_config.json", "model_max_length", "78", "model_max_length is 78"),
    ] {
        let relative = format!("model/{file}");
        let good = fs::read_to_string(tiny.path(&relative)).unwrap();
        edit_json(&tiny, &relative, |json| json[key] = serde_json::from_str(value).unwrap());
        sample(&tiny, &["a.safetensors", words]);
        tiny.write(&relative, good);
    }
    drawn(&tiny, &WITH, "a red circle");
    assert_eq!(copies(&tiny), 1);
}

#[test]
fn quantised_folders_are_refused() {
    let tiny = Tiny::new();
    let whole = fs::read(tiny.path(UNET)).unwrap();
    for (scale, words) in [
        ("conv_in.weight_scale", "scale of quantised weights"),
        ("mid_block.resnets.0.conv1.weight.absmax", "scale of quantised weights"),
    ] {
        tiny.edit(UNET, |all| {
            all.insert(scale.to_owned(), Tensor::new([1], vec![0.0]).unwrap());
        });
        super::refused(&tiny, &["diffusion_pytorch_model.safetensors", scale, words]);
        fs::write(tiny.path(UNET), &whole).unwrap();
    }
}
