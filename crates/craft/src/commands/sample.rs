//! `craft sample`

mod noise;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use craft_core::Progress;
use craft_core::sampler::SamplerKind;
use craft_model::Model;
use craft_model::parameters::Parameters;
use craft_model::sample::{DrawOptions, Job, NEVER, Painter};
use craft_model::schedule::{Advice, Intended, advice};
use craft_nn::vae_tiles::Tiles;
use craft_store::tensors::{self, Dtype};
use craft_store::{atomic, image};
use serde_json::json;

use self::noise::{Noise, Source};
use super::{App, POCKET, model_dir};
use crate::cli::SampleArgs;
use crate::exit::{input, usage};
use crate::progress::Reporter;
use crate::{console, interrupt};

/// Latent pixels that are denoised at once; only speed and memory depend on it.
const LATENT_PIXELS_AT_ONCE: usize = 4096;

/// Draws pictures.
pub(super) fn sample(app: &App, args: &SampleArgs) -> anyhow::Result<()> {
    let plan = Plan::new(args)?;
    let noise = args.latents.as_deref().map(noise::read).transpose()?;
    let count = picture_count(args.prompts.len(), noise.as_ref().map(|n| n.shape[0]))?;
    let output = Output::new(args.output.as_deref(), count)?;
    interrupt::exit_at_once()?;

    let loras = args.lora.iter().map(|text| lora(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let dir = model_dir(app, &args.model, args.model_config.as_deref())?;
    let mut model = Model::load(&dir, app.compute.device())?;
    for (path, strength) in &loras {
        let changed = craft_model::lora::apply(&mut model, path, *strength)?;
        tracing::info!("{}: {changed} parameters changed, scale {strength}", path.display());
    }
    model.vae_parts.slicing = args.vae_slicing;
    model.vae_parts.tiles = args.vae_tiling.then(|| Tiles::of(&model.vae_config));
    let options = draw_options(args, &plan, &model, noise.as_ref())?;
    let [c, h, w] = model.latent_shape(options.height, options.width);
    let noisy_calls = noisy_calls(&options, &model)?;
    warn_of_cut_prompts(args, &model);
    advise(args, &plan, &model);

    let given = noise.as_ref();
    let source = Source::new(args, noisy_calls, [count, c * h * w], given.is_none());
    let jobs: Vec<Job<'_>> = (0..count)
        .map(|i| Job {
            prompt: &args.prompts[i.min(args.prompts.len() - 1)],
            negative: args.negative_prompt.as_deref(),
            noise: given.map_or_else(|| source.initial(i), |noise| noise.picture(i)),
            step_noise: source.steps(i),
        })
        .collect();
    let progress = Reporter::new(app.level);
    progress.start("sample", count as u64, "images");
    let mut painter = Painter::new(&model, options, &NEVER)?;
    output.make_folder()?;
    let mut latents = Vec::new();
    let parameters = Parameters {
        negative: args.negative_prompt.as_deref(),
        options: &options,
        model: &Path::new(&args.model).file_name().unwrap_or_default().to_string_lossy(),
        loras: &loras,
    };
    // Each picture lies on disk as soon as its batch is drawn.
    for (first, part) in (0..).step_by(options.batch).zip(jobs.chunks(options.batch)) {
        for (i, (job, drawn)) in (first..).zip(part.iter().zip(painter.batch(part)?)) {
            let path = output.path(i);
            let text = parameters.of(job.prompt, &noise_source(args, i, count));
            image::write_png(&path, &drawn.image, Some(&text))?;
            let shown = path.display().to_string();
            if app.json {
                let seed = noise.is_none().then_some(args.seed);
                let line =
                    json!({ "image": shown, "prompt": job.prompt, "seed": seed, "sample": i });
                console::result(&line.to_string())?;
            } else {
                console::result(&shown)?;
            }
            if args.dump_latents.is_some() {
                latents.extend(drawn.latents);
            }
        }
        progress.advance(part.len() as u64);
    }
    progress.finish(&format!("sample: {count} images"));
    if let Some(path) = &args.dump_latents {
        let shape = [count, c, h, w];
        tensors::write(path, &[("latents", &shape, &latents)], Dtype::F32, &BTreeMap::new())?;
    }
    Ok(())
}

/// How the pictures are drawn by this model; refuses sizes that do not fit it or the noise given.
fn draw_options(
    args: &SampleArgs,
    plan: &Plan,
    model: &Model,
    noise: Option<&Noise>,
) -> anyhow::Result<DrawOptions> {
    let (height, width) = size(args, model, noise)?;
    let [c, h, w] = model.latent_shape(height, width);
    if let (Some(noise), Some(file)) = (noise, &args.latents)
        && noise.shape[1..] != [c, h, w]
    {
        return Err(input(format!(
            "{}: tensor `latents` has shape {:?}; expected [B, {c}, {h}, {w}] for pictures of {height}×{width} by this model: give the height and width that fit",
            file.display(),
            noise.shape
        )));
    }
    Ok(DrawOptions {
        steps: plan.steps,
        guidance_scale: plan.guidance_scale,
        scheduler: plan.scheduler,
        karras: args.karras,
        height,
        width,
        batch: (LATENT_PIXELS_AT_ONCE / (h * w).max(1)).clamp(1, 16),
    })
}

/// How often the sampler adds noise; refuses what the model's schedule cannot do with it.
fn noisy_calls(options: &DrawOptions, model: &Model) -> anyhow::Result<usize> {
    let sampler = options
        .sampler(&model.schedule)
        .map_err(|error| usage(format!("--scheduler {}: {error}", options.scheduler.name)))?;
    Ok(if options.scheduler.stochastic { sampler.calls() } else { 0 })
}

/// What the flags come to.
struct Plan {
    steps: usize,
    guidance_scale: f64,
    scheduler: SamplerKind,
}

impl Plan {
    fn new(args: &SampleArgs) -> anyhow::Result<Self> {
        let pocket = args.model == POCKET;
        let steps = args.steps.unwrap_or(if pocket { 8 } else { 25 });
        if !(1..=1000).contains(&steps) {
            return Err(usage(format!("--steps is {steps}; expected 1 to 1000")));
        }
        let guidance_scale = args.guidance_scale.unwrap_or(if pocket { 4.0 } else { 7.5 });
        if !(guidance_scale.is_finite() && (0.0..=100.0).contains(&guidance_scale)) {
            return Err(usage(format!("--guidance-scale is {guidance_scale}; expected 0 to 100")));
        }
        let scheduler = args.scheduler.unwrap_or_default();
        if args.karras && !scheduler.karras() {
            return Err(usage(format!(
                "--karras with --scheduler {}: expected {}, which can place their steps so",
                scheduler.name,
                SamplerKind::with_karras().join(" or ")
            )));
        }
        Ok(Self { steps, guidance_scale, scheduler })
    }
}

/// File and scale of `FILE[:SCALE]`.
fn lora(text: &str) -> anyhow::Result<(PathBuf, f32)> {
    craft_model::lora::parse(text, Path::new(""))
        .map_err(|error| usage(format!("--lora {text}: {error}")))
}

/// How many pictures prompts and noises make: one of either goes with all of the other.
fn picture_count(prompts: usize, noises: Option<usize>) -> anyhow::Result<usize> {
    match noises {
        None => Ok(prompts),
        Some(n) if n == prompts || n == 1 || prompts == 1 => Ok(n.max(prompts)),
        Some(n) => Err(usage(format!(
            "there are {prompts} prompts and {n} latents; expected as many of both, or one of either"
        ))),
    }
}

/// Height and width in pixels: as given, or of the latents given, or the model's.
fn size(args: &SampleArgs, model: &Model, noise: Option<&Noise>) -> anyhow::Result<(usize, usize)> {
    let scale = model.vae_config.scale();
    let usual = model.default_size();
    let usual = |axis: usize| noise.map_or(usual[axis], |n| n.shape[2 + axis] * scale);
    let height = args.height.unwrap_or_else(|| usual(0));
    let width = args.width.unwrap_or_else(|| usual(1));
    for (flag, size) in [("--height", height), ("--width", width)] {
        if size == 0 || size > image::MAX_SIDE as usize || !size.is_multiple_of(scale) {
            return Err(usage(format!(
                "{flag} is {size}; expected a multiple of {scale} up to {} for this model",
                image::MAX_SIDE
            )));
        }
    }
    Ok((height, width))
}

fn warn_of_cut_prompts(args: &SampleArgs, model: &Model) {
    for text in args.prompts.iter().chain(&args.negative_prompt) {
        let cut = model.tokens_cut(text);
        if cut > 0 {
            tracing::warn!(
                "the last {cut} tokens of `{text}` are cut off: the model reads {} tokens, begin and end included",
                model.tokenizer.length()
            );
        }
    }
}

/// Says where the model was made for another way of drawing.
fn advise(args: &SampleArgs, plan: &Plan, model: &Model) {
    let intended = Intended {
        scheduler: plan.scheduler,
        steps: plan.steps,
        guidance_scale: plan.guidance_scale,
        chosen: [args.scheduler.is_some(), args.steps.is_some(), args.guidance_scale.is_some()],
    };
    match advice(&model.schedule, intended, ["--scheduler", "--steps", "--guidance-scale"]) {
        Some(Advice::Warning(text)) => tracing::warn!("{text}"),
        Some(Advice::Note(text)) => tracing::info!("{text}"),
        None => {}
    }
}

/// Where pictures go.
enum Output {
    File(PathBuf),
    Folder(PathBuf),
}

impl Output {
    fn new(given: Option<&Path>, count: usize) -> anyhow::Result<Self> {
        let Some(path) = given else {
            return Ok(if count == 1 {
                Self::File("sample.png".into())
            } else {
                Self::Folder("samples".into())
            });
        };
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("png") if count == 1 => Ok(Self::File(path.to_owned())),
            Some("png") => Err(usage(format!(
                "--output {} is one file, but there are {count} pictures; give a folder",
                path.display()
            ))),
            Some("jpg" | "jpeg" | "webp" | "bmp" | "gif" | "tif" | "tiff") => Err(usage(format!(
                "--output {}: pictures are written as PNG; give a name that ends in .png, or a folder",
                path.display()
            ))),
            _ => Ok(Self::Folder(path.to_owned())),
        }
    }

    fn make_folder(&self) -> anyhow::Result<()> {
        let folder = match self {
            Self::File(path) => path.parent().filter(|p| !p.as_os_str().is_empty()),
            Self::Folder(path) => Some(path.as_path()),
        };
        if let Some(folder) = folder {
            atomic::create_dir(folder)?;
        }
        Ok(())
    }

    fn path(&self, i: usize) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Folder(path) => path.join(format!("{i:05}.png")),
        }
    }
}

/// What the noise of a picture was drawn from, for its text.
fn noise_source(args: &SampleArgs, i: usize, count: usize) -> String {
    match (&args.latents, count) {
        (Some(_), _) => format!("Latents: {i}"),
        (None, 1) => format!("Seed: {}", args.seed),
        (None, _) => format!("Seed: {}, Sample: {i}", args.seed),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::exit;

    #[test]
    fn prompts_and_latents_pair_up() {
        assert_eq!(picture_count(3, None).unwrap(), 3);
        assert_eq!(picture_count(3, Some(3)).unwrap(), 3);
        assert_eq!(picture_count(1, Some(4)).unwrap(), 4);
        assert_eq!(picture_count(4, Some(1)).unwrap(), 4);
        assert_eq!(exit::code(&picture_count(2, Some(3)).unwrap_err()), exit::USAGE);
    }

    #[test]
    fn a_lora_has_a_scale() {
        assert_eq!(lora("a.safetensors").unwrap(), ("a.safetensors".into(), 1.0));
        assert_eq!(lora("a:b.safetensors:0.5").unwrap(), ("a:b.safetensors".into(), 0.5));
        assert_eq!(lora("C:a.safetensors").unwrap(), ("C:a.safetensors".into(), 1.0));
        assert_eq!(exit::code(&lora("a:nan").unwrap_err()), exit::USAGE);
    }

    #[test]
    fn outputs_are_files_or_folders() {
        assert_eq!(Output::new(None, 1).unwrap().path(0), Path::new("sample.png"));
        let folder = Output::new(Some(Path::new("pictures")), 2).unwrap();
        assert_eq!(folder.path(1), Path::new("pictures/00001.png"));
        assert!(Output::new(Some(Path::new("a.png")), 2).is_err());
        assert!(Output::new(Some(Path::new("a.JPG")), 1).is_err());
    }
}
