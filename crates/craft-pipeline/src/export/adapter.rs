//! A LoRA file of a run.

use std::collections::BTreeMap;
use std::path::Path;

use craft_core::recipe::Recipe;
use craft_nn::ldm::Family;
use craft_nn::lora::{Adapter, Component, KohyaNames, Pair};
use craft_nn::weights::{HostTensor, TensorMap};
use craft_store::raw::{self, Entry, Format as Number};

use super::{Exported, Format, Target};
use crate::error::{PipelineError, Result};
use craft_model::dtype::{self, Formats};
use craft_model::model::Model;

/// The adapter nearest to `tuned − base`, and the share of the squared change that it holds.
pub(super) fn nearest(base: TensorMap, tuned: &TensorMap, rank: usize) -> (Adapter, f64) {
    let (mut total, mut held) = (0.0, 0.0);
    let mut adapter = Adapter::default();
    for (name, mut change) in base {
        let Some(new) = tuned.get(&name).filter(|t| t.shape == change.shape) else { continue };
        change.data.iter_mut().zip(&new.data).for_each(|(old, new)| *old = new - *old);
        let squares = |t: &HostTensor| t.data.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let before = squares(&change);
        total += before;
        let fits = name.ends_with(".weight") && matches!(change.shape.len(), 2 | 4);
        if before == 0.0 || !fits {
            continue;
        }
        let pair = Pair::nearest(&change, rank);
        pair.add_to(&mut change.data, -1.0);
        held += before - squares(&change);
        adapter.components.entry(Component::Unet).or_default().insert(name, pair);
    }
    (adapter, if total > 0.0 { held / total } else { 1.0 })
}

/// Writes an adapter to `made`, reads it back, compares the factors, and merges what was read into the model.
///
/// # Errors
/// When what was written is not the adapter, or the disk refuses.
pub(super) fn write(
    target: &Target<'_>,
    made: &Path,
    (adapter, recipe): (&Adapter, &Recipe),
    formats: &Formats,
    model: &mut Model,
) -> Result<Exported> {
    let names = KohyaNames::of(&craft_nn::weights::shapes(&model.denoiser));
    let tensors = match target.format {
        Format::LoraDiffusers => adapter.to_diffusers(),
        _ => adapter.to_kohya(&names),
    };
    let format = formats.of_factors();
    // A single number is worth its bits.
    let of = |tensor: &HostTensor| if tensor.shape.is_empty() { Number::F32 } else { format };
    let entries: Vec<Entry> = tensors
        .iter()
        .map(|(name, t)| Entry { name: name.clone(), shape: t.shape.clone(), format: of(t) })
        .collect();
    let header = header(target, adapter, recipe);
    raw::write(made, &entries, &header, |entry| {
        dtype::bytes(&tensors[&entry.name].data, entry.format).map_err(|message| {
            PipelineError::Input {
                path: target.out.to_owned(),
                message: format!("tensor `{}`: {message}", entry.name),
            }
        })
    })?;
    let back = craft_model::lora::read(made, model)?;
    let expected = rounded(adapter, target.format, format);
    if back != expected {
        return Err(PipelineError::Input {
            path: target.out.to_owned(),
            message: "read back, it holds other factors than were written; expected the same: is the disk sound?".to_owned(),
        });
    }
    craft_model::lora::merge(model, &back, 1.0);
    // Files in diffusers' keys are for diffusers, which reads all of them.
    let kohya = target.format == Format::LoraKohya;
    let unplaced = if kohya { adapter.unplaced() } else { Vec::new() };
    Ok(Exported { adapted: adapter.len(), unplaced, ..Exported::new(format, (0.0, 0)) })
}

/// An adapter as its file gives it back.
fn rounded(adapter: &Adapter, dialect: Format, format: Number) -> Adapter {
    let mut all = adapter.clone();
    for pair in all.components.values_mut().flat_map(|pairs| pairs.values_mut()) {
        let rank = pair.rank() as f32;
        if dialect == Format::LoraDiffusers {
            let scale = std::mem::replace(&mut pair.scale, 1.0);
            pair.up.data.iter_mut().for_each(|x| *x *= scale);
        } else {
            pair.scale = pair.scale * rank / rank;
        }
        for half in [&mut pair.down, &mut pair.up] {
            half.data.iter_mut().for_each(|x| *x = dtype::rounded(*x, format));
        }
    }
    all
}

/// What other tools show about a LoRA file.
fn header(target: &Target<'_>, adapter: &Adapter, recipe: &Recipe) -> BTreeMap<String, String> {
    let base = target.about;
    let pair = adapter.components.values().flat_map(BTreeMap::values).next();
    let rank = pair.map_or(0, Pair::rank);
    let alpha = pair.map_or(0.0, |pair| pair.scale * rank as f32);
    let title = target.title();
    let version = match base.family {
        Family::Sd1 => "sd_v1",
        Family::Sd2 if base.v => "sd_v2_v",
        Family::Sd2 => "sd_v2",
        Family::Sdxl => "sdxl_base_v1-0",
    };
    // A1111 tells Stable Diffusion 2 by this text alone.
    let v2 = if base.family == Family::Sd2 { "True" } else { "False" };
    let [height, width] = target.size;
    let texts = [
        ("ss_base_model_version", version.to_owned()),
        ("ss_v2", v2.to_owned()),
        ("ss_output_name", title.clone()),
        ("ss_network_module", "networks.lora".to_owned()),
        ("ss_network_dim", rank.to_string()),
        ("ss_network_alpha", alpha.to_string()),
        ("ss_resolution", format!("({width}, {height})")),
        ("ss_learning_rate", recipe.train.learning_rate.to_string()),
        ("ss_max_train_steps", recipe.train.steps.to_string()),
        ("ss_seed", recipe.seed.to_string()),
        ("ss_training_comment", format!("craft {}", env!("CARGO_PKG_VERSION"))),
    ];
    // The names of modules are those of the original code in SDXL's files for sd-scripts only.
    let original = base.family == Family::Sdxl && target.format == Format::LoraKohya;
    let mut all = base.modelspec(&title, "/lora", original, target.size);
    all.extend(texts.into_iter().map(|(key, value)| (key.to_owned(), value)));
    all.insert(craft_model::single_file::RUN_KEY.to_owned(), target.run.clone());
    all
}
