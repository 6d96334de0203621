//! The pocket reward models, learned from simulated annotators, in the formats of the real ones.
//!
//! Each starts from towers that know captions, and learns from noisy ratings of individuals of its population; `ir` is held out, with pictures, prompts and people that the other
//! three never saw.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use craft_nn::open_clip;
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::weights;
use craft_pocket::world::Population;
use serde_json::json;

use crate::io::{write_tensors, write_text};
use crate::vae::Vae;
use crate::{BuildError, Options, images};

mod aesthetic;
mod configs;
mod dual;
mod pretrain;
mod ratings;

use aesthetic::aesthetic;
use configs::{clip_json, open_clip_json, preprocessor_json, vision_json};
use dual::dual;

const TEXT_WIDTH: usize = 96;
const EMBED: usize = 64;
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_53, 0.261_302_6, 0.275_777_1];

fn pixels(pictures: &[Vec<u8>], device: &Device) -> Tensor<4> {
    images::scaled(pictures, device, MEAN, STD)
}

fn pick<T: Clone>(from: &[T], rows: &[usize]) -> Vec<T> {
    rows.iter().map(|&i| from[i].clone()).collect()
}

/// Builds those reward models whose folders are not complete. `agreement.json` is written last.
pub(crate) fn build(o: &Options, tokenizer: &ClipTokenizer) -> Result<(), BuildError> {
    let vae = Vae::load(&o.out, &Device::flex())?;
    for (name, population) in [
        ("pocket-hps", Population::Hps),
        ("pocket-pick", Population::Pick),
        ("pocket-aes", Population::Aes),
        ("pocket-ir", Population::Ir),
    ] {
        let dir = o.out.join("rewards").join(name);
        if dir.join("agreement.json").exists() {
            continue;
        }
        craft_store::atomic::create_dir(&dir)?;
        write_text(&dir.join("preprocessor_config.json"), &format!("{:#}\n", preprocessor_json()))?;
        let report = if population == Population::Aes {
            let (net, report) = aesthetic(o, &vae, tokenizer)?;
            let mut config = vision_json();
            config["architectures"] = json!(["CLIPVisionModelWithProjection"]);
            write_text(&dir.join("config.json"), &format!("{config:#}\n"))?;
            write_tensors(&dir.join("model.safetensors"), weights::export(&net.tower), true)?;
            write_tensors(&dir.join("head.safetensors"), weights::export(&net.head), true)?;
            report
        } else {
            copy_tokenizer(&o.out.join("tokenizer"), &dir)?;
            if population == Population::Hps {
                let padded = tokenizer.clone().with_pad(0);
                let (model, report) = dual(o, &vae, population, &padded, name)?;
                let config = open_clip_json(tokenizer);
                write_text(&dir.join("open_clip_config.json"), &format!("{config:#}\n"))?;
                let tensors = open_clip::from_transformers(&model.to_tensors());
                write_tensors(&dir.join("open_clip_model.safetensors"), tensors, true)?;
                report
            } else {
                let (model, report) = dual(o, &vae, population, tokenizer, name)?;
                write_text(&dir.join("config.json"), &format!("{:#}\n", clip_json(tokenizer)))?;
                write_tensors(&dir.join("model.safetensors"), model.to_tensors(), true)?;
                report
            }
        };
        write_text(&dir.join("agreement.json"), &format!("{report:#}\n"))?;
    }
    Ok(())
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), BuildError> {
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"] {
        let text = crate::io::read_text(&from.join(name))?;
        write_text(&to.join(name), &text)?;
    }
    Ok(())
}
