//! Names and shapes of older and other versions of diffusers and transformers.

use std::collections::BTreeMap;
use std::fs;

use craft_store::raw::{self, Entry, Format, Raw, RawReader};
use craft_store::tensors::{self, Tensor, TensorReader};

use super::{TEXT, UNET, VAE, drawn, edit_json, pickled};
use crate::support::Tiny;

/// Linear maps of the autoencoder's attention: today's names, those before diffusers 0.18.
const OLD: [(&str, &str); 4] =
    [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];

/// Gives an autoencoder the names of before diffusers 0.18; with `square` its linear maps are 1×1
/// convolutions.
fn age(all: &mut BTreeMap<String, Tensor>, square: bool) {
    *all = std::mem::take(all)
        .into_iter()
        .map(|(name, mut tensor)| {
            let found = OLD.iter().find(|(new, _)| name.contains(&format!(".attentions.0.{new}.")));
            let Some((new, old)) = found else { return (name, tensor) };
            if square && tensor.shape.len() == 2 {
                tensor.shape.extend([1, 1]);
            }
            (name.replace(new, old), tensor)
        })
        .collect();
    assert_eq!(all.keys().filter(|name| name.contains("proj_attn")).count(), 4);
}

fn raws(path: &std::path::Path) -> Vec<(String, Raw)> {
    let mut reader = RawReader::open(path).unwrap();
    let names: Vec<String> = reader.shapes().into_keys().collect();
    names.into_iter().map(|name| (name.clone(), reader.read(&name).unwrap())).collect()
}

#[test]
fn old_attention_of_autoencoders_loads_in_every_layout() {
    let tiny = Tiny::new();
    let picture = drawn(&tiny, &["model"], "a red circle");
    let new = tensors::read(&tiny.path(VAE)).unwrap();
    for square in [false, true] {
        tiny.edit(VAE, |all| age(all, square));
        assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture);
        // The same as `.bin`, and in shards.
        let all = raws(&tiny.path(VAE));
        fs::remove_file(tiny.path(VAE)).unwrap();
        let bin = "model/vae/diffusion_pytorch_model.bin";
        pickled::write(&tiny.path(bin), &all);
        assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture);
        fs::remove_file(tiny.path(bin)).unwrap();
        shards(&tiny, &all);
        assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture);
        fs::remove_file(tiny.path("model/vae/diffusion_pytorch_model.safetensors.index.json"))
            .unwrap();
        tensors::write_map(&tiny.path(VAE), &new, tensors::Dtype::F32).unwrap();
    }
    // Today's names with the old shape, as some converters leave them.
    tiny.edit(VAE, |all| {
        for (name, tensor) in all {
            if name.contains(".attentions.") && tensor.shape.len() == 2 {
                tensor.shape.extend([1, 1]);
            }
        }
    });
    assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture);
    // One map by two names is no model.
    tiny.edit(VAE, |all| {
        let query = all["decoder.mid_block.attentions.0.to_q.bias"].clone();
        all.insert("decoder.mid_block.attentions.0.query.bias".to_owned(), query);
    });
    super::refused(&tiny, &["query.bias", "to_q.bias", "two names"]);
}

fn shards(tiny: &Tiny, all: &[(String, Raw)]) {
    let (first, second) = all.split_at(all.len() / 2);
    let mut map = serde_json::Map::new();
    for (index, part) in [first, second].into_iter().enumerate() {
        let file = format!("diffusion_pytorch_model-0000{}-of-00002.safetensors", index + 1);
        let entries: Vec<Entry> = part
            .iter()
            .map(|(name, raw)| Entry {
                name: name.clone(),
                shape: raw.shape.clone(),
                format: raw.format,
            })
            .collect();
        let bytes: BTreeMap<&String, &Raw> = part.iter().map(|(name, raw)| (name, raw)).collect();
        raw::write(&tiny.path("model/vae").join(&file), &entries, &BTreeMap::new(), |entry| {
            Ok::<_, craft_store::StoreError>(bytes[&entry.name].bytes.clone())
        })
        .unwrap();
        map.extend(part.iter().map(|(name, _)| (name.clone(), file.clone().into())));
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    tiny.write("model/vae/diffusion_pytorch_model.safetensors.index.json", index.to_string());
}

/// From an aged autoencoder every export has today's names, and draws what the run drew.
#[test]
fn exports_have_todays_names() {
    let tiny = Tiny::new();
    tiny.edit(VAE, |all| age(all, true));
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &[]);
    let tuned = drawn(&tiny, &["out/aligned"], "a red circle");
    tiny.expect(&["export", "out", "--format", "diffusers", "--out", "folder"], 0, &[]);
    assert_eq!(drawn(&tiny, &["folder"], "a red circle"), tuned);
    for folder in ["folder", "out/aligned"] {
        let path = tiny.path(folder).join("vae/diffusion_pytorch_model.safetensors");
        let file = TensorReader::open(&path).unwrap();
        let query = "decoder.mid_block.attentions.0.to_q.weight";
        assert_eq!(file.shape(query), Some([4, 4].as_slice()), "{folder}");
        assert!(file.names().iter().all(|name| !name.contains("query")));
    }
    tiny.expect(&["export", "out", "--format", "single-file", "--out", "a.safetensors"], 0, &[]);
    let file = TensorReader::open(&tiny.path("a.safetensors")).unwrap();
    let query = "first_stage_model.decoder.mid.attn_1.q.weight";
    assert_eq!(file.shape(query), Some([4, 4, 1, 1].as_slice()));
    let single = ["a.safetensors", "--model-config", "model"];
    assert_eq!(drawn(&tiny, &single, "a red circle"), tuned);
    // Converters that left diffusers' names in the file.
    tiny.edit("a.safetensors", |all| {
        for side in ["encoder", "decoder"] {
            for (old, new) in
                [("q", "to_q"), ("k", "key"), ("v", "to_v"), ("proj_out", "proj_attn")]
            {
                for kind in ["weight", "bias"] {
                    let name = |part| format!("first_stage_model.{side}.mid.attn_1.{part}.{kind}");
                    let tensor = all.remove(&name(old)).unwrap();
                    all.insert(name(new), tensor);
                }
            }
        }
    });
    assert_eq!(drawn(&tiny, &single, "a red circle"), tuned);
}

/// The network alone, by `craft forward`.
#[test]
fn forward_reads_old_autoencoders() {
    let tiny = Tiny::new();
    tiny.tensors("in.safetensors", &[("sample", &[1, 4, 4, 4], &[0.5; 64])]);
    let decode = |out: &str| {
        tiny.expect(
            &[
                "forward",
                "--model",
                "model",
                "--component",
                "vae-decode",
                "--in",
                "in.safetensors",
                "--out",
                out,
            ],
            0,
            &[],
        );
        fs::read(tiny.path(out)).unwrap()
    };
    let new = decode("new.safetensors");
    tiny.edit(VAE, |all| age(all, false));
    assert_eq!(decode("old.safetensors"), new);
}

#[test]
fn buffers_and_prefixes_of_text_encoders_do_not_matter() {
    let tiny = Tiny::new();
    let picture = drawn(&tiny, &["model"], "a red circle");
    let plain = raws(&tiny.path(TEXT));
    let file = tiny.path(TEXT);
    let with = |extra: &[(&str, Format)], prefix: &str| -> Vec<(String, Raw)> {
        let bare = |name: &String| name.strip_prefix("text_model.").unwrap().to_owned();
        let mut all: Vec<(String, Raw)> = plain
            .iter()
            .map(|(name, raw)| (format!("{prefix}{}", bare(name)), raw.clone()))
            .collect();
        for (name, format) in extra {
            let bytes = vec![0; 16 * format.bitsize() / 8];
            all.push(((*name).to_owned(), Raw { shape: vec![1, 16], format: *format, bytes }));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let write = |all: &[(String, Raw)]| {
        let entries: Vec<Entry> = all
            .iter()
            .map(|(name, raw)| Entry {
                name: name.clone(),
                shape: raw.shape.clone(),
                format: raw.format,
            })
            .collect();
        let bytes: BTreeMap<&String, &Raw> = all.iter().map(|(name, raw)| (name, raw)).collect();
        raw::write(&file, &entries, &BTreeMap::new(), |entry| {
            Ok::<_, craft_store::StoreError>(bytes[&entry.name].bytes.clone())
        })
        .unwrap();
    };
    for format in [Format::I64, Format::I32, Format::F16, Format::F32, Format::BF16, Format::U8] {
        write(&with(&[("text_model.embeddings.position_ids", format)], "text_model."));
        assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture, "{format}");
    }
    // transformers 5 writes the tower without its name.
    write(&with(&[("embeddings.position_ids", Format::I64)], ""));
    assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture);
    // A whole CLIPModel, whose other half transformers passes over, too.
    let half = [
        ("logit_scale", Format::F32),
        ("vision_model.embeddings.position_ids", Format::I64),
        ("vision_model.pre_layrnorm.weight", Format::F32),
        ("visual_projection.weight", Format::F32),
    ];
    write(&with(&half, "text_model."));
    assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture);
    // As `.bin`.
    fs::remove_file(&file).unwrap();
    let all = with(&[("text_model.embeddings.position_ids", Format::I64)], "text_model.");
    pickled::write(&tiny.path("model/text_encoder/pytorch_model.bin"), &all);
    assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture);
}

#[test]
fn variants_are_found_or_listed() {
    let tiny = Tiny::new();
    let picture = drawn(&tiny, &["model"], "a red circle");
    let place = |name: &str| tiny.path("model/unet").join(name);
    let move_to = |from: &str, to: &str| fs::rename(place(from), place(to)).unwrap();
    let names = ["bf16", "fp16", "non_ema", "ema"]
        .map(|variant| format!("diffusion_pytorch_model.{variant}.safetensors"));
    move_to("diffusion_pytorch_model.safetensors", &names[0]);
    for pair in names.windows(2) {
        assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture, "{}", pair[0]);
        move_to(&pair[0], &pair[1]);
    }
    fs::copy(place(&names[3]), place(&names[2])).unwrap();
    super::refused(&tiny, &[&names[2], &names[3], "remove the others"]);
    fs::remove_file(place(&names[2])).unwrap();
    move_to(&names[3], "diffusion_pytorch_model-00001-of-00001.fp16.safetensors");
    let shard = "diffusion_pytorch_model-00001-of-00001.fp16.safetensors";
    let tensors = tensors::read(&place(shard)).unwrap();
    let map: BTreeMap<&String, &str> = tensors.keys().map(|name| (name, shard)).collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    for name in [
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.safetensors.fp16.index.json",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
    ] {
        fs::write(place(name), &index).unwrap();
        assert_eq!(drawn(&tiny, &["model"], "a red circle"), picture, "{name}");
        fs::remove_file(place(name)).unwrap();
    }
    super::refused(&tiny, &[shard, "remove the others"]);
    edit_json(&tiny, "model/unet/config.json", |_| {});
    assert!(!tiny.path(UNET).exists());
}
