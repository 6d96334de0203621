//! `craft bench`

mod flops;
mod phases;
mod train;

use std::time::Instant;

use burn::tensor::{Tensor, TensorData};
use craft_core::Progress;
use craft_core::recipe::Precision as WeightFormat;
use craft_core::rng::Key;
use craft_core::sampler::{Sampler, advance, ddim, guide};
use craft_model::Model;
use craft_model::condition::TextEmbedding;
use craft_model::denoiser::Input;
use craft_nn::ops::{self, Precision, SimdLevel, profile};
use craft_nn::weights;
use craft_store::meter;
use serde_json::json;

use self::phases::Phases;
use super::{App, model_dir};
use crate::cli::{BenchArgs, BenchKind, Simd};
use crate::exit::usage;
use crate::progress::Reporter;
use crate::{console, interrupt, system};

/// Steps before the clock counts.
const WARM_UP: usize = 2;

/// What was measured.
struct Measured {
    /// Seconds of each step, sorted.
    seconds: Vec<f64>,
    /// Seconds of all processors for all steps that count; `None` where the system does not say.
    cpu: Option<f64>,
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
    let narrow = match (args.precision.as_str(), args.kind) {
        ("f32", _) => false,
        ("bf16", BenchKind::TrainStep) => true,
        ("bf16", _) => return Err(usage("--precision bf16 goes with train-step only")),
        (other, _) => return Err(usage(format!("--precision {other}: expected f32 or bf16"))),
    };
    if args.kind == BenchKind::Sample && (args.gradient_checkpointing || args.lora_rank.is_some()) {
        return Err(usage("--lora-rank and --gradient-checkpointing go with train-step only"));
    }
    if let Some(simd) = args.simd {
        keep_to(simd)?;
    }
    interrupt::exit_at_once()?;
    let dir = model_dir(app, &args.model, args.model_config.as_deref())?;
    // Frozen weights are rounded as they are read; trained ones have copies in full precision.
    let frozen = args.lora_rank.is_some();
    let precision = if narrow && frozen { WeightFormat::Bf16 } else { WeightFormat::F32 };
    let model = Model::load_as(&dir, app.compute.device(), precision)?;
    let (height, width) = size(args, &model)?;
    let progress = Reporter::new(app.level);
    progress.start("bench", u64::from(args.steps), "steps");
    let measured = match args.kind {
        BenchKind::Sample => sample(args, &model, (height, width), &progress)?,
        BenchKind::TrainStep => train::step(app, args, narrow, model, (height, width), &progress)?,
    };
    progress.finish(&format!("bench: {} steps measured", args.steps));
    print(app, args, (height, width), &measured)
}

/// Keeps the kernels to one instruction set.
fn keep_to(simd: Simd) -> anyhow::Result<()> {
    let (name, level) = match simd {
        Simd::Avx512 => ("avx512", SimdLevel::Avx512),
        Simd::Avx2 => ("avx2", SimdLevel::Avx2),
        Simd::Neon => ("neon", SimdLevel::Neon),
        Simd::Portable => ("portable", SimdLevel::Portable),
    };
    if ops::precision() == Precision::Bf16 && level != SimdLevel::Avx512 {
        return Err(usage(format!(
            "--simd {name}: it has no bf16 multiply-adds; expected --matmul-precision f32 beside it"
        )));
    }
    if !ops::set_simd_level(Some(level)) {
        return Err(usage(format!(
            "--simd {name}: this processor does not have it (`craft doctor` lists what it has)"
        )));
    }
    Ok(())
}

fn size(args: &BenchArgs, model: &Model) -> anyhow::Result<(usize, usize)> {
    let unit = model.vae_config.scale() << (model.unet_config.block_out_channels.len() - 1);
    let [height, width] = model.default_size();
    let (height, width) = (args.height.unwrap_or(height), args.width.unwrap_or(width));
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
        .map(|_| ddim::KIND.sampler(&model.schedule, steps))
        .collect::<Result<_, _>>()
        .map_err(|error| usage(error.to_string()))?;
    let process = model.schedule.process();
    let text = model.encode_texts(&["", "a picture"]);
    let rows: Vec<&TextEmbedding> = (0..2 * b).map(|i| &text[i / b]).collect();
    let condition = model.condition(&rows, [height, width], &model.device);
    let key = Key::new(0).stage("bench");
    let mut latents: Vec<Vec<f32>> =
        (0..b).map(|i| key.clone().sample(i as u64).standard_normals(size)).collect();
    let mut seconds = Vec::with_capacity(steps);
    let mut cpu = None;
    for step in 0..steps {
        if step == WARM_UP {
            cpu = meter::cpu_seconds();
            profile::start();
        }
        let start = Instant::now();
        let t = samplers[0].call(step).level.time as f32;
        let once: Vec<f32> = latents.iter().flatten().copied().collect();
        let input = Tensor::<4>::from_data(TensorData::new(once, [b, c, h, w]), &model.device);
        let input = Input { latents: input, times: &vec![t; b], condition: &condition };
        let output = weights::to_vec(model.denoiser.predict(input));
        let (without, with) = output.split_at(b * size);
        for (i, (sampler, x)) in samplers.iter_mut().zip(&mut latents).enumerate() {
            let range = i * size..(i + 1) * size;
            let output = guide(&without[range.clone()], &with[range], 4.0);
            advance(sampler.as_mut(), process.as_ref(), step, &output, x, &[]);
        }
        if step >= WARM_UP {
            seconds.push(start.elapsed().as_secs_f64());
            progress.advance(1);
        }
    }
    let cpu = since(cpu);
    let phases = Phases::new(profile::stop(), 0.0, &seconds);
    let start = Instant::now();
    let data = TensorData::new(latents.concat(), [b, c, h, w]);
    let latents = model.vae_config.unscale_latents(Tensor::<4>::from_data(data, &model.device));
    std::hint::black_box(weights::to_vec(model.vae.decode(latents)));
    let decode = Some(start.elapsed().as_secs_f64());
    seconds.sort_by(f64::total_cmp);
    let flops = b as f64 * flops::guided(model, h, w);
    Ok(Measured { seconds, cpu, decode, flops, phases })
}

/// Processor seconds since a reading.
fn since(before: Option<f64>) -> Option<f64> {
    Some(meter::cpu_seconds()? - before?)
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
    let roofline = ops::peak_gflops();
    let matmul = match ops::precision() {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    };
    let rss = meter::peak_rss_bytes();
    if app.json {
        let line = json!({
            "bench": kind, "model": args.model, "batch": args.batch, "height": height,
            "width": width, "precision": args.precision, "matmul_precision": matmul, "steps": args.steps, "threads": threads, "instructions": format!("{:?}", ops::simd_level()),
            "seconds_per_step": {
                "median": median, "min": measured.quantile(0.0), "max": measured.quantile(1.0),
                "p25": measured.quantile(0.25), "p75": measured.quantile(0.75),
            },
            "cpu_seconds_per_step": measured.cpu.map(|cpu| cpu / steps),
            "lora_rank": args.lora_rank, "gradient_checkpointing": args.gradient_checkpointing,
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
        "{kind}: {} at {height}×{width}, batch {}, {} steps, {threads} threads, {:?}, {}, products in {matmul}",
        args.model,
        args.batch,
        args.steps,
        ops::simd_level(),
        args.precision
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
