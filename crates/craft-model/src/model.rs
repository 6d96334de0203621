//! A text-to-image model in the diffusers folder layout.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use craft_core::recipe::{GenerateSection, Precision};
use craft_core::schedule::NoiseSchedule;
use craft_nn::clip::{ClipTextConfig, ClipTextModel};
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::vae::{AutoencoderKL, VaeConfig};
use craft_nn::vae_tiles::VaeParts;
use craft_nn::weights::{HostTensor, TensorMap};
use craft_store::raw::{self, Entry};
use craft_store::tensors::{self, Dtype, TensorRef};
use craft_store::weights as files;
use craft_store::{StoreError, atomic};

use crate::architecture::{self, Architecture};
use crate::component::{self, Kind, open_weights, tokenizer};
pub use crate::component::{load_text_encoder, load_vae};
use crate::denoiser::Denoiser;
use crate::error::{ModelError, Result};
use crate::fitting::Parts;
use crate::schedule;
use crate::sd;
use crate::sdxl::SecondEncoder;
use crate::size;

/// File of the denoiser's weights where they are written.
pub const DIFFUSION_WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// A loaded model. Clones share its weights.
#[derive(Clone, Debug)]
pub struct Model {
    /// The denoiser.
    pub denoiser: Denoiser,
    /// The config of its network.
    pub unet_config: sd::Config,
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
pub fn read_text(path: &Path) -> Result<String> {
    craft_store::input::read_text(path, craft_store::input::MAX_TEXT).map_err(|error| ModelError::Input {
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

/// Writes a safetensors file with 32-bit values, atomically.
pub fn write_tensors(path: &Path, map: &TensorMap) -> Result<()> {
    let refs: Vec<TensorRef<'_>> = map
        .iter()
        .map(|(name, t)| (name.as_str(), t.shape.as_slice(), t.data.as_slice()))
        .collect();
    Ok(tensors::write(path, &refs, Dtype::F32, &Default::default())?)
}

/// Compares the parts of a folder with each other, before any weights are read. Returns its tokenizers.
fn check_parts(dir: &Path, two: bool) -> Result<(ClipTokenizer, Option<ClipTokenizer>)> {
    let unet: sd::Config = component::config(&dir.join("unet"))?;
    let vae: VaeConfig = component::config(&dir.join("vae"))?;
    let text: ClipTextConfig = component::config(&dir.join("text_encoder"))?;
    let text_2: Option<ClipTextConfig> =
        if two { Some(component::config(&dir.join("text_encoder_2"))?) } else { None };
    let second = match &text_2 {
        None => None,
        Some(config) => {
            let (_, reader) = open_weights(&dir.join("text_encoder_2"), Kind::Text)?;
            let projects = reader.format("text_projection.weight").is_some();
            Some((config, if projects { config.projection_dim } else { config.hidden_size }))
        }
    };
    Parts { unet: &unet, vae: &vae, text: &text, second }.check().map_err(|(part, message)| {
        ModelError::Input { path: dir.join(part).join("config.json"), message }
    })?;
    let tokenizer = tokenizer(&dir.join("tokenizer"), &text)?;
    let Some(text_2) = text_2 else { return Ok((tokenizer, None)) };
    let second = self::tokenizer(&dir.join("tokenizer_2"), &text_2)?;
    if second.length() != tokenizer.length() {
        return Err(ModelError::Input {
            path: dir.join("model_index.json"),
            message: format!(
                "tokenizer and tokenizer_2 hold {} and {} tokens; expected as many in both",
                tokenizer.length(),
                second.length()
            ),
        });
    }
    Ok((tokenizer, Some(second)))
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
        let schedule = schedule::load(dir, architecture)?;
        let two = architecture != Architecture::StableDiffusion;
        let (tokenizer, second_tokenizer) = check_parts(dir, two)?;
        let (unet, unet_config) = sd::load_as(&dir.join("unet"), device, precision)?;
        let (vae, vae_config) = load_vae(&dir.join("vae"), device)?;
        let text = load_text_encoder(&dir.join("text_encoder"), device)?;
        let second = match (architecture, second_tokenizer) {
            (Architecture::StableDiffusionXl { zero_empty }, Some(tokenizer)) => {
                let text = load_text_encoder(&dir.join("text_encoder_2"), device)?;
                Some(SecondEncoder { text, tokenizer, zero_empty })
            }
            _ => None,
        };
        Ok(Self {
            denoiser: unet.into(),
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

    /// Height and width in pixels of the pictures that a section asks of this model.
    pub fn pixels(&self, section: &GenerateSection) -> [usize; 2] {
        let [height, width] = self.default_size();
        [section.height.unwrap_or(height), section.width.unwrap_or(width)]
    }

    /// Height and width in pixels that the model was trained on.
    pub fn default_size(&self) -> [usize; 2] {
        let latent = size::latent_size(&self.unet_config, self.second.is_some());
        latent.map(|side| side.saturating_mul(self.vae_config.scale()))
    }
}

/// Copies a model's folder except the denoiser's weights, in whatever layout they are. An autoencoder with
/// the names of before diffusers 0.18 is written under today's, in its own number formats.
pub fn copy_model(from: &Path, to: &Path) -> Result<()> {
    craft_store::atomic::create_dir(to)?;
    let unreadable = |error: StoreError| ModelError::Input {
        path: from.to_owned(),
        message: format!("the model's folder cannot be read ({error}); expected a whole model"),
    };
    let renamed = from.ends_with("vae") && rewrite_vae(from, to)?;
    for path in atomic::list(from).map_err(unreadable)? {
        let Some(name) = path.file_name() else { continue };
        if name.to_string_lossy().starts_with('.') || name == "rewards" {
            continue;
        }
        let target = to.join(name);
        let left_out = from.ends_with("unet") || renamed;
        if path.is_dir() {
            copy_model(&path, &target)?;
        } else if !(left_out && files::DIFFUSERS.owns(name)) {
            craft_store::atomic::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// Writes the weights of an autoencoder under today's names, if they have others. Returns whether it did.
fn rewrite_vae(from: &Path, to: &Path) -> Result<bool> {
    let Ok((_, mut reader, renamed)) = component::open_renamed(from, Kind::Vae) else {
        return Ok(false);
    };
    if renamed == 0 {
        return Ok(false);
    }
    let shapes = reader.shapes().into_iter();
    let entries: Vec<Entry> = shapes
        .filter_map(|(name, shape)| {
            let format = reader.format(&name)?;
            Some(Entry { name, shape, format })
        })
        .collect();
    let path = to.join(DIFFUSION_WEIGHTS);
    raw::write(&path, &entries, &BTreeMap::new(), |entry| -> Result<Vec<u8>> {
        Ok(reader.read(&entry.name)?.bytes)
    })?;
    Ok(true)
}

/// Writes a network into a component's folder in the place of the weights that are there.
pub fn replace_weights(dir: &Path, stem: files::Stem, tensors: &TensorMap) -> Result<()> {
    clear_weights(dir, stem)?;
    write_tensors(&dir.join(stem.file()), tensors)
}

/// Removes a component's weights, in whatever layout they are.
pub fn clear_weights(dir: &Path, stem: files::Stem) -> Result<()> {
    for path in atomic::list(dir).unwrap_or_default() {
        if path.file_name().is_some_and(|name| stem.owns(name)) {
            atomic::remove_file(&path)?;
        }
    }
    Ok(())
}
