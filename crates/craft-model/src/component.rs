//! The parts of a model's folder: configs and weights of the networks, and tokenizers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use craft_core::recipe::Precision;
use craft_nn::bounds::Bounds;
use craft_nn::clip::{self, ClipTextConfig, ClipTextModel};
use craft_nn::config::{ConfigError, shorten};
use craft_nn::init::Init;
use craft_nn::tokenizer::{ClipTokenizer, TokenizerError, TokenizerTexts};
use craft_nn::vae::{AutoencoderKL, VaeConfig};
use craft_nn::vae_names;
use craft_nn::weights::{self, WeightError};
use craft_store::StoreError;
use craft_store::raw::RawReader;
use craft_store::weights as files;

use crate::error::{ModelError, Result};
use crate::model::read_text;

/// Kinds of networks, which differ in the names of their files and tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The denoiser.
    Unet,
    /// The autoencoder.
    Vae,
    /// A text encoder.
    Text,
}

impl Kind {
    /// The name that its weight files begin with.
    pub fn stem(self) -> files::Stem {
        match self {
            Self::Unet | Self::Vae => files::DIFFUSERS,
            Self::Text => files::TRANSFORMERS,
        }
    }
}

/// Opens the weights of a component's folder, under today's names; the path is that of the file or index
/// of shards.
pub fn open_weights(dir: &Path, kind: Kind) -> Result<(PathBuf, RawReader)> {
    open_renamed(dir, kind).map(|(path, reader, _)| (path, reader))
}

/// [`open_weights`], and how many tensors have other names or shapes in the file.
pub fn open_renamed(dir: &Path, kind: Kind) -> Result<(PathBuf, RawReader, usize)> {
    let path = files::find(dir, kind.stem())?;
    let mut reader = RawReader::open(&path)?;
    let renamed = if kind == Kind::Vae { reader.rename(vae_names::current)? } else { 0 };
    Ok((path, reader, renamed))
}

/// Ends of the names of scales and tables that quantised weights need beside them (ComfyUI's scaled fp8,
/// bitsandbytes, GPTQ, optimum-quanto).
const SCALES: [&str; 13] = [
    "scaled_fp8",
    ".scale_weight",
    ".weight_scale",
    ".scale_input",
    ".input_scale",
    ".comfy_quant",
    ".absmax",
    ".quant_map",
    ".SCB",
    ".qweight",
    ".qzeros",
    ".weight._data",
    ".weight._scale",
];

/// Refuses weights that only mean something with scales beside them.
///
/// # Errors
/// When there are such scales; the error names the first.
pub fn refuse_quantised<'a>(
    path: &Path,
    mut names: impl Iterator<Item = &'a String>,
) -> Result<()> {
    let scale = |name: &&String| {
        SCALES.iter().any(|end| name.ends_with(end)) || name.contains(".quant_state.")
    };
    match names.find(scale) {
        None => Ok(()),
        Some(name) => Err(ModelError::Input {
            path: path.to_owned(),
            message: format!(
                "tensor {} holds a scale of quantised weights; expected plain weights (F32, F16, BF16, or fp8 without scales): use the model that it was made from",
                shorten(name)
            ),
        }),
    }
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
    fn at(self, path: PathBuf) -> ModelError {
        match self {
            Self::Weights(source) => ModelError::Weights { path, source },
            Self::Store(error) => error.into(),
        }
    }
}

/// A network's config, and its weights open.
struct Opened<C> {
    config: C,
    path: PathBuf,
    reader: RawReader,
    shapes: BTreeMap<String, Vec<usize>>,
}

/// A config as its class reads it.
pub trait Config: Sized {
    /// Which network it describes.
    const KIND: Kind;
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// When it asks for what is not supported.
    fn parse(text: &str) -> std::result::Result<Self, ConfigError>;
    /// Compares its numbers with the shapes of the weights.
    ///
    /// # Errors
    /// When one is far from what the weights have.
    fn fits(&self, weights: &Bounds) -> std::result::Result<(), ConfigError>;
}

macro_rules! config {
    ($type:ty, $kind:expr) => {
        impl Config for $type {
            const KIND: Kind = $kind;
            fn parse(text: &str) -> std::result::Result<Self, ConfigError> {
                Self::from_json(text)
            }
            fn fits(&self, weights: &Bounds) -> std::result::Result<(), ConfigError> {
                <$type>::fits(self, weights)
            }
        }
    };
}

config!(crate::sd::Config, Kind::Unet);
config!(VaeConfig, Kind::Vae);
config!(ClipTextConfig, Kind::Text);

/// Reads a component's `config.json`.
pub fn config<C: Config>(dir: &Path) -> Result<C> {
    let path = dir.join("config.json");
    C::parse(&read_text(&path)?).map_err(|source| ModelError::Config { path, source })
}

/// Reads a network's config, opens its weights, and compares the two before anything is built.
fn open<C: Config>(dir: &Path) -> Result<Opened<C>> {
    let config: C = config(dir)?;
    let (path, reader) = open_weights(dir, C::KIND)?;
    let mut shapes = reader.shapes();
    if C::KIND == Kind::Text {
        clip::keep_text(&mut shapes);
    }
    config
        .fits(&Bounds::of(&shapes))
        .map_err(|source| ModelError::Config { path: dir.join("config.json"), source })?;
    refuse_quantised(&path, shapes.keys())?;
    reader.require_weights(shapes.keys())?;
    Ok(Opened { config, path, reader, shapes })
}

/// Reads a network's weights, one tensor at a time, and rounds them to bf16 where that is asked for.
pub(crate) fn fill<C: Config, M: Module>(
    dir: &Path,
    precision: Precision,
    new: impl FnOnce(&C) -> M,
) -> Result<(M, C)> {
    let Opened { config, path, mut reader, shapes } = open::<C>(dir)?;
    let read = |name: &str| reader.read_finite(name).map(|t| t.data).map_err(Fault::Store);
    let narrow = precision == Precision::Bf16;
    let net = weights::load_as(new(&config), &shapes, narrow, read);
    Ok((net.map_err(|fault| fault.at(path))?, config))
}

/// Loads an autoencoder from a component folder.
pub fn load_vae(dir: &Path, device: &Device) -> Result<(AutoencoderKL, VaeConfig)> {
    fill(dir, Precision::F32, |c| AutoencoderKL::new(&mut Init::zeros(device), c))
}

/// Loads a text encoder from a component folder.
pub fn load_text_encoder(dir: &Path, device: &Device) -> Result<ClipTextModel> {
    let Opened { config, path, mut reader, shapes } = open::<ClipTextConfig>(dir)?;
    let read = |name: &str| reader.read_finite(name).map(|t| t.data).map_err(Fault::Store);
    ClipTextModel::from_reader(&config, shapes, device, read).map_err(|fault| fault.at(path))
}

/// Loads a tokenizer's folder of any layout, `vocab.json` with `merges.txt` or `tokenizer.json`, for a
/// text encoder.
pub fn tokenizer(dir: &Path, text: &ClipTextConfig) -> Result<ClipTokenizer> {
    let there = |name: &&str| dir.join(name).is_file();
    if let Some(missing) = ["vocab.json", "merges.txt"].iter().find(|name| !there(name))
        && !there(&"tokenizer.json")
    {
        let message = "it is missing, and so is tokenizer.json; expected vocab.json and merges.txt, or tokenizer.json: complete the download of the model".to_owned();
        return Err(ModelError::Input { path: dir.join(missing), message });
    }
    let read = |name: &str| {
        let path = dir.join(name);
        if path.is_file() { read_text(&path).map(Some) } else { Ok(None) }
    };
    tokenizer_of(read, text)?
        .map_err(|source| ModelError::Tokenizer { path: dir.to_owned(), source })
}

/// The tokenizer of files that `read` gives by name, for a text encoder.
pub fn tokenizer_of<E>(
    read: impl Fn(&str) -> std::result::Result<Option<String>, E>,
    text: &ClipTextConfig,
) -> std::result::Result<std::result::Result<ClipTokenizer, TokenizerError>, E> {
    let (vocab, merges, whole) =
        (read("vocab.json")?, read("merges.txt")?, read("tokenizer.json")?);
    let (config, special) = (read("tokenizer_config.json")?, read("special_tokens_map.json")?);
    let added = read("added_tokens.json")?;
    let tokenizer = ClipTokenizer::from_texts(&TokenizerTexts {
        vocab: vocab.as_deref(),
        merges: merges.as_deref(),
        whole: whole.as_deref(),
        config: config.as_deref(),
        special: special.as_deref(),
        added: added.as_deref(),
    });
    Ok(tokenizer.and_then(|t| t.for_encoder(text.max_position_embeddings, text.vocab_size)))
}
