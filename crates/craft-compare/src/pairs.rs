//! Pairs of pictures that annotators judged: the preference data of the methods that need some.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use craft_core::Recipe;
use craft_model::model::{Model, read_tensors, write_tensors};
use craft_nn::weights::{self, HostTensor};
use craft_store::{Manifest, RgbImage, Stage, jsonl};
use craft_train::set::{Sample, Set, Unit};
use serde::{Deserialize, Serialize};

use super::evaluator::Evaluator;
use super::pipeline::{
    Context, Outcome, PipelineError, Result, Run, candidate_options, inputs, training_model,
};
use super::plan::Plan;

const STAGE: Stage = Stage::new("pairs", "pairs");
/// Pictures that are encoded at a time.
const BATCH: usize = 32;

#[derive(Serialize, Deserialize)]
struct PairRow {
    prompt: String,
}

/// Refuses a model that draws pictures of another size than the annotators', before anything is drawn.
///
/// # Errors
/// Also those of loading the model.
pub(super) fn check(
    recipe: &Recipe,
    base: &Path,
    model_dir: &Path,
    context: &Context<'_>,
) -> Result<()> {
    let model = training_model(recipe, base, model_dir, context.device())?;
    let options = candidate_options(recipe, &model)?;
    let world = context.world("prompts.source")?;
    let pairs = world.preference_pairs(recipe.seed, 1);
    match pairs.first().is_some_and(|p| p.preferred.len() != 3 * options.width * options.height) {
        true => Err(other_size(options.width, options.height)),
        false => Ok(()),
    }
}

fn other_size(width: usize, height: usize) -> PipelineError {
    PipelineError::Usage(format!(
        "the annotators' pictures are 64×64, but {width}×{height} is drawn; leave methods of annotated pairs out, or take the embedded model without generate.height and generate.width"
    ))
}

/// Asks the annotators, and encodes what they saw.
pub(super) fn run(
    run: &Run<'_>,
    plan: &Plan,
    model_hash: &str,
    prompted: &Manifest,
) -> Result<Manifest> {
    let mut inputs = inputs(&[prompted]);
    inputs.insert("model".to_owned(), model_hash.to_owned());
    run.stage(STAGE, &(plan.pairs, run.recipe.seed), inputs, |writer| {
        let world = run.context.world("prompts.source")?;
        let pairs = world.preference_pairs(run.recipe.seed, plan.pairs);
        if pairs.len() < plan.pairs {
            return Err(PipelineError::Usage(format!(
                "--pairs {}: this world's annotators gave only {}",
                plan.pairs,
                pairs.len()
            )));
        }
        let model = Model::load(&plan.model_dir, run.context.device())?;
        let options = candidate_options(run.recipe, &model)?;
        let (height, width) = (options.height, options.width);
        let [c, h, w] = model.latent_shape(height, width);
        run.context.progress.start("pairs", 2 * pairs.len() as u64, "images");
        let pictures: Vec<&Vec<u8>> =
            pairs.iter().flat_map(|pair| [&pair.preferred, &pair.rejected]).collect();
        let mut latents = Vec::with_capacity(pictures.len() * c * h * w);
        for part in pictures.chunks(BATCH) {
            run.context.check()?;
            let mut planes = Vec::with_capacity(part.len() * 3 * height * width);
            for bytes in part {
                let picture = RgbImage::new(width, height, (*bytes).clone())
                    .ok_or_else(|| other_size(width, height))?;
                planes.extend(picture.to_planes());
            }
            let planes = TensorData::new(planes, [part.len(), 3, height, width]);
            let (mean, _) = model.vae.encode(Tensor::from_data(planes, &model.device));
            latents.extend(weights::to_vec(model.vae_config.scale_latents(mean)));
            run.context.progress.advance(part.len() as u64);
        }
        let shape = vec![pictures.len(), c, h, w];
        let tensor = HostTensor { shape, data: latents };
        let all = BTreeMap::from([("latents".to_owned(), tensor)]);
        write_tensors(&writer.join("latents.safetensors"), &all)?;
        let rows = pairs.iter().map(|pair| PairRow { prompt: pair.prompt.clone() });
        jsonl::write(&writer.join("pairs.jsonl"), rows)?;
        let n = pairs.len();
        Ok(Outcome::default().count("pairs", n).say(format!("{n} annotated pairs")))
    })
}

/// The training set of a method over annotated pairs.
pub(super) fn training_set(run: &Run<'_>, labels: bool, evaluator: &Evaluator<'_>) -> Result<Set> {
    let rows: Vec<PairRow> = jsonl::read(&run.path("pairs/pairs.jsonl"))?;
    let latents = read_tensors(&run.path("pairs/latents.safetensors"))?;
    let all = latents.get("latents").map(|t| t.data.as_slice()).unwrap_or_default();
    let size = all.len() / (2 * rows.len()).max(1);
    let mut samples = Vec::with_capacity(2 * rows.len());
    let mut units = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        for (j, side) in ["preferred", "rejected"].iter().enumerate() {
            let place = 2 * i + j;
            samples.push(Sample {
                id: format!("pair {i}, {side}"),
                latents: all[place * size..(place + 1) * size].to_vec(),
                original: row.prompt.clone(),
                expanded: row.prompt.clone(),
            });
            if labels {
                units.push(Unit { samples: vec![place], values: vec![[1.0, 0.0][j]] });
            }
        }
        if !labels {
            units.push(Unit { samples: vec![2 * i, 2 * i + 1], values: vec![1.0, 0.0] });
        }
    }
    Ok(Set::new(samples, units, &evaluator.model, &evaluator.texts))
}
