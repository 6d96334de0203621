//! A tiny model with random weights, rewards and prompts in a folder of their own, and the command.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, clippy::disallowed_methods)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use assert_cmd::Command;
use burn::tensor::Device;
use craft_nn::clip::{ClipConfig, ClipModel, ClipTextConfig, ClipTextModel};
use craft_nn::init::Init;
use craft_nn::tokenizer::{ClipTokenizer, TokenizerFiles, train};
use craft_nn::unet::UNet2DConditionModel;
use craft_nn::unet_config::UNetConfig;
use craft_nn::vae::{AutoencoderKL, VaeConfig};
use craft_nn::weights::{self, TensorMap};
use craft_store::tensors::{self, Dtype};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest text in tokens.
pub const LENGTH: usize = 16;
/// Width of the text embeddings.
pub const WIDTH: usize = 8;
/// A recipe over the folder of [`Tiny`], a second or two long.
pub const RECIPE: &str = r#"
seed = 1
[model]
path = "model"
[prompts]
train = "train.txt"
eval = "eval.txt"
[expand]
templates = "pocket"
variants = 3
[generate]
steps = 2
guidance_scale = 2.0
batch = 8
[[rewards]]
name = "tiny"
weights = "model/rewards/pocket-hps"
[[rewards]]
name = "other"
weights = "model/rewards/pocket-ir"
role = "held-out"
[select]
max_samples = 6
[train]
steps = 4
batch = 4
learning_rate = 1e-3
checkpoint_every = 2
[evaluate]
samples_per_prompt = 1
bootstrap = 100
"#;
const TRAIN: &str = "a red circle\na blue square\na green star\na yellow circle\na red square\n\
                     a blue star\na green circle\na yellow square\n";
const EVAL: &str = "a red star\na blue circle\na green square\na yellow star\n";

/// The folder that every test copies.
static TEMPLATE: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path());
    dir
});

/// A folder with `model/`, `recipe.toml`, `train.txt` and `eval.txt`.
pub struct Tiny {
    dir: TempDir,
}

impl Tiny {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(TEMPLATE.path(), dir.path());
        Self { dir }
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub fn write(&self, relative: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.path(relative), contents).unwrap();
    }

    /// The command, in this folder, with this folder's model as the embedded one.
    pub fn craft(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_craft"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("CRAFT_POCKET_DIR", self.path("model"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            // No test reaches the network; those of the hub ask servers of their own.
            .env("HF_HOME", self.path("hf"))
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("HF_TOKEN")
            .env_remove("HF_HUB_CACHE")
            .env_remove("HUGGINGFACE_HUB_CACHE")
            .env_remove("RUST_LOG");
        command
    }

    /// Runs it and expects the exit code and all the words on standard error. Returns standard output.
    #[track_caller]
    pub fn expect(&self, args: &[&str], code: i32, words: &[&str]) -> String {
        let output = self.craft(args).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "craft {}\n{error}", args.join(" "));
        for word in words {
            assert!(error.contains(word), "`{word}` is not in:\n{error}");
        }
        if code != 0 {
            let says = error.lines().filter(|line| line.starts_with("error: ")).count();
            assert_eq!(says, 1, "expected one line `error: …` in:\n{error}");
        }
        String::from_utf8(output.stdout).unwrap()
    }

    /// Changes the tensors of a file.
    pub fn edit(
        &self,
        relative: &str,
        change: impl FnOnce(&mut std::collections::BTreeMap<String, tensors::Tensor>),
    ) {
        let path = self.path(relative);
        let mut all = tensors::read(&path).unwrap();
        change(&mut all);
        tensors::write_map(&path, &all, Dtype::F32).unwrap();
    }

    /// Writes tensors of f32.
    pub fn tensors(&self, relative: &str, all: &[(&str, &[usize], &[f32])]) {
        tensors::write(&self.path(relative), all, Dtype::F32, &Default::default()).unwrap();
    }
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn write_all(root: &Path) {
    fs::write(root.join("recipe.toml"), RECIPE).unwrap();
    fs::write(root.join("train.txt"), TRAIN).unwrap();
    fs::write(root.join("eval.txt"), EVAL).unwrap();
    let model = root.join("model");
    let tokenizer = write_tokenizer(&model.join("tokenizer"));
    let scheduler = json!({
        "_class_name": "DDIMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "clip_sample": false, "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "set_alpha_to_one": false, "steps_offset": 1,
        "timestep_spacing": "leading",
    });
    write_json(&model.join("scheduler/scheduler_config.json"), &scheduler);
    write_json(
        &model.join("model_index.json"),
        &json!({ "_class_name": "StableDiffusionPipeline" }),
    );
    let device = Device::flex();

    let config = json!({
        "in_channels": 4, "out_channels": 4, "sample_size": 8, "block_out_channels": [8, 8],
        "layers_per_block": 1, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 2,
        "cross_attention_dim": WIDTH, "norm_num_groups": 4, "use_linear_projection": true,
    });
    let parsed = UNetConfig::from_json(&config.to_string()).unwrap();
    let unet = UNet2DConditionModel::new(&mut Init::seeded(1, &device), &parsed);
    let file = "diffusion_pytorch_model.safetensors";
    write_component(&model.join("unet"), &config, file, &weights::export(&unet));

    let config = json!({
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": [4, 4],
        "layers_per_block": 1, "norm_num_groups": 2, "scaling_factor": 1.0,
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    });
    let parsed = VaeConfig::from_json(&config.to_string()).unwrap();
    let vae = AutoencoderKL::new(&mut Init::seeded(2, &device), &parsed);
    write_component(&model.join("vae"), &config, file, &weights::export(&vae));

    let config = text_json(&tokenizer);
    let parsed = ClipTextConfig::from_json(&config.to_string()).unwrap();
    let text = ClipTextModel::new(&mut Init::seeded(3, &device), &parsed, false);
    let tensors = weights::export(&text);
    write_component(&model.join("text_encoder"), &config, "model.safetensors", &tensors);

    for (name, seed) in [("pocket-hps", 4), ("pocket-pick", 5), ("pocket-aes", 6), ("pocket-ir", 7)]
    {
        let dir = model.join("rewards").join(name);
        write_tokenizer(&dir);
        let config = json!({
            "projection_dim": 8, "text_config": text_json(&tokenizer),
            "vision_config": {
                "hidden_size": 8, "intermediate_size": 8, "image_size": 16, "patch_size": 8,
                "num_attention_heads": 2, "num_hidden_layers": 1, "hidden_act": "gelu",
            },
        });
        let parsed = ClipConfig::from_json(&config.to_string()).unwrap();
        let clip = ClipModel::new(&mut Init::seeded(seed, &device), &parsed);
        write_component(&dir, &config, "model.safetensors", &clip.to_tensors());
    }
}

fn text_json(tokenizer: &ClipTokenizer) -> Value {
    json!({
        "hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": LENGTH, "hidden_act": "gelu",
        "vocab_size": tokenizer.vocab_size(), "eos_token_id": tokenizer.eos(), "projection_dim": 8,
    })
}

fn write_tokenizer(dir: &Path) -> ClipTokenizer {
    let files = train([TRAIN, EVAL].into_iter(), 600).unwrap();
    let (config, special) = TokenizerFiles::configs(LENGTH, "<|endoftext|>");
    fs::create_dir_all(dir).unwrap();
    for (name, text) in [
        ("vocab.json", &files.vocab_json),
        ("merges.txt", &files.merges_txt),
        ("tokenizer_config.json", &config),
        ("special_tokens_map.json", &special),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    let (vocab, merges) = (&files.vocab_json, &files.merges_txt);
    ClipTokenizer::from_files(vocab, merges, Some(&config), Some(&special)).unwrap()
}

fn write_json(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{value:#}\n")).unwrap();
}

fn write_component(dir: &Path, config: &Value, file: &str, map: &TensorMap) {
    write_json(&dir.join("config.json"), config);
    let refs: Vec<_> =
        map.iter().map(|(n, t)| (n.as_str(), t.shape.as_slice(), t.data.as_slice())).collect();
    tensors::write(&dir.join(file), &refs, Dtype::F32, &Default::default()).unwrap();
}
