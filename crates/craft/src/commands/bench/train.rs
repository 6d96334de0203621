//! Steps of training: of all parameters, or of low-rank factors.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use craft_core::Progress;
use craft_core::recipe::{LoraSection, TrainSection};
use craft_core::rng::Key;
use craft_model::Denoiser;
use craft_model::Model;
use craft_model::denoiser::Input;
use craft_nn::lora::{self, Targets};
use craft_nn::ops::profile;
use craft_nn::weights;
use craft_train::fit::{Pass, State, update};
use craft_train::loss::weighted_mse;
use craft_train::optimizer::{self, AdamW, GradMap};
use craft_train::settings::Settings;

use super::phases::Phases;
use super::{Measured, WARM_UP, flops, since};
use crate::cli::BenchArgs;
use crate::commands::App;
use crate::exit::usage;
use crate::progress::Reporter;
use craft_store::meter;

/// Forward, backward and update. The model is let go but for its denoiser, as in a run.
pub(super) fn step(
    app: &App,
    args: &BenchArgs,
    narrow: bool,
    model: Model,
    (height, width): (usize, usize),
    progress: &Reporter,
) -> anyhow::Result<Measured> {
    let device = app.compute.device().clone().autodiff();
    let b = args.batch as usize;
    let [c, h, w] = model.latent_shape(height, width);
    let text = model.encode_texts(&["a picture"]);
    let condition = model.condition(&vec![&text[0]; b], [height, width], &device);
    // A backward pass costs two forward passes, or about one where weights are frozen, and one more where blocks are computed again.
    let backward = if args.lora_rank.is_some() { 1.0 } else { 2.0 };
    let again = if args.gradient_checkpointing { 1.0 } else { 0.0 };
    let flops = (1.0 + backward + again) * b as f64 * flops::forward(&model, h, w);
    let last = model.schedule.num_train_timesteps().max(1);
    let section = TrainSection { learning_rate: 1e-6, ..TrainSection::default() };
    let settings = Settings::of(&section);
    let mut optimizer = settings.new_optimizer();
    let unet = network(args, narrow, model, &mut optimizer)?;
    let mut state = State::resumed(unet, optimizer, &settings, 0);
    let key = Key::new(0).stage("bench");
    let mut seconds = Vec::with_capacity(args.steps as usize);
    let mut cpu = None;
    let mut optimizing = 0.0;
    for step in 0..WARM_UP + args.steps as usize {
        if step == WARM_UP {
            cpu = meter::cpu_seconds();
            profile::start();
        }
        let mut stream = key.clone().step(step as u64).stream();
        let times: Vec<f32> = (0..b).map(|_| stream.index(last) as f32).collect();
        let noisy = stream.standard_normals(b * c * h * w);
        let target = stream.standard_normals(b * c * h * w);
        let start = Instant::now();
        let host = |data| Tensor::<4>::from_data(TensorData::new(data, [b, c, h, w]), &device);
        let (noisy, target) = (host(noisy), host(target));
        let ones = vec![1.0; b];
        let loss = |prediction| weighted_mse(prediction, target, &ones, b);
        let mut grads = GradMap::new();
        let unet = state.module();
        let mut take = |gradients| optimizer::collect(unet, gradients, &mut grads);
        let input = Input { latents: noisy, times: &times, condition: &condition };
        if args.gradient_checkpointing {
            unet.backward_by_block(input, false, loss, &mut take);
        } else {
            take(loss(unet.predict(input)).backward());
        }
        let pass = Pass { grads, loss: 0.0, samples: Vec::new() };
        let start_of_update = Instant::now();
        update(&mut state, &pass, &settings)?;
        if step >= WARM_UP {
            optimizing += start_of_update.elapsed().as_secs_f64();
            seconds.push(start.elapsed().as_secs_f64());
            progress.advance(1);
        }
    }
    let phases = Phases::new(profile::stop(), optimizing, &seconds);
    let cpu = since(cpu);
    seconds.sort_by(f64::total_cmp);
    Ok(Measured { seconds, cpu, decode: None, flops, phases })
}

/// The denoiser, ready for gradients.
fn network(
    args: &BenchArgs,
    narrow: bool,
    model: Model,
    optimizer: &mut AdamW,
) -> anyhow::Result<Denoiser> {
    let unet = model.denoiser;
    let Some(rank) = args.lora_rank.map(usize::from) else {
        let unet = unet.train();
        return Ok(if narrow { optimizer.to_bf16(unet) } else { unet });
    };
    let targets = Targets::new(LoraSection::default().targets);
    let mut stream = Key::new(0).stage("lora").stream();
    let mut draw = |_: &str, [rows, columns]: [usize; 2]| {
        stream.standard_normals(rows * columns).into_iter().map(|v| v / rank as f32).collect()
    };
    let pairs = targets
        .fresh("the model's unet", &weights::shapes(&unet), rank, 1.0, &mut draw)
        .map_err(|error| usage(format!("--lora-rank: {error}")))?;
    let unet = if narrow { weights::to_bf16(unet) } else { unet };
    Ok(lora::attach(unet.train(), &pairs))
}
