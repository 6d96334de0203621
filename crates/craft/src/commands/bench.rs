//! `craft bench`

mod flops;
mod phases;

use std::time::Instant;

use burn::tensor::{Tensor, TensorData};
use craft_core::rng::Key;
use craft_diffusion::objective::weighted_mse;
use craft_diffusion::optimizer::{self, AdamW, AdamWConfig, GradMap};
use craft_diffusion::sampler::{Sampler, Scheduler, guide};
use craft_nn::ops::{self, Precision, profile};
use craft_nn::weights;
use craft_pipeline::model::load_unet;
use craft_pipeline::text::{Condition, TextEmbedding};
use craft_pipeline::{Model, Progress};
use serde_json::json;

use self::phases::Phases;
use super::{App, model_dir};
use crate::cli::{BenchArgs, BenchKind};
use crate::exit::usage;
use crate::progress::Reporter;
use crate::{console, interrupt, system};

/// Steps before the clock counts.
const WARM_UP: usize = 2;

/// What was measured.
struct Measured {
    /// Seconds of each step, sorted.
    seconds: Vec<f64>,
    /// Seconds of decoding the batch.
    decode: Option<f64>,
    /// Floating-point operations of a step.
    flops: f64,
    /// Where the time of all measured steps went.
    phases: Phases,
}

impl Measured {
    fn quantile(&self, q: f64) -> f64 {
        let last = self.seconds.len().saturating_sub(1) as f64;
        self.seconds.get((q * last).round() as usize).copied().unwrap_or(0.0)
    }
}

/// Measures steps of sampling or training.
pub(super) fn bench(app: &App, args: &BenchArgs) -> anyhow::Result<()> {
    match args.precision.as_str() {
        "f32" => {}
        "bf16" => return Err(usage("--precision bf16 is not in this version; expected f32")),
        other => return Err(usage(format!("--precision {other}: expected f32"))),
    }
    interrupt::exit_at_once()?;
    let model = Model::load(&model_dir(&args.model)?, &app.device)?;
    let (height, width) = size(args, &model)?;
    let progress = Reporter::new(app.level);
    progress.start("bench", u64::from(args.steps), "steps");
    let measured = match args.kind {
        BenchKind::Sample => sample(args, &model, (height, width), &progress)?,
        BenchKind::TrainStep => train_step(app, args, &model, (height, width), &progress)?,
    };
    progress.finish(&format!("bench: {} steps measured", args.steps));
    print(app, args, (height, width), &measured)
}

fn size(args: &BenchArgs, model: &Model) -> anyhow::Result<(usize, usize)> {
    let unit = model.vae_config.scale() << (model.unet_config.block_out_channels.len() - 1);
    let height = args.height.unwrap_or(model.default_size());
    let width = args.width.unwrap_or(model.default_size());
    for (flag, size) in [("--height", height), ("--width", width)] {
        if size == 0 || size % unit != 0 || size > 8192 {
            return Err(usage(format!(
                "{flag} is {size}; expected a multiple of {unit} up to 8192 for this model"
            )));
        }
    }
    Ok((height, width))
}

/// Denoising with guidance, as `craft sample` does it, then decoding.
fn sample(
    args: &BenchArgs,
    model: &Model,
    (height, width): (usize, usize),
    progress: &Reporter,
) -> anyhow::Result<Measured> {
    let b = args.batch as usize;
    let [c, h, w] = model.latent_shape(height, width);
    let size = c * h * w;
    let steps = WARM_UP + args.steps as usize;
    let mut samplers: Vec<Box<dyn Sampler>> = (0..b)
        .map(|_| Scheduler::Ddim.sampler(&model.schedule, steps))
        .collect::<Result<_, _>>()
        .map_err(|error| usage(error.to_string()))?;
    let text = model.encode_texts(&["", "a picture"]);
    let rows: Vec<&TextEmbedding> = (0..2 * b).map(|i| &text[i / b]).collect();
    let Condition { states, added } = model.condition(&rows, [height, width], &model.device);
    let key = Key::new(0).stage("bench");
    let mut latents: Vec<Vec<f32>> =
        (0..b).map(|i| key.clone().sample(i as u64).standard_normals(size)).collect();
    let mut seconds = Vec::with_capacity(steps);
    for step in 0..steps {
        if step == WARM_UP {
            profile::start();
        }
        let start = Instant::now();
        let t = samplers[0].timesteps()[step] as f32;
        let once: Vec<f32> = latents.iter().flatten().copied().collect();
        let input = TensorData::new([once.as_slice(), &once].concat(), [2 * b, c, h, w]);
        let input = Tensor::<4>::from_data(input, &model.device);
        let output = model.unet.forward(input, &vec![t; 2 * b], &states, added.as_ref());
        let output = weights::to_vec(output);
        let (without, with) = output.split_at(b * size);
        for (i, (sampler, x)) in samplers.iter_mut().zip(&mut latents).enumerate() {
            let range = i * size..(i + 1) * size;
            sampler.step(step, &guide(&without[range.clone()], &with[range], 4.0), x, &[]);
        }
        if step >= WARM_UP {
            seconds.push(start.elapsed().as_secs_f64());
            progress.advance(1);
        }
    }
    let phases = Phases::new(profile::stop(), 0.0, &seconds);
    let start = Instant::now();
    let data = TensorData::new(latents.concat(), [b, c, h, w]);
    let latents = model.vae_config.unscale_latents(Tensor::<4>::from_data(data, &model.device));
    std::hint::black_box(weights::to_vec(model.vae.decode(latents)));
    let decode = Some(start.elapsed().as_secs_f64());
    seconds.sort_by(f64::total_cmp);
    let flops = 2.0 * b as f64 * flops::forward(model, h, w);
    Ok(Measured { seconds, decode, flops, phases })
}

/// Forward, backward and update of all parameters.
fn train_step(
    app: &App,
    args: &BenchArgs,
    model: &Model,
    (height, width): (usize, usize),
    progress: &Reporter,
) -> anyhow::Result<Measured> {
    let device = app.device.clone().autodiff();
    let (mut unet, _) = load_unet(&model_dir(&args.model)?.join("unet"), &device)?;
    let b = args.batch as usize;
    let [c, h, w] = model.latent_shape(height, width);
    let text = model.encode_texts(&["a picture"]);
    let Condition { states, added } = model.condition(&vec![&text[0]; b], [height, width], &device);
    let key = Key::new(0).stage("bench");
    let mut optimizer = AdamW::new(AdamWConfig::default(), None);
    let mut seconds = Vec::with_capacity(args.steps as usize);
    let last = model.schedule.num_train_timesteps().max(1);
    let mut optimizing = 0.0;
    for step in 0..WARM_UP + args.steps as usize {
        if step == WARM_UP {
            profile::start();
        }
        let mut stream = key.clone().step(step as u64).stream();
        let times: Vec<f32> = (0..b).map(|_| stream.index(last) as f32).collect();
        let noisy = stream.standard_normals(b * c * h * w);
        let target = stream.standard_normals(b * c * h * w);
        let start = Instant::now();
        let host = |data| Tensor::<4>::from_data(TensorData::new(data, [b, c, h, w]), &device);
        let prediction = unet.forward(host(noisy), &times, &states, added.as_ref());
        let loss = weighted_mse(prediction, host(target), &vec![1.0; b], b);
        let mut grads = GradMap::new();
        optimizer::collect(&unet, loss.backward(), &mut grads);
        let update = Instant::now();
        let norm = optimizer::norm(&grads);
        unet = optimizer.step(unet, &grads, 1e-6, (1.0 / (norm + 1e-6)).min(1.0));
        if step >= WARM_UP {
            optimizing += update.elapsed().as_secs_f64();
            seconds.push(start.elapsed().as_secs_f64());
            progress.advance(1);
        }
    }
    let phases = Phases::new(profile::stop(), optimizing, &seconds);
    seconds.sort_by(f64::total_cmp);
    // A backward pass costs two forward passes.
    let flops = 3.0 * b as f64 * flops::forward(model, h, w);
    Ok(Measured { seconds, decode: None, flops, phases })
}

fn print(
    app: &App,
    args: &BenchArgs,
    (height, width): (usize, usize),
    measured: &Measured,
) -> anyhow::Result<()> {
    let median = measured.quantile(0.5);
    let steps = f64::from(args.steps);
    let batch = f64::from(args.batch);
    let per_second = match measured.decode {
        Some(decode) => batch / (steps * median + decode),
        None => batch / median,
    };
    let gflops = measured.flops / median / 1e9;
    let kind = match args.kind {
        BenchKind::Sample => "sample",
        BenchKind::TrainStep => "train-step",
    };
    let threads = rayon::current_num_threads();
    let roofline = profile::peak_gflops();
    let matmul = match ops::precision() {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    };
    let rss = system::peak_rss_bytes();
    if app.json {
        let line = json!({
            "bench": kind, "model": args.model, "batch": args.batch, "height": height,
            "width": width, "precision": args.precision, "matmul_precision": matmul, "steps": args.steps, "threads": threads,
            "seconds_per_step": {
                "median": median, "min": measured.quantile(0.0), "max": measured.quantile(1.0),
                "p25": measured.quantile(0.25), "p75": measured.quantile(0.75),
            },
            "decode_seconds": measured.decode,
            "images_per_second": per_second,
            "gflop_per_step": measured.flops / 1e9,
            "gflops": gflops,
            "roofline_gflops": roofline,
            "phases": measured.phases.json(roofline),
            "peak_rss_bytes": rss,
        });
        return console::result(&line.to_string());
    }
    console::result(&format!(
        "{kind}: {} at {height}×{width}, batch {}, {} steps, {threads} threads, {}, products in {matmul}",
        args.model, args.batch, args.steps, args.precision
    ))?;
    console::result(&format!(
        "seconds per step: {median:.4} (middle half {:.4} to {:.4}, all {:.4} to {:.4})",
        measured.quantile(0.25),
        measured.quantile(0.75),
        measured.quantile(0.0),
        measured.quantile(1.0)
    ))?;
    let what = match measured.decode {
        Some(decode) => format!("with {} steps and decoding ({decode:.4} s)", args.steps),
        None => "trained".to_owned(),
    };
    console::result(&format!("images per second: {per_second:.3} {what}"))?;
    console::result(&format!(
        "{gflops:.1} GFLOP/s ({:.2} GFLOP per step), {:.0} % of the multiply-adds that {threads} threads reach in registers ({roofline:.0} GFLOP/s)",
        measured.flops / 1e9,
        100.0 * gflops / roofline
    ))?;
    for line in measured.phases.lines(roofline) {
        console::result(&line)?;
    }
    if let Some(bytes) = rss {
        console::result(&format!("peak memory: {}", system::gibibytes(bytes)))?;
    }
    Ok(())
}
