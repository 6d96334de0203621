//! What a run made, in the formats of other tools. Everything is made beside its target, read back and
//! compared with the tuned model before it gets its name.

mod adapter;
mod whole;

use std::path::Path;

use craft_core::recipe::Recipe;
use craft_core::{Key, Prompt};
use craft_nn::lora::Unplaced;
use craft_store::image::RgbImage;
use craft_store::raw::{Format as Number, RawReader};
use craft_store::staging::{self, Staging};
use craft_store::weights::{self, DIFFUSERS};
use craft_store::{atomic, jsonl};
use serde_json::Value;

use crate::context::Context;
use crate::error::{PipelineError, Result};
use crate::start::{arm_model, base_hash, base_model};
use craft_model::dtype::{self, Dtype, Formats};
use craft_model::lora::LORA_FILE;
use craft_model::model::{Model, read_tensors};
use craft_model::sample::{Job, StepNoise, draw};
use craft_model::single_file::{self, About, RUN_KEY};

/// Formats of [`export`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A model folder in the diffusers layout.
    Diffusers,
    /// A LoRA file in the keys of sd-scripts.
    LoraKohya,
    /// A LoRA file in diffusers' keys.
    LoraDiffusers,
    /// One checkpoint file in the keys of the original code.
    SingleFile,
}

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// As what.
    pub format: Format,
    /// Rank of a LoRA that comes nearest to a change of all weights.
    pub rank: usize,
    /// In which number format.
    pub dtype: Dtype,
}

/// Folders of a run that its stages own.
const OWNED: [&str; 11] = [
    "prompts",
    "expanded",
    "candidates",
    "rewards",
    "selection",
    "checkpoints",
    "aligned",
    "control",
    "evaluation",
    "report",
    "cache",
];

/// Refuses a place in the run's own stages: what lies there is known by its hashes.
fn refuse_inside(run_dir: &Path, out: &Path) -> Result<()> {
    let there = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    let nearest = there.ancestors().find_map(|path| path.canonicalize().ok());
    let (Some(nearest), Ok(root)) = (nearest, run_dir.canonicalize()) else { return Ok(()) };
    match nearest.strip_prefix(&root).ok().and_then(|inside| inside.iter().next()) {
        Some(folder) if OWNED.iter().any(|owned| folder == *owned) => {
            Err(PipelineError::Usage(format!(
                "{} lies in {} of the run, which holds what its stages wrote; expected another place: choose a path outside of it",
                out.display(),
                folder.display()
            )))
        }
        _ => Ok(()),
    }
}

/// How an export went.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// Parameters that an adapter changes; 0 for a model folder.
    pub adapted: usize,
    /// Share of the squared change of all parameters that is in the export, 0 to 1.
    pub captured: f64,
    /// The number format of the denoiser's weights or of the factors: f32, f16 or bf16.
    pub dtype: &'static str,
    /// Mean difference between a picture by the export, read back, and by the tuned model, in grey
    /// levels of 0 to 255. Of an export without rounding it is 0, but for a LoRA.
    pub mean_difference: f64,
    /// The largest such difference.
    pub max_difference: u8,
    /// What programs leave out of a LoRA.
    pub unplaced: Vec<Unplaced>,
}

impl Exported {
    fn new(number: Number, (mean_difference, max_difference): (f64, u8)) -> Self {
        Self {
            adapted: 0,
            captured: 1.0,
            dtype: dtype::name(number),
            mean_difference,
            max_difference,
            unplaced: Vec::new(),
        }
    }
}

/// What is made, of what, for whom.
struct Target<'a> {
    out: &'a Path,
    format: Format,
    dtype: Dtype,
    /// Whether the run trained factors.
    has_factors: bool,
    about: About,
    /// Height and width that the run trained at.
    size: [usize; 2],
    /// Text of [`RUN_KEY`].
    run: String,
}

impl Target<'_> {
    fn title(&self) -> String {
        self.out.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Writes the tuned model of a finished run.
///
/// A LoRA file holds the factors of a run that trained some. Of another run it holds the product of
/// `rank` that is nearest to the change of each linear map and convolution; biases and norms have no
/// place in it. A folder of a run that trained factors has them merged in.
///
/// An export that was killed leaves nothing under its name; the next one of the same target removes what it left
/// beside it.
///
/// # Errors
/// When the run has no tuned model yet, `out` is something else, or what was written is not the tuned model.
pub fn export(run_dir: &Path, out: &Path, wish: Wish, context: &Context<'_>) -> Result<Exported> {
    let (recipe, base, base_dir) = crate::run::model_of(run_dir, context)?;
    let aligned = run_dir.join("aligned");
    let stage = aligned.join("stage.json");
    if !stage.is_file() {
        return Err(PipelineError::Input {
            path: run_dir.to_owned(),
            message: "it has no finished tuned model in aligned/; expected a run whose training is done: run `craft train` on it first".to_owned(),
        });
    }
    refuse_inside(run_dir, out)?;
    let Wish { format, rank, dtype } = wish;
    let run = whole::identity(&stage, &format!("{format:?} {dtype:?} {rank}"))?;
    refuse_other(out, format, &run)?;
    if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
        atomic::create_dir(parent)?;
    }
    let place = Staging::begin(out)?;
    let factors = aligned.join(LORA_FILE);
    let tuned = arm_model(&recipe, &base, [&base_dir, &aligned], context.device())?;
    let prompts: Vec<Prompt> = jsonl::read(&run_dir.join("prompts/prompts.jsonl"))?;
    let prompt = prompts.first().map_or("", |p| p.text.as_str());
    let expected = picture(&recipe, &tuned, prompt)?;
    let options = crate::stages::generate::options(&recipe.generate, &tuned)?;
    let target = Target {
        out,
        format,
        dtype,
        has_factors: factors.is_file(),
        about: single_file::about(&base_dir)?,
        size: [options.height, options.width],
        run,
    };
    let compare = |model: &Model| Ok(difference(&expected, &picture(&recipe, model, prompt)?));
    let done = if matches!(format, Format::Diffusers | Format::SingleFile) {
        whole::write(&target, &place, (&aligned, &base_dir), tuned, context, compare)?
    } else {
        drop(tuned);
        check_base(run_dir, &base_hash(&recipe, &base, &base_dir)?, &base_dir)?;
        let mut model = base_model(&recipe, &base, &base_dir, context.device())?;
        let (adapter, captured) = if target.has_factors {
            (craft_model::lora::read(&factors, &model)?, 1.0)
        } else {
            let tuned = read_tensors(&weights::find(&aligned.join("unet"), DIFFUSERS)?)?;
            adapter::nearest(craft_nn::weights::export(&model.denoiser), &tuned, rank)
        };
        let formats = Formats::of(dtype, &base_dir)?;
        let made = place.path();
        let done = adapter::write(&target, &made, (&adapter, &recipe), &formats, &mut model)?;
        let (mean_difference, max_difference) = compare(&model)?;
        Exported { captured, mean_difference, max_difference, ..done }
    };
    if place.commit()? { Ok(done) } else { Err(taken(out, format)) }
}

/// Refuses, before anything is computed, a name that is taken. One that an export gave when it was killed is looked
/// at again.
fn refuse_other(out: &Path, format: Format, run: &str) -> Result<()> {
    if !out.exists() && !out.is_symlink() {
        return Ok(());
    }
    let ours = if !staging::was_interrupted(out)? {
        false
    } else if format == Format::Diffusers {
        out.join("model_index.json").is_file()
    } else {
        let header = RawReader::open(out).ok().map(|reader| reader.metadata().clone());
        header.is_some_and(|header| header.get(RUN_KEY).is_some_and(|found| found == run))
    };
    if ours { Ok(()) } else { Err(taken(out, format)) }
}

fn taken(out: &Path, format: Format) -> PipelineError {
    PipelineError::Usage(format!(
        "{}: it exists; expected the name of a new {}: give another, or remove it",
        out.display(),
        if format == Format::Diffusers { "folder" } else { "file" }
    ))
}

/// A LoRA is a difference to the model that the run tuned, so that model must still be as it was.
fn check_base(run_dir: &Path, hash: &str, base_dir: &Path) -> Result<()> {
    // Of several rounds the first began with it.
    let first = run_dir.join("rounds/1/aligned/stage.json");
    let first = if first.exists() { first } else { run_dir.join("aligned/stage.json") };
    let trained: Value = craft_store::manifest::read_json(&first)?;
    if trained["inputs"]["model"] == hash {
        return Ok(());
    }
    Err(PipelineError::Input {
        path: base_dir.to_owned(),
        message: format!(
            "this is not the model that {} tuned (its files have changed since); expected the same files: put them back, or export with --format diffusers, which needs no base model",
            run_dir.display()
        ),
    })
}

/// One picture as the run draws its candidates.
fn picture(recipe: &Recipe, model: &Model, prompt: &str) -> Result<RgbImage> {
    let options = crate::stages::generate::options(&recipe.generate, model)?;
    let count = model.latent_shape(options.height, options.width).iter().product();
    let key = Key::new(recipe.seed).stage("export");
    let job = Job {
        prompt,
        negative: recipe.generate.negative(),
        noise: key.standard_normals(count),
        step_noise: StepNoise::Key(key),
    };
    let mut drawn = draw(model, &[job], &options, &mut |_| ())?;
    Ok(drawn.remove(0).image)
}

fn difference(a: &RgbImage, b: &RgbImage) -> (f64, u8) {
    let each: Vec<u8> = a.data.iter().zip(&b.data).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: f64 = each.iter().map(|&d| f64::from(d)).sum();
    (sum / each.len().max(1) as f64, each.into_iter().max().unwrap_or(0))
}
