//! A single-file checkpoint of Stable Diffusion 1 with CLIP's whole vocabulary, small and random, and the
//! folder that it comes from.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use craft_nn::clip::{ClipTextConfig, ClipTextModel};
use craft_nn::init::Init;
use craft_nn::ldm::{Family, Names, Part, Skeleton, Take};
use craft_nn::unet::UNet2DConditionModel;
use craft_nn::unet_config::UNetConfig;
use craft_nn::vae::{AutoencoderKL, VaeConfig};
use craft_nn::weights::{self, HostTensor, TensorMap};
use craft_store::tensors::{self, Dtype};
use serde_json::json;

/// Writes the checkpoint; `marks` are empty tensors beside its weights, `change` edits them.
pub(crate) fn write(
    path: &Path,
    marks: &[&str],
    metadata: &[(&str, &str)],
    change: impl FnOnce(&mut TensorMap),
) {
    let mut all = tensors_of_file();
    change(&mut all);
    for mark in marks {
        all.insert((*mark).to_owned(), HostTensor { shape: vec![0], data: vec![] });
    }
    let refs: Vec<_> =
        all.iter().map(|(n, t)| (n.as_str(), t.shape.as_slice(), t.data.as_slice())).collect();
    let texts: BTreeMap<String, String> =
        metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    tensors::write(path, &refs, Dtype::F32, &texts).unwrap();
}

fn tensors_of_file() -> TensorMap {
    let device = Device::flex();
    let unet = json!({
        "in_channels": 4, "out_channels": 4, "sample_size": 64, "block_out_channels": [32, 64],
        "layers_per_block": 1, "attention_head_dim": 8, "cross_attention_dim": 64,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    });
    let unet = UNetConfig::from_json(&unet.to_string()).unwrap();
    let vae = json!({
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": [32, 32],
        "layers_per_block": 1, "norm_num_groups": 32,
    });
    let vae = VaeConfig::from_json(&vae.to_string()).unwrap();
    let text = ClipTextConfig {
        vocab_size: 49408,
        hidden_size: 64,
        intermediate_size: 64,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        max_position_embeddings: 77,
        projection_dim: 64,
        ..ClipTextConfig::default()
    };
    let names = Names::new(Family::Sd1, &Skeleton::of(&unet, &vae));
    let unet = UNet2DConditionModel::new(&mut Init::seeded(1, &device), &unet);
    let vae = AutoencoderKL::new(&mut Init::seeded(2, &device), &vae);
    let text = ClipTextModel::new(&mut Init::seeded(3, &device), &text, false);
    let mut all = TensorMap::new();
    for (part, network) in [
        (Part::Unet, weights::export(&unet)),
        (Part::Vae, weights::export(&vae)),
        (Part::Text, weights::export(&text)),
    ] {
        for (name, mut tensor) in network {
            let (old, take) = names.to_ldm(part, &name).unwrap();
            if take == Take::Square {
                tensor.shape.extend([1, 1]);
            }
            all.insert(old, tensor);
        }
    }
    all
}

/// The folder of the cache that a file was copied to.
pub(crate) fn copies(cache: &Path) -> Vec<std::path::PathBuf> {
    let found =
        fs::read_dir(cache.join("craft/models")).map_or(vec![], |dir| dir.flatten().collect());
    let mut found: Vec<_> = found.into_iter().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    found.sort();
    found
}
