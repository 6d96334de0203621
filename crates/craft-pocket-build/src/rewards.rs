//! The pocket reward models, learned from simulated annotators, in the formats of the real ones.
//!
//! Each starts from towers that know captions, and learns from noisy ratings of individuals of its population; `ir` is held out, with pictures, prompts and people that the other
//! three never saw.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use craft_core::rng::Key;
use craft_nn::clip::{ClipConfig, ClipModel, ClipVisionConfig, ClipVisionModel};
use craft_nn::init::Init;
use craft_nn::layers::Linear;
use craft_nn::open_clip;
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::weights;
use craft_pocket::world::{Annotators, Population, WorldRng, sample_training_example};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::fit::{Fit, fit};
use crate::io::{write_tensors, write_text};
use crate::vae::Vae;
use crate::{BuildError, MAX_TOKENS, Options, images};

/// Rated pictures of a training step.
const RATED: usize = 64;
const WIDTH: usize = 128;
const TEXT_WIDTH: usize = 96;
const EMBED: usize = 64;
/// Share of the pairs that are seen through the autoencoder, as generated pictures are.
const ROUND_TRIP: usize = 4;
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_53, 0.261_302_6, 0.275_777_1];

fn vision_json() -> Value {
    json!({
        "hidden_act": "gelu", "hidden_size": WIDTH, "image_size": 64,
        "intermediate_size": 4 * WIDTH, "layer_norm_eps": 1e-5, "model_type": "clip_vision_model",
        "num_attention_heads": 4, "num_channels": 3, "num_hidden_layers": 3, "patch_size": 8,
        "projection_dim": EMBED,
    })
}

fn clip_json(tokenizer: &ClipTokenizer) -> Value {
    json!({
        "architectures": ["CLIPModel"],
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": EMBED,
        "text_config": {
            "bos_token_id": tokenizer.eos() - 1, "eos_token_id": tokenizer.eos(),
            "pad_token_id": tokenizer.eos(), "hidden_act": "gelu", "hidden_size": TEXT_WIDTH,
            "intermediate_size": 4 * TEXT_WIDTH, "layer_norm_eps": 1e-5,
            "max_position_embeddings": MAX_TOKENS, "model_type": "clip_text_model",
            "num_attention_heads": 4, "num_hidden_layers": 2, "projection_dim": EMBED,
            "vocab_size": tokenizer.vocab_size(),
        },
        "vision_config": vision_json(),
    })
}

fn open_clip_json(tokenizer: &ClipTokenizer) -> Value {
    json!({
        "model_cfg": {
            "embed_dim": EMBED,
            "vision_cfg": {
                "image_size": 64, "layers": 3, "width": WIDTH, "head_width": WIDTH / 4,
                "patch_size": 8,
            },
            "text_cfg": {
                "context_length": MAX_TOKENS, "vocab_size": tokenizer.vocab_size(),
                "width": TEXT_WIDTH, "heads": 4, "layers": 2,
            },
        },
        "preprocess_cfg": { "mean": MEAN, "std": STD },
    })
}

fn preprocessor_json() -> Value {
    json!({
        "crop_size": { "height": 64, "width": 64 }, "do_center_crop": true,
        "do_convert_rgb": true, "do_normalize": true, "do_rescale": true, "do_resize": true,
        "image_mean": MEAN, "image_processor_type": "CLIPImageProcessor", "image_std": STD,
        "resample": 3, "rescale_factor": 1.0 / 255.0, "size": { "shortest_edge": 64 },
    })
}

/// Choices between two pictures.
struct Pairs {
    texts: Vec<String>,
    a: Vec<Vec<u8>>,
    b: Vec<Vec<u8>>,
    /// 1 where a was chosen.
    chosen: Vec<f32>,
    /// 1 where a is worth more to the population as a whole.
    truth: Vec<f32>,
}

fn pairs(o: &Options, vae: &Vae, people: &Annotators, stream: u64, n: usize) -> Pairs {
    let drawn: Vec<_> = (0..n)
        .into_par_iter()
        .map(|i| {
            let seed = o.seed ^ (0x9a15 + people.population() as u64 * 101 + stream * 7919);
            let pair = people.sample_pair(&mut WorldRng::stream(seed, i as u64));
            (pair.a.render(), pair.b.render(), pair)
        })
        .collect();
    let mut out = Pairs { texts: vec![], a: vec![], b: vec![], chosen: vec![], truth: vec![] };
    for (a, b, pair) in drawn {
        out.texts.push(pair.prompt.text);
        out.a.push(a);
        out.b.push(b);
        out.chosen.push(f32::from(u8::from(pair.a_preferred)));
        out.truth.push(f32::from(u8::from(pair.margin > 0.0)));
    }
    let seen = n / ROUND_TRIP;
    for side in [&mut out.a, &mut out.b] {
        let through = vae.round_trip(&side[..seen]);
        side[..seen].clone_from_slice(&through);
    }
    out
}

fn pixels(pictures: &[Vec<u8>], device: &Device) -> Tensor<4> {
    images::scaled(pictures, device, MEAN, STD)
}

fn pick<T: Clone>(from: &[T], rows: &[usize]) -> Vec<T> {
    rows.iter().map(|&i| from[i].clone()).collect()
}

/// Share of pairs whose order the scores give as `truth` has it.
fn agreement(margins: &[f32], truth: &[f32]) -> f64 {
    let right = margins.iter().zip(truth).filter(|(m, t)| (**m > 0.0) == (**t > 0.5)).count();
    right as f64 / truth.len().max(1) as f64
}

/// Values with mean 0 and standard deviation 1.
fn standardised(values: &[f32]) -> Vec<f32> {
    let wide: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
    let (mean, std) = craft_core::stats::mean_std(&wide);
    wide.iter().map(|v| ((v - mean) / std.max(1e-6)) as f32).collect()
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

/// Captioned pictures of a pretraining step.
const CAPTIONED: usize = 64;

/// An image and a text tower that know captioned pictures but no preferences yet, as the real reward models
/// start from CLIP. The held-out population has one of its own, from pictures of its own.
fn pretrained(
    o: &Options,
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
        &o.work(),
        &Fit {
            name,
            steps: o.scaled(1800),
            lr: 2e-3,
            weight_decay: 1e-2,
            ema: 0.99,
            save_every: 200,
        },
        model,
        |model, step| {
            let drawn: Vec<(Vec<u8>, String)> = (0..CAPTIONED)
                .into_par_iter()
                .map(|i| {
                    let mut rng = WorldRng::stream(seed, (step * CAPTIONED + i) as u64);
                    let example = sample_training_example(&mut rng);
                    (example.render(), example.caption)
                })
                .collect();
            let (pictures, captions): (Vec<_>, Vec<_>) = drawn.into_iter().unzip();
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

/// A dual encoder whose similarities are read as ratings: `scale · (cosine − offset)`.
#[derive(Module, Debug)]
struct RatedClip {
    clip: ClipModel,
    offset: Param<Tensor<1>>,
}

fn dual(
    o: &Options,
    vae: &Vae,
    population: Population,
    tokenizer: &ClipTokenizer,
    state: &'static str,
) -> Result<(ClipModel, Value), BuildError> {
    let people = Annotators::new(population);
    let data = rated(o, vae, population, 0, o.scaled(18_000));
    let wanted = standardised(&data.ratings);
    let device = Device::flex().autodiff();
    let config = ClipConfig::from_json(&clip_json(tokenizer).to_string())?;
    let clip = pretrained(o, population, tokenizer, &config, &device)?;
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
        &o.work(),
        &Fit {
            name: state,
            steps: o.scaled(675),
            lr: 1e-3,
            weight_decay: 1e-2,
            ema: 0.98,
            save_every: 100,
        },
        RatedClip { clip, offset },
        |model, step| {
            let mut stream = key.clone().step(step as u64).stream();
            let rows: Vec<usize> = (0..RATED).map(|_| stream.index(wanted.len())).collect();
            let ids = images::ids(tokenizer, &pick(&data.texts, &rows), &device);
            let image = model.clip.image_embeds(pixels(&pick(&data.pictures, &rows), &device));
            let cosine = (image * model.clip.text_embeds(ids)).sum_dim(1);
            let score = (cosine - model.offset.val().unsqueeze::<2>())
                * model.clip.scale().unsqueeze::<2>();
            let wanted = TensorData::new(pick(&wanted, &rows), [RATED, 1]);
            (score - Tensor::from_data(wanted, &device)).powi_scalar(2).mean()
        },
    )?
    .clip;
    // Measured on people and pictures that training never saw.
    let plain = Device::flex();
    let model = ClipModel::from_tensors(&config, model.to_tensors(), &plain)?;
    let test = pairs(o, vae, &people, 1, o.scaled(1500));
    let margins = margins(&model, tokenizer, &test, &plain);
    let seen = test.texts.len() / ROUND_TRIP;
    let report = json!({
        "annotator_choices": agreement(&margins, &test.chosen),
        "population_without_noise": agreement(&margins, &test.truth),
        "population_without_noise_seen_through_vae": agreement(&margins[..seen], &test.truth[..seen]),
        "pairs": test.texts.len(),
    });
    tracing::info!("{state}: {report}");
    Ok((model, report))
}

/// Image tower and head of the aesthetic reward.
#[derive(Module, Debug)]
struct AestheticNet {
    tower: ClipVisionModel,
    head: Head,
}

/// The five linear maps of the LAION head, with its names.
#[derive(Module, Debug)]
struct Head {
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

struct Rated {
    texts: Vec<String>,
    pictures: Vec<Vec<u8>>,
    ratings: Vec<f32>,
    consensus: Vec<f32>,
}

fn rated(o: &Options, vae: &Vae, population: Population, stream: u64, n: usize) -> Rated {
    let people = Annotators::new(population);
    let drawn: Vec<_> = (0..n)
        .into_par_iter()
        .map(|i| {
            let seed = o.seed ^ (0xae5 + population as u64 * 131 + stream * 7919);
            let rated = people.sample_rating(&mut WorldRng::stream(seed, i as u64));
            (rated.prompt.text, rated.picture.render(), rated.rating, rated.consensus)
        })
        .collect();
    let mut out = Rated { texts: vec![], pictures: vec![], ratings: vec![], consensus: vec![] };
    for (text, picture, rating, consensus) in drawn {
        out.texts.push(text);
        out.pictures.push(picture);
        out.ratings.push(rating);
        out.consensus.push(consensus);
    }
    let seen = n / ROUND_TRIP;
    let through = vae.round_trip(&out.pictures[..seen]);
    out.pictures[..seen].clone_from_slice(&through);
    out
}

fn aesthetic(
    o: &Options,
    vae: &Vae,
    tokenizer: &ClipTokenizer,
) -> Result<(AestheticNet, Value), BuildError> {
    let data = rated(o, vae, Population::Aes, 0, o.scaled(18_000));
    let device = Device::flex().autodiff();
    let config = ClipVisionConfig::from_json(&vision_json().to_string())?;
    let mut init = Init::seeded(o.seed ^ 0xae5, &device);
    let clip = ClipConfig::from_json(&clip_json(tokenizer).to_string())?;
    let clip = pretrained(o, Population::Aes, tokenizer, &clip, &device)?;
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
        &o.work(),
        &Fit {
            name: "pocket-aes",
            steps: o.scaled(600),
            lr: 1e-3,
            weight_decay: 1e-2,
            ema: 0.98,
            save_every: 80,
        },
        AestheticNet { tower, head },
        |net, step| {
            let mut stream = key.clone().step(step as u64).stream();
            let rows: Vec<usize> = (0..RATED).map(|_| stream.index(data.ratings.len())).collect();
            let wanted = pick(&data.ratings, &rows);
            let wanted = Tensor::from_data(TensorData::new(wanted, [RATED, 1]), &device);
            let error = net.score(pixels(&pick(&data.pictures, &rows), &device)) - wanted;
            error.powi_scalar(2).mean() * 0.25
        },
    )?;
    let test = rated(o, vae, Population::Aes, 1, o.scaled(1500));
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
        let text = std::fs::read_to_string(from.join(name))
            .map_err(|e| BuildError::Missing(from.join(name), e))?;
        write_text(&to.join(name), &text)?;
    }
    Ok(())
}
