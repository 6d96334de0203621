//! Image and text towers that know captions, from which every reward model starts.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};
use craft_nn::clip::{ClipConfig, ClipModel};
use craft_nn::init::Init;
use craft_nn::tokenizer::ClipTokenizer;
use craft_pocket::world::{Population, WorldRng, neighbour, sample_training_example};
use rayon::prelude::*;

use super::pixels;
use super::ratings::ROUND_TRIP;
use crate::fit::{Fit, fit};
use crate::io::write_tensors;
use crate::vae::Vae;
use crate::{BuildError, Options, images};

/// Captioned pictures of a pretraining step.
const CAPTIONED: usize = 64;

/// An image and a text tower that know captioned pictures but no preferences yet, as the real reward models
/// start from CLIP. The held-out population has one of its own, from pictures of its own.
pub(super) fn pretrained(
    o: &Options,
    vae: &Vae,
    population: Population,
    tokenizer: &ClipTokenizer,
    config: &ClipConfig,
    device: &Device,
) -> Result<ClipModel, BuildError> {
    let name = if population == Population::Ir { "clip-held-out" } else { "clip" };
    let path = o.work().join(format!("{name}.safetensors"));
    if path.exists() {
        return Ok(ClipModel::from_tensors(config, crate::io::read_tensors(&path)?, device)?);
    }
    let seed = o.seed ^ if population == Population::Ir { 0x1c11b } else { 0xc11b };
    let model = ClipModel::new(&mut Init::seeded(seed, device), config);
    let model = fit(
        o,
        &Fit {
            name,
            steps: o.scaled(2400),
            lr: 2e-3,
            weight_decay: 1e-2,
            ema: 0.99,
            save_every: 200,
        },
        model,
        |model, step| {
            // Every picture beside one that differs in a fact: among strangers nobody needs to count.
            let drawn: Vec<(Vec<u8>, String)> = (0..CAPTIONED / 2)
                .into_par_iter()
                .flat_map_iter(|i| {
                    let mut rng = WorldRng::stream(seed, (step * CAPTIONED + i) as u64);
                    let example = sample_training_example(&mut rng);
                    let other = neighbour(&example, &mut rng);
                    [example, other].map(|e| (e.render(), e.caption))
                })
                .collect();
            let (mut pictures, captions): (Vec<_>, Vec<_>) = drawn.into_iter().unzip();
            let seen = CAPTIONED / ROUND_TRIP / 2;
            let through = vae.round_trip(&pictures[..seen]);
            pictures[..seen].clone_from_slice(&through);
            let ids = images::ids(tokenizer, &captions, device);
            let text = model.text_embeds(ids);
            let image = model.image_embeds(pixels(&pictures, device));
            let logits = image.matmul(text.transpose()) * model.scale().unsqueeze::<2>();
            let diagonal = Tensor::<2>::eye(CAPTIONED, device);
            let right = |axis: usize| {
                (log_softmax(logits.clone(), axis) * diagonal.clone()).sum() / CAPTIONED as f64
            };
            (right(0) + right(1)) * -0.5
        },
    )?;
    write_tensors(&path, model.to_tensors(), false)?;
    Ok(model)
}
