//! `craft doctor`: what this machine is, whether the embedded models are whole, whether the networks
//! compute here what they should.

use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use craft_core::rng::Key;
use craft_core::sampler::SamplerKind;
use craft_model::sample::{DrawOptions, Job, StepNoise, draw};
use craft_model::{Model, sd};
use craft_nn::init::Init;
use craft_nn::ops;
use craft_nn::weights;
use craft_store::{hash, meter, space};
use craft_train::loss::weighted_mse;
use craft_train::optimizer::{self, GradMap};
use serde_json::{Value, json};

use super::{App, pocket};
use crate::exit::chain;
use crate::{console, interrupt, system};

/// Largest difference allowed between the kernels and the library's operations.
const TOLERANCE: f32 = 1e-4;
/// Memory below which the demo may not fit.
const MEMORY_BYTES: u64 = 2 << 30;
/// Disk space that a demo run takes.
const DISK_BYTES: u64 = 500 << 20;

/// One line of the answer.
struct Finding {
    name: &'static str,
    /// `None`: just information.
    passed: Option<bool>,
    text: String,
}

/// Looks the machine over.
pub(super) fn doctor(app: &App) -> anyhow::Result<()> {
    interrupt::exit_at_once()?;
    let mut findings = machine();
    findings.push(check("assets", assets));
    findings.push(check("forward and backward", || network(app.compute.device())));
    findings.push(check("sample", || picture(app.compute.device())));
    let failed = findings.iter().filter(|f| f.passed == Some(false)).count();
    for finding in &findings {
        let text = if app.json { finding.json().to_string() } else { finding.line() };
        console::result(&text)?;
    }
    if failed > 0 {
        anyhow::bail!("{failed} of the checks above failed");
    }
    Ok(())
}

impl Finding {
    fn info(name: &'static str, text: String) -> Self {
        Self { name, passed: None, text }
    }

    fn line(&self) -> String {
        let mark = match self.passed {
            None => "",
            Some(true) => "ok: ",
            Some(false) => "FAILED: ",
        };
        format!("{:<22} {mark}{}", self.name, self.text)
    }

    fn json(&self) -> Value {
        json!({ "check": self.name, "passed": self.passed, "text": self.text })
    }
}

fn check(name: &'static str, work: impl FnOnce() -> anyhow::Result<String>) -> Finding {
    let start = Instant::now();
    match work() {
        Ok(text) => {
            let seconds = start.elapsed().as_secs_f64();
            Finding { name, passed: Some(true), text: format!("{text} ({seconds:.2} s)") }
        }
        Err(error) => Finding { name, passed: Some(false), text: chain(&error) },
    }
}

/// How fast products can be at most in each number format.
fn speeds() -> String {
    let speeds = ops::Speeds::measure();
    let f32 = format!("{:.0} GFLOP/s in f32", speeds.f32);
    match speeds.bf16 {
        None => format!("{f32}, none in bf16"),
        Some(bf16) => {
            let on = if ops::amx_active() { " on AMX tiles" } else { "" };
            let better = if speeds.bf16_pays() { "" } else { ": keep to f32" };
            format!("{f32}, {bf16:.0} in bf16{on}{better}")
        }
    }
}

fn machine() -> Vec<Finding> {
    let unknown = || "unknown".to_owned();
    let features = match system::cpu_features() {
        features if features.is_empty() => "portable kernels".to_owned(),
        features => features.join(", "),
    };
    let cores = std::thread::available_parallelism().map_or_else(|_| unknown(), |n| n.to_string());
    let memory = match (meter::total_memory(), meter::available_memory()) {
        (Some(total), Some(free)) => {
            let low = if free < MEMORY_BYTES { "; the demo takes up to 2 GiB" } else { "" };
            format!("{}, {} free{low}", system::gibibytes(total), system::gibibytes(free))
        }
        _ => unknown(),
    };
    let disk = space::free_bytes(Path::new(".")).map_or_else(unknown, |free| {
        let low = if free < DISK_BYTES { "; a demo run may not fit" } else { "" };
        format!("{} free here{low}", system::gibibytes(free))
    });
    vec![
        Finding::info("version", env!("CARGO_PKG_VERSION").to_owned()),
        Finding::info("processor", meter::cpu_name().unwrap_or_else(unknown)),
        Finding::info("instruction sets", features),
        Finding::info("multiply-adds", speeds()),
        Finding::info("threads", format!("{} of {cores} cores", rayon::current_num_threads())),
        Finding::info("memory", memory),
        Finding::info("disk", disk),
    ]
}

/// Unpacking compares every file with the embedded one.
fn assets() -> anyhow::Result<String> {
    let dir = pocket::assets()?;
    let hash = hash::sha256_dir(&dir)?;
    Ok(format!("{} is whole, sha256 {}", dir.display(), hash.get(..16).unwrap_or(&hash)))
}

const TINY_UNET: &str = r#"{
    "in_channels": 4, "out_channels": 4, "block_out_channels": [16, 32], "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 2, "cross_attention_dim": 24, "norm_num_groups": 8,
    "use_linear_projection": true, "sample_size": 16
}"#;

/// Loss and gradients of a small network by the kernels and by the library's own operations.
fn network(device: &Device) -> anyhow::Result<String> {
    ops::set_precision(ops::Precision::F32);
    let config = sd::Config::from_json(TINY_UNET)?;
    let unet = sd::UNet::new(&mut Init::seeded(1, &device.clone().autodiff()), &config);
    let (loss, grads) = loss_and_grads(&unet, device);
    ops::use_reference(true);
    let (other_loss, other_grads) = loss_and_grads(&unet, device);
    ops::use_reference(false);
    let mut difference = (loss - other_loss).abs();
    for (name, grad) in &grads {
        anyhow::ensure!(grad.iter().all(|v| v.is_finite()), "the gradient of {name} is not finite");
        let other = other_grads.get(name).map(Vec::as_slice).unwrap_or_default();
        anyhow::ensure!(other.len() == grad.len(), "{name} has a gradient in one way only");
        for (a, b) in grad.iter().zip(other) {
            difference = difference.max((a - b).abs() / (1.0 + b.abs()));
        }
    }
    anyhow::ensure!(
        difference < TOLERANCE,
        "the kernels differ from the library's operations by {difference:e}; expected less than {TOLERANCE:e}: please report it with the lines above"
    );
    Ok(format!("kernels and library agree within {difference:.1e}"))
}

fn loss_and_grads(unet: &sd::UNet, device: &Device) -> (f32, GradMap) {
    let device = device.clone().autodiff();
    let mut stream = Key::new(0).stage("doctor").stream();
    let mut normals = |shape: [usize; 4]| {
        let values = stream.standard_normals(shape.iter().product());
        Tensor::<4>::from_data(TensorData::new(values, shape), &device)
    };
    let (sample, target) = (normals([2, 4, 16, 16]), normals([2, 4, 16, 16]));
    let context = normals([1, 2, 8, 24]).reshape([2, 8, 24]);
    let prediction = unet.forward(sample, &[10.0, 700.0], &context, None);
    let loss = weighted_mse(prediction, target, &[1.0, 0.5], 2);
    let mut grads = GradMap::new();
    optimizer::collect(unet, loss.clone().backward(), &mut grads);
    (weights::to_vec(loss).first().copied().unwrap_or(f32::NAN), grads)
}

/// A picture of the embedded model, alone and beside another: both must be the same.
fn picture(device: &Device) -> anyhow::Result<String> {
    let model = Model::load(&pocket::assets()?, device)?;
    let [height, width] = model.default_size();
    let [c, h, w] = model.latent_shape(height, width);
    let job = |i: u64| Job {
        prompt: "a red circle",
        negative: None,
        noise: Key::new(0).stage("doctor").sample(i).standard_normals(c * h * w),
        step_noise: StepNoise::Key(Key::new(0).stage("doctor").sample(i)),
    };
    let mut options = DrawOptions {
        steps: 8,
        guidance_scale: 4.0,
        scheduler: SamplerKind::default(),
        karras: false,
        height,
        width,
        batch: 2,
    };
    let pair = draw(&model, &[job(0), job(1)], &options, &mut |_| {})?;
    options.batch = 1;
    let start = Instant::now();
    let alone = draw(&model, &[job(0)], &options, &mut |_| {})?;
    let seconds = start.elapsed().as_secs_f64();
    let same = match (pair.first(), alone.first()) {
        (Some(a), Some(b)) => a.latents == b.latents && a.image == b.image,
        _ => false,
    };
    anyhow::ensure!(
        same,
        "a picture depends on what is drawn beside it: please report it with the lines above"
    );
    Ok(format!("a picture of {height}×{width} in {seconds:.2} s, the same whatever its batch"))
}
