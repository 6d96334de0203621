//! The reward that never reads the prompt: an image tower and the head of the LAION aesthetic predictor.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use craft_core::rng::Key;
use craft_nn::clip::{ClipConfig, ClipVisionConfig, ClipVisionModel};
use craft_nn::init::Init;
use craft_nn::layers::Linear;
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::weights;
use craft_pocket::world::Population;
use serde_json::{Value, json};

use super::configs::{clip_json, vision_json};
use super::pretrain::pretrained;
use super::ratings::{RATED, ROUND_TRIP, rated, rating_loss, sittings};
use super::{EMBED, pick, pixels};
use crate::fit::{Fit, fit};
use crate::vae::Vae;
use crate::{BuildError, Options};

/// Image tower and head of the aesthetic reward.
#[derive(Module, Debug)]
pub(super) struct AestheticNet {
    pub(super) tower: ClipVisionModel,
    pub(super) head: Head,
}

/// The five linear maps of the LAION head, with its names.
#[derive(Module, Debug)]
pub(super) struct Head {
    layers_at_0: Linear,
    layers_at_2: Linear,
    layers_at_4: Linear,
    layers_at_6: Linear,
    layers_at_7: Linear,
}

impl AestheticNet {
    fn score(&self, pixels: Tensor<4>) -> Tensor<2> {
        let out = self.tower.forward(pixels);
        let x = craft_nn::clip::normalise(out.image_embeds.unwrap_or(out.pooled));
        let h = &self.head;
        let x = h.layers_at_2.forward(h.layers_at_0.forward(x));
        h.layers_at_7.forward(h.layers_at_6.forward(h.layers_at_4.forward(x)))
    }
}

pub(super) fn aesthetic(
    o: &Options,
    vae: &Vae,
    tokenizer: &ClipTokenizer,
) -> Result<(AestheticNet, Value), BuildError> {
    let data = rated(o, vae, Population::Aes, 0, 2 * o.scaled(16_000))?;
    let device = Device::flex().autodiff();
    let config = ClipVisionConfig::from_json(&vision_json().to_string())?;
    let mut init = Init::seeded(o.seed ^ 0xae5, &device);
    let clip = ClipConfig::from_json(&clip_json(tokenizer).to_string())?;
    let clip = pretrained(o, vae, Population::Aes, tokenizer, &clip, &device)?;
    let tower = ClipVisionModel::from_tensors(&config, clip.to_tensors(), &device)?;
    let head = Head {
        layers_at_0: Linear::new(&mut init, EMBED, 64, true),
        layers_at_2: Linear::new(&mut init, 64, 32, true),
        layers_at_4: Linear::new(&mut init, 32, 16, true),
        layers_at_6: Linear::new(&mut init, 16, 8, true),
        layers_at_7: Linear::new(&mut init, 8, 1, true),
    };
    let key = Key::new(o.seed).stage("pocket-aes");
    let net = fit(
        o,
        &Fit {
            name: "pocket-aes",
            steps: o.scaled(800),
            lr: 1e-3,
            weight_decay: 1e-2,
            ema: 0.98,
            save_every: 80,
        },
        AestheticNet { tower, head },
        |net, step| {
            let mut stream = key.clone().step(step as u64).stream();
            let rows = sittings(&mut stream, data.ratings.len());
            let wanted = pick(&data.ratings, &rows);
            let wanted = Tensor::from_data(TensorData::new(wanted, [RATED, 1]), &device);
            let error = net.score(pixels(&pick(&data.pictures, &rows), &device)) - wanted;
            rating_loss(error) * 0.25
        },
    )?;
    let test = rated(o, vae, Population::Aes, 1, o.scaled(1500))?;
    let mut scores = Vec::new();
    for part in test.pictures.chunks(64) {
        scores.extend(weights::to_vec(net.score(pixels(part, &device))).into_iter().map(f64::from));
    }
    let to64 = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    let seen = test.ratings.len() / ROUND_TRIP;
    let pearson = craft_core::stats::pearson;
    let report = json!({
        "correlation_with_ratings": pearson(&scores, &to64(&test.ratings)),
        "correlation_with_consensus": pearson(&scores, &to64(&test.consensus)),
        "correlation_with_consensus_seen_through_vae":
            pearson(&scores[..seen], &to64(&test.consensus[..seen])),
        "pictures": test.ratings.len(),
    });
    tracing::info!("pocket-aes: {report}");
    Ok((net, report))
}
