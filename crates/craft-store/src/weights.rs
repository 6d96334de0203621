//! Which files of a folder hold a network's weights, and reading them: one safetensors file, shards
//! with an index, a variant such as `fp16`, or files of `torch.save`.
//!
//! Source: file names of diffusers and transformers (`SAFETENSORS_WEIGHTS_NAME`, `WEIGHTS_INDEX_NAME`).

mod layout;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::{Result, StoreError};
use crate::tensors::{self, Tensor};
use crate::text::shorten;

/// Base names of a kind of network's files: those of its safetensors and of its `.bin` files.
#[derive(Debug, Clone, Copy)]
pub struct Stem {
    safetensors: &'static str,
    bin: &'static str,
}

/// Networks saved by diffusers.
pub const DIFFUSERS: Stem =
    Stem { safetensors: "diffusion_pytorch_model", bin: "diffusion_pytorch_model" };
/// Networks saved by transformers.
pub const TRANSFORMERS: Stem = Stem { safetensors: "model", bin: "pytorch_model" };

/// Files beside weights that hold no network.
const NOT_WEIGHTS: [&str; 5] =
    ["training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"];

impl Stem {
    /// The name of one safetensors file.
    pub fn file(self) -> String {
        format!("{}.safetensors", self.safetensors)
    }

    /// Of the names of a folder's files those of one layout of the weights: safetensors before `.bin`,
    /// 16 bits before 32, one file before shards. `None` if there are no weights, or several variants of
    /// unknown meaning.
    pub fn choose<'a>(self, names: &[&'a str]) -> Option<Vec<&'a str>> {
        let layout = self.preferred(names, true)?;
        let shards = if layout.index { self.shards(&layout, names) } else { vec![] };
        Some(std::iter::once(layout.file).chain(shards).collect())
    }

    /// Whether a file of a component's folder belongs to its weights, in any layout: variants,
    /// shards and indices among them.
    pub fn owns(self, name: &std::ffi::OsStr) -> bool {
        let name = name.to_string_lossy();
        let kind = |words: [&str; 3]| words.iter().any(|word| name.contains(word));
        [self.safetensors, self.bin].iter().any(|stem| name.starts_with(stem))
            && kind([".safetensors", ".bin", ".index."])
    }
}

/// Finds the weight file, or the index of the shards, of a network.
///
/// # Errors
/// When the folder has none, or several variants of which none is known; the error says what is there.
pub fn find(dir: &Path, stem: Stem) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir).map_err(StoreError::io("read", dir))?;
    let mut there: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    there.sort();
    let names: Vec<&str> = there.iter().map(String::as_str).collect();
    if let Some(layout) = stem.preferred(&names, false) {
        return Ok(dir.join(layout.file));
    }
    let weights = names.iter().any(|name| stem.owns(name.as_ref()));
    let shown = names.iter().take(12).map(|name| shorten(name)).collect::<Vec<_>>().join(", ");
    let shown = if names.is_empty() { "nothing".to_owned() } else { shown };
    Err(StoreError::bad(
        &dir.join(stem.file()),
        match weights {
            false => format!(
                "no weights: neither this file nor {}.bin, shards with an index, or a variant such as fp16 is there; the folder holds {shown}: complete the download of the model",
                stem.bin
            ),
            true => format!(
                "no weights that can be chosen: expected this file, shards with their index, the variant fp16, bf16 or fp32, or one other; the folder holds {shown}: give the wanted file this name, or remove the others"
            ),
        },
    ))
}

/// Reads all tensors of a file found by [`find`], or of the shards that an index names, as f32;
/// values that are not finite are refused. One tensor at a time is in memory twice.
///
/// # Errors
/// When a file is damaged, a shard or one of its tensors is missing, or a tensor occurs twice.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    if path.extension().is_none_or(|e| e != "json") {
        return tensors::read_finite(path);
    }
    let map = index(path)?;
    let files = shards(path, &map)?;
    let dir = path.parent().unwrap_or(Path::new(""));
    let mut all = BTreeMap::new();
    for file in files {
        let shard = dir.join(file);
        for (name, tensor) in tensors::read_finite(&shard)? {
            if map.get(&name) != Some(file) {
                let place = map.get(&name).map_or("in no shard", String::as_str);
                return Err(StoreError::bad(
                    &shard,
                    format!(
                        "it holds tensor `{name}`, which the index places elsewhere ({place}): the shards and {} are of different models",
                        path.display()
                    ),
                ));
            }
            all.insert(name, tensor);
        }
    }
    if let Some((name, file)) = map.iter().find(|(name, _)| !all.contains_key(*name)) {
        return Err(StoreError::bad(
            &dir.join(file),
            format!(
                "tensor `{name}` is missing, which {} places here: the shards are of different models",
                path.display()
            ),
        ));
    }
    Ok(all)
}

/// The files of weights: the file itself, or the shards of an index.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.extension().is_none_or(|e| e != "json") {
        return Ok(vec![path.to_owned()]);
    }
    let map = index(path)?;
    let dir = path.parent().unwrap_or(Path::new(""));
    Ok(shards(path, &map)?.into_iter().map(|file| dir.join(file)).collect())
}

/// Names of the shards of an index, all of which are there.
fn shards<'a>(path: &Path, map: &'a BTreeMap<String, String>) -> Result<BTreeSet<&'a String>> {
    let files: BTreeSet<&String> = map.values().collect();
    let dir = path.parent().unwrap_or(Path::new(""));
    let missing: Vec<&str> =
        files.iter().filter(|f| !dir.join(f).is_file()).map(|f| f.as_str()).collect();
    if missing.is_empty() {
        return Ok(files);
    }
    Err(StoreError::bad(
        path,
        format!(
            "{} of its {} shards are missing ({}): complete the download of the model",
            missing.len(),
            files.len(),
            missing.join(", ")
        ),
    ))
}

/// Shard by tensor name.
fn index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(path).map_err(StoreError::io("read", path))?;
    let index: Index = serde_json::from_str(&text).map_err(|error| {
        StoreError::bad(path, format!("it is not an index of shards with a `weight_map`: {error}"))
    })?;
    for file in index.weight_map.values() {
        if Path::new(file).file_name().is_none_or(|name| name != file.as_str()) {
            return Err(StoreError::bad(
                path,
                format!("its shard `{file}` is not a plain file name of the same folder"),
            ));
        }
    }
    if index.weight_map.is_empty() {
        return Err(StoreError::bad(path, "its `weight_map` is empty"));
    }
    Ok(index.weight_map)
}

/// Whether a file of a folder without index is to be read as weights: a safetensors file, or a file
/// of `torch.save` that has no safetensors twin (`pytorch_model.bin` beside `model.safetensors`) and
/// is not the state of a training program.
pub fn is_weights(path: &Path) -> bool {
    let part = |p: Option<&std::ffi::OsStr>| p.and_then(|s| s.to_str()).map(str::to_owned);
    let (Some(name), Some(stem), Some(kind)) =
        (part(path.file_name()), part(path.file_stem()), part(path.extension()))
    else {
        return false;
    };
    match kind.as_str() {
        "safetensors" => true,
        "bin" | "pt" | "pth" | "ckpt" => {
            let twin = format!("{}.safetensors", stem.replace("pytorch_", ""));
            !NOT_WEIGHTS.contains(&name.as_str()) && !path.with_file_name(twin).exists()
        }
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tensors::Dtype;

    fn put(dir: &Path, file: &str, names: &[&str]) {
        let map = names.iter().map(|n| ((*n).to_owned(), Tensor::new([1], vec![2.0]).unwrap()));
        tensors::write_map(&dir.join(file), &map.collect(), Dtype::F16).unwrap();
    }

    fn load(dir: &Path, stem: Stem) -> Result<Vec<String>> {
        Ok(read(&find(dir, stem)?)?.into_keys().collect())
    }

    #[test]
    fn every_layout_is_found_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let error = load(dir, DIFFUSERS).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains("holds nothing"), "{error}");
        let torch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/torch/grouped.pt");
        std::fs::copy(&torch, dir.join("pytorch_model.bin")).unwrap();
        assert_eq!(load(dir, TRANSFORMERS).unwrap(), ["text.0", "text.1", "unet.weight"]);
        let error = load(dir, DIFFUSERS).unwrap_err().to_string();
        assert!(error.contains("holds pytorch_model.bin"), "{error}");
        put(dir, "model.fp16.safetensors", &["half"]);
        assert_eq!(load(dir, TRANSFORMERS).unwrap(), ["half"]);
        put(dir, "model.safetensors", &["full"]);
        assert_eq!(load(dir, TRANSFORMERS).unwrap(), ["full"]);
        put(dir, "diffusion_pytorch_model.fp16.safetensors", &["half"]);
        assert_eq!(load(dir, DIFFUSERS).unwrap(), ["half"]);
        for name in [
            "diffusion_pytorch_model.bin",
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.safetensors.fp16.index.json",
        ] {
            assert!(DIFFUSERS.owns(name.as_ref()), "{name}");
        }
        assert!(DIFFUSERS.owns("diffusion_pytorch_model-00001-of-00002.safetensors".as_ref()));
        assert!(!DIFFUSERS.owns("config.json".as_ref()));
    }

    #[test]
    fn one_layout_is_chosen() {
        let choose = |names: &[&'static str]| DIFFUSERS.choose(names);
        let stem = "diffusion_pytorch_model";
        assert_eq!(stem, DIFFUSERS.bin);
        let (full, half) =
            ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors");
        assert_eq!(choose(&["config.json", full, half]), Some(vec![half]));
        assert_eq!(choose(&["diffusion_pytorch_model.bin", full]), Some(vec![full]));
        assert_eq!(choose(&["config.json", "model.safetensors"]), None);
        let index = "diffusion_pytorch_model.safetensors.index.json";
        let shards = [
            "diffusion_pytorch_model-00001-of-00002.safetensors",
            "diffusion_pytorch_model-00002-of-00002.safetensors",
        ];
        let half = "diffusion_pytorch_model.fp16-00001-of-00002.safetensors";
        let found = choose(&[shards[0], half, index, shards[1]]);
        assert_eq!(found, Some(vec![index, shards[0], shards[1]]));
        for half_index in [
            "diffusion_pytorch_model.safetensors.index.fp16.json",
            "diffusion_pytorch_model.safetensors.fp16.index.json",
            "diffusion_pytorch_model.fp16.safetensors.index.json",
        ] {
            let found = choose(&[shards[0], half, index, half_index, shards[1]]);
            assert_eq!(found, Some(vec![half_index, half]));
        }
    }

    #[test]
    fn variants_are_taken_where_there_is_no_doubt() {
        let bf16 = "model.bf16.safetensors";
        let (ema, other) = ("model.ema.safetensors", "model.non_ema.safetensors");
        for (names, wanted) in [
            (vec!["config.json", bf16], Some(bf16)),
            (vec![other], Some(other)),
            (vec![other, bf16], Some(bf16)),
            (vec![other, ema], None),
            (vec![other, "pytorch_model.bin"], Some(other)),
            (vec![ema, other, "model.safetensors"], Some("model.safetensors")),
            (vec!["model.a.b.safetensors"], None),
        ] {
            let found = TRANSFORMERS.choose(&names);
            assert_eq!(found, wanted.map(|name| vec![name]), "{names:?}");
        }
        let late = ["model.safetensors.index.bf16.json", "model-00001-of-00001.bf16.safetensors"];
        assert_eq!(TRANSFORMERS.choose(&late), Some(late.to_vec()));
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), ema, &["a"]);
        assert_eq!(load(dir.path(), TRANSFORMERS).unwrap(), ["a"]);
        put(dir.path(), other, &["b"]);
        let error = load(dir.path(), TRANSFORMERS).unwrap_err();
        let says = error.to_string();
        assert!(error.is_bad_input() && says.contains(ema) && says.contains(other), "{says}");
    }

    #[test]
    fn shards_are_joined_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let index = dir.join("model.safetensors.index.json");
        let wanted = r#"{"metadata": {"total_size": 4}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
        std::fs::write(&index, wanted).unwrap();
        put(dir, "1.safetensors", &["a"]);
        let fails = |reason: &str| {
            let error = load(dir, TRANSFORMERS).unwrap_err();
            assert!(error.is_bad_input() && error.to_string().contains(reason), "{error}");
        };
        fails("1 of its 2 shards are missing (2.safetensors)");
        put(dir, "2.safetensors", &["b"]);
        assert_eq!(load(dir, TRANSFORMERS).unwrap(), ["a", "b"]);
        put(dir, "2.safetensors", &["b", "a"]);
        fails("places elsewhere");
        put(dir, "2.safetensors", &["c"]);
        fails("in no shard");
        std::fs::write(&index, wanted.replace("\"b\": ", "\"c\": \"2.safetensors\", \"b\": "))
            .unwrap();
        fails("tensor `b` is missing");
        std::fs::write(&index, wanted.replace("2.safetensors", "../2.safetensors")).unwrap();
        fails("plain file name");
        std::fs::write(&index, "{}").unwrap();
        fails("weight_map");
    }

    #[test]
    fn twins_and_training_states_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(is_weights(&at("pytorch_model.bin")) && is_weights(&at("head.pth")));
        assert!(!is_weights(&at("optimizer.pt")) && !is_weights(&at("config.json")));
        std::fs::write(at("model.safetensors"), "").unwrap();
        assert!(!is_weights(&at("pytorch_model.bin")) && is_weights(&at("model.safetensors")));
    }
}
