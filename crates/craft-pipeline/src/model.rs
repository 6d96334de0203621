//! A text-to-image model in the diffusers folder layout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use craft_core::recipe::Precision;
use craft_core::schedule::NoiseSchedule;
use craft_nn::clip::{ClipTextConfig, ClipTextModel};
use craft_nn::init::Init;
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::unet::UNet2DConditionModel;
use craft_nn::unet_config::UNetConfig;
use craft_nn::vae::{AutoencoderKL, VaeConfig};
use craft_nn::vae_tiles::VaeParts;
use craft_nn::weights::{self, HostTensor, TensorMap, WeightError};
use craft_store::StoreError;
use craft_store::raw::RawReader;
use craft_store::tensors::{self, Dtype, TensorRef};
use craft_store::weights as files;

use crate::architecture::{self, Architecture};
use crate::error::{PipelineError, Result};
use crate::text::SecondEncoder;

/// File of the denoiser's weights where they are written.
pub const DIFFUSION_WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// A loaded model. Clones share its weights.
#[derive(Clone, Debug)]
pub struct Model {
    /// The denoiser.
    pub unet: UNet2DConditionModel,
    /// Its config.
    pub unet_config: UNetConfig,
    /// The autoencoder.
    pub vae: AutoencoderKL,
    /// Its config.
    pub vae_config: VaeConfig,
    /// How its batches are cut up to save memory; whole unless changed.
    pub vae_parts: VaeParts,
    /// The text encoder.
    pub text: ClipTextModel,
    /// The tokenizer.
    pub tokenizer: ClipTokenizer,
    /// The second text encoder of SDXL.
    pub second: Option<SecondEncoder>,
    /// The noise schedule.
    pub schedule: NoiseSchedule,
    /// Where it computes.
    pub device: Device,
}

/// Reads a text file of a model.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    craft_store::input::read_text(path, craft_store::input::MAX_TEXT).map_err(|error| PipelineError::Input {
        path: path.to_owned(),
        message: format!(
            "it cannot be read ({error}); expected a complete model folder in the diffusers layout"
        ),
    })
}

/// Reads a safetensors or `torch.save` file, or the shards of an index, with finite values.
pub fn read_tensors(path: &Path) -> Result<TensorMap> {
    Ok(host(files::read(path)?))
}

fn host(read: BTreeMap<String, tensors::Tensor>) -> TensorMap {
    let host = |t: tensors::Tensor| HostTensor { shape: t.shape, data: t.data };
    read.into_iter().map(|(name, t)| (name, host(t))).collect()
}

/// Opens the weights of a component folder; the path is that of the file or index of shards.
fn open_weights(dir: &Path, stem: files::Stem) -> Result<(PathBuf, RawReader)> {
    let path = files::find(dir, stem)?;
    let reader = RawReader::open(&path)?;
    Ok((path, reader))
}

/// Why a network cannot be filled, before the path is known.
enum Fault {
    Weights(WeightError),
    Store(StoreError),
}

impl From<WeightError> for Fault {
    fn from(error: WeightError) -> Self {
        Self::Weights(error)
    }
}

impl Fault {
    fn at(self, path: PathBuf) -> PipelineError {
        match self {
            Self::Weights(source) => PipelineError::Weights { path, source },
            Self::Store(error) => error.into(),
        }
    }
}

/// Reads a network's weights, one tensor at a time, and rounds them to bf16 where that is asked for.
fn fill<M: Module>(net: M, dir: &Path, precision: Precision) -> Result<M> {
    let (path, mut reader) = open_weights(dir, files::DIFFUSERS)?;
    let found = reader.shapes();
    let read = |name: &str| reader.read_finite(name).map(|t| t.data).map_err(Fault::Store);
    let narrow = precision == Precision::Bf16;
    weights::load_as(net, &found, narrow, read).map_err(|fault| fault.at(path))
}

/// Writes a safetensors file with 32-bit values, atomically.
pub fn write_tensors(path: &Path, map: &TensorMap) -> Result<()> {
    let refs: Vec<TensorRef<'_>> = map
        .iter()
        .map(|(name, t)| (name.as_str(), t.shape.as_slice(), t.data.as_slice()))
        .collect();
    Ok(tensors::write(path, &refs, Dtype::F32, &Default::default())?)
}

/// Loads a tokenizer folder of either layout: `vocab.json` with `merges.txt`, or `tokenizer.json`.
pub(crate) fn tokenizer(dir: &Path) -> Result<ClipTokenizer> {
    let optional = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let config = optional("tokenizer_config.json");
    let map = optional("special_tokens_map.json");
    let whole = optional("tokenizer.json").filter(|_| !dir.join("vocab.json").is_file());
    match whole {
        Some(whole) => {
            ClipTokenizer::from_tokenizer_json(&whole, config.as_deref(), map.as_deref())
        }
        None => ClipTokenizer::from_files(
            &read_text(&dir.join("vocab.json"))?,
            &read_text(&dir.join("merges.txt"))?,
            config.as_deref(),
            map.as_deref(),
        ),
    }
    .map_err(|source| PipelineError::Tokenizer { path: dir.to_owned(), source })
}

/// Loads a UNet from a component folder.
pub fn load_unet(dir: &Path, device: &Device) -> Result<(UNet2DConditionModel, UNetConfig)> {
    load_unet_as(dir, device, Precision::F32)
}

fn load_unet_as(
    dir: &Path,
    device: &Device,
    precision: Precision,
) -> Result<(UNet2DConditionModel, UNetConfig)> {
    let path = dir.join("config.json");
    let config = UNetConfig::from_json(&read_text(&path)?)
        .map_err(|source| PipelineError::Config { path, source })?;
    let net = UNet2DConditionModel::new(&mut Init::zeros(device), &config);
    Ok((fill(net, dir, precision)?, config))
}

/// Loads an autoencoder from a component folder.
pub fn load_vae(dir: &Path, device: &Device) -> Result<(AutoencoderKL, VaeConfig)> {
    let path = dir.join("config.json");
    let config = VaeConfig::from_json(&read_text(&path)?)
        .map_err(|source| PipelineError::Config { path, source })?;
    let net = AutoencoderKL::new(&mut Init::zeros(device), &config);
    Ok((fill(net, dir, Precision::F32)?, config))
}

/// Loads a text encoder from a component folder.
pub fn load_text_encoder(dir: &Path, device: &Device) -> Result<ClipTextModel> {
    let path = dir.join("config.json");
    let config = ClipTextConfig::from_json(&read_text(&path)?)
        .map_err(|source| PipelineError::Config { path, source })?;
    let (path, mut reader) = open_weights(dir, files::TRANSFORMERS)?;
    let found = reader.shapes();
    let read = |name: &str| reader.read_finite(name).map(|t| t.data).map_err(Fault::Store);
    ClipTextModel::from_reader(&config, found, device, read).map_err(|fault| fault.at(path))
}

impl Model {
    /// Loads a diffusers folder.
    ///
    /// # Errors
    /// When a file is missing or torn, a config asks for something that is not supported, or weights
    /// are missing, unused or wrongly shaped.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        Self::load_as(dir, device, Precision::F32)
    }

    /// [`Self::load`] with the denoiser's weights in a number format. Rounded ones are never all in
    /// memory as f32.
    ///
    /// # Errors
    /// The same.
    pub fn load_as(dir: &Path, device: &Device, precision: Precision) -> Result<Self> {
        let architecture = architecture::of_folder(dir)?;
        let schedule_path = dir.join("scheduler/scheduler_config.json");
        let schedule = NoiseSchedule::from_json(&read_text(&schedule_path)?)
            .map_err(|source| PipelineError::Schedule { path: schedule_path, source })?;
        let tokenizer = tokenizer(&dir.join("tokenizer"))?;
        let (unet, unet_config) = load_unet_as(&dir.join("unet"), device, precision)?;
        let (vae, vae_config) = load_vae(&dir.join("vae"), device)?;
        let text = load_text_encoder(&dir.join("text_encoder"), device)?;
        let second = match architecture {
            Architecture::StableDiffusion => None,
            Architecture::StableDiffusionXl { zero_empty } => Some(SecondEncoder {
                text: load_text_encoder(&dir.join("text_encoder_2"), device)?,
                tokenizer: self::tokenizer(&dir.join("tokenizer_2"))?,
                zero_empty,
            }),
        };
        let refused =
            |message: String| PipelineError::Input { path: dir.join("model_index.json"), message };
        match (&second, &unet_config.addition_embed_type) {
            (None, Some(kind)) => {
                return Err(refused(format!(
                    "_class_name is StableDiffusionPipeline, but unet/config.json has addition_embed_type `{kind}`; expected StableDiffusionXLPipeline, or a UNet without it"
                )));
            }
            (Some(second), _) if second.tokenizer.length() != tokenizer.length() => {
                return Err(refused(format!(
                    "tokenizer and tokenizer_2 hold {} and {} tokens; expected as many in both",
                    tokenizer.length(),
                    second.tokenizer.length()
                )));
            }
            _ => {}
        }
        Ok(Self {
            unet,
            unet_config,
            vae,
            vae_config,
            vae_parts: VaeParts::default(),
            text,
            tokenizer,
            second,
            schedule,
            device: device.clone(),
        })
    }

    /// Latent values of one picture of a height and width in pixels: channels, rows, columns.
    pub fn latent_shape(&self, height: usize, width: usize) -> [usize; 3] {
        let scale = self.vae_config.scale();
        [self.unet_config.in_channels, height / scale, width / scale]
    }

    /// Height and width in pixels that the model was trained on.
    pub fn default_size(&self) -> usize {
        let latent = self.unet_config.sample_size.as_ref().and_then(serde_json::Value::as_u64);
        latent.unwrap_or(64) as usize * self.vae_config.scale()
    }
}

/// Copies a model's folder except the denoiser's weights, in whatever layout they are.
pub(crate) fn copy_model(from: &Path, to: &Path) -> Result<()> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| PipelineError::Input {
            path,
            message: format!("the model's folder cannot be copied ({error})"),
        }
    };
    craft_store::atomic::create_dir(to)?;
    for entry in std::fs::read_dir(from).map_err(failed(from))? {
        let path = entry.map_err(failed(from))?.path();
        let Some(name) = path.file_name() else { continue };
        if name.to_string_lossy().starts_with('.') || name == "rewards" {
            continue;
        }
        let target = to.join(name);
        if path.is_dir() {
            copy_model(&path, &target)?;
        } else if !(from.ends_with("unet") && files::DIFFUSERS.owns(name)) {
            craft_store::atomic::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// Writes a network into a component's folder in the place of the weights that are there.
pub(crate) fn replace_weights(dir: &Path, stem: files::Stem, tensors: &TensorMap) -> Result<()> {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if stem.owns(&entry.file_name()) {
            craft_store::atomic::remove_file(&path)?;
        }
    }
    write_tensors(&dir.join(stem.file()), tensors)
}
