//! Rewards that read the prompt: dual encoders.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use craft_core::rng::Key;
use craft_nn::clip::{ClipConfig, ClipModel};
use craft_nn::init::Init;
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::weights;
use craft_pocket::world::{Annotators, Population};
use serde_json::{Value, json};

use super::configs::clip_json;
use super::pretrain::pretrained;
use super::ratings::{
    Pairs, RATED, ROUND_TRIP, miscounted, pairs, rated, rating_loss, sittings, standardised,
};
use super::{pick, pixels};
use crate::fit::{Fit, fit};
use crate::vae::Vae;
use crate::{BuildError, Options, images};

/// A dual encoder whose similarities are read as ratings: `scale · (cosine − offset)`.
#[derive(Module, Debug)]
struct RatedClip {
    clip: ClipModel,
    offset: Param<Tensor<1>>,
}

pub(super) fn dual(
    o: &Options,
    vae: &Vae,
    population: Population,
    tokenizer: &ClipTokenizer,
    state: &'static str,
) -> Result<(ClipModel, Value), BuildError> {
    let people = Annotators::new(population);
    let data = rated(o, vae, population, 0, 2 * o.scaled(16_000))?;
    let wanted = standardised(&data.ratings);
    let device = Device::flex().autodiff();
    let config = ClipConfig::from_json(&clip_json(tokenizer).to_string())?;
    let clip = pretrained(o, vae, population, tokenizer, &config, &device)?;
    // Similarities of the pretrained towers, so that scores start near the ratings' scale.
    let first: Vec<usize> = (0..wanted.len().min(256)).collect();
    let image = clip.image_embeds(pixels(&pick(&data.pictures, &first), &device));
    let text = clip.text_embeds(images::ids(tokenizer, &pick(&data.texts, &first), &device));
    let cosines: Vec<f64> =
        weights::to_vec((image * text).sum_dim(1)).into_iter().map(f64::from).collect();
    let (mean, std) = craft_core::stats::mean_std(&cosines);
    let mut init = Init::zeros(&device);
    let offset = init.constant([1], mean as f32);
    let mut clip = clip;
    clip.logit_scale = init.constant([1], (0.5 / std).ln() as f32);
    let key = Key::new(o.seed).stage(state);
    let model = fit(
        o,
        &Fit {
            name: state,
            steps: o.scaled(1000),
            lr: 1e-3,
            weight_decay: 1e-2,
            ema: 0.98,
            save_every: 100,
        },
        RatedClip { clip, offset },
        |model, step| {
            let mut stream = key.clone().step(step as u64).stream();
            let rows = sittings(&mut stream, wanted.len());
            let ids = images::ids(tokenizer, &pick(&data.texts, &rows), &device);
            let image = model.clip.image_embeds(pixels(&pick(&data.pictures, &rows), &device));
            let cosine = (image * model.clip.text_embeds(ids)).sum_dim(1);
            let score = (cosine - model.offset.val().unsqueeze::<2>())
                * model.clip.scale().unsqueeze::<2>();
            let wanted = TensorData::new(pick(&wanted, &rows), [RATED, 1]);
            rating_loss(score - Tensor::from_data(wanted, &device))
        },
    )?
    .clip;
    // Measured on people and pictures that training never saw.
    let plain = Device::flex();
    let model = ClipModel::from_tensors(&config, model.to_tensors(), &plain)?;
    let test = pairs(o, vae, &people, 1, o.scaled(1500));
    let margins = margins(&model, tokenizer, &test, &plain);
    let seen = test.texts.len() / ROUND_TRIP;
    let counted = miscounted(o, vae, &people, o.scaled(1000));
    let counting = agreement(&self::margins(&model, tokenizer, &counted, &plain), &counted.truth);
    let report = json!({
        "annotator_choices": agreement(&margins, &test.chosen),
        "population_without_noise": agreement(&margins, &test.truth),
        "population_without_noise_seen_through_vae": agreement(&margins[..seen], &test.truth[..seen]),
        "right_number_before_wrong_number_seen_through_vae": counting,
        "pairs": test.texts.len(),
    });
    tracing::info!("{state}: {report}");
    Ok((model, report))
}

/// Share of pairs whose order the scores give as `truth` has it.
fn agreement(margins: &[f32], truth: &[f32]) -> f64 {
    let right = margins.iter().zip(truth).filter(|(m, t)| (**m > 0.0) == (**t > 0.5)).count();
    right as f64 / truth.len().max(1) as f64
}

fn margins(model: &ClipModel, tokenizer: &ClipTokenizer, p: &Pairs, device: &Device) -> Vec<f32> {
    let mut out = Vec::with_capacity(p.texts.len());
    for start in (0..p.texts.len()).step_by(64) {
        let end = (start + 64).min(p.texts.len());
        let text = model.text_embeds(images::ids(tokenizer, &p.texts[start..end], device));
        let a = model.image_embeds(pixels(&p.a[start..end], device));
        let b = model.image_embeds(pixels(&p.b[start..end], device));
        out.extend(weights::to_vec(((a - b) * text).sum_dim(1)));
    }
    out
}
