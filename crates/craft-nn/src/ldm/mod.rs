//! Single-file checkpoints of Stable Diffusion 1, 2 and SDXL in the names of the original `ldm` and
//! `sgm` code, which A1111 and ComfyUI read: what is in a file, how its networks are configured,
//! and which tensor is called what there and in diffusers.
//!
//! Nothing here holds values: names, shapes and what has to be done to a tensor's bytes
//! ([`Take`]) are enough to copy a checkpoint of any size from one form to the other.
//!
//! Source: parameter names of `ldm/modules/diffusionmodules/openaimodel.py`, `model.py` and
//! `sgm/modules/encoders/modules.py`; diffusers' `loaders/single_file_utils.py` for the pairing.

mod configs;
mod inspect;
mod names;
mod text_names;

use std::collections::BTreeMap;

use thiserror::Error;

pub use configs::{Configs, Given};
pub use inspect::{Checkpoint, inspect};
pub(crate) use names::unet_names;
pub use names::{Names, Piece, Skeleton, Take};

/// Shapes of tensors by name.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Networks of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The denoiser.
    Unet,
    /// The autoencoder.
    Vae,
    /// The text encoder, the first one of SDXL.
    Text,
    /// The second text encoder of SDXL.
    Text2,
}

impl Part {
    /// The folder of a diffusers model.
    pub fn folder(self) -> &'static str {
        ["unet", "vae", "text_encoder", "text_encoder_2"][self as usize]
    }
}

/// Model families that are published as single files of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.x: CLIP ViT-L under `cond_stage_model.transformer`.
    Sd1,
    /// Stable Diffusion 2.x: open_clip ViT-H under `cond_stage_model.model`.
    Sd2,
    /// SDXL base: both CLIP ViT-L and open_clip ViT-bigG under `conditioner.embedders`.
    Sdxl,
}

/// What can be loaded, for messages.
pub const KNOWN: &str = "Stable Diffusion 1.x, Stable Diffusion 2.x, SDXL base";

impl Family {
    /// The family's name.
    pub fn title(self) -> &'static str {
        ["Stable Diffusion 1", "Stable Diffusion 2", "SDXL"][self as usize]
    }

    /// `modelspec.architecture` (SAI Model Metadata Specification), for models that predict v or ε.
    pub fn architecture(self, v: bool) -> &'static str {
        match (self, v) {
            (Self::Sd1, _) => "stable-diffusion-v1",
            (Self::Sd2, true) => "stable-diffusion-v2-768-v",
            (Self::Sd2, false) => "stable-diffusion-v2-512",
            (Self::Sdxl, _) => "stable-diffusion-xl-v1-base",
        }
    }

    /// The networks of the family.
    pub fn parts(self) -> &'static [Part] {
        match self {
            Self::Sdxl => &[Part::Unet, Part::Vae, Part::Text, Part::Text2],
            _ => &[Part::Unet, Part::Vae, Part::Text],
        }
    }
}

/// Why a single file cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LdmError {
    /// Another kind of file.
    #[error(
        "it holds {found}; expected a checkpoint of one of the known architectures ({KNOWN}) with the keys model.diffusion_model.*, first_stage_model.* and cond_stage_model.* or conditioner.embedders.*: {hint}"
    )]
    Foreign {
        /// What it seems to be.
        found: String,
        /// How to go on.
        hint: String,
    },
    /// A network is missing.
    #[error(
        "it has no {what} ({keys}); expected a whole {family} checkpoint: use the full file, not a part of it"
    )]
    Incomplete {
        /// The network.
        what: &'static str,
        /// The keys looked for.
        keys: &'static str,
        /// The family.
        family: &'static str,
    },
    /// A setting that neither keys nor shapes tell.
    #[error(
        "{key} cannot be found out from the file: {why}; expected a model folder in the diffusers layout that has {file}: name it with --model-config DIR (model.config in a recipe)"
    )]
    Config {
        /// The config key.
        key: &'static str,
        /// Why.
        why: String,
        /// The config that would tell.
        file: &'static str,
    },
    /// Keys inside a network that do not belong to it.
    #[error(
        "tensor {name} has no place in the {part} of a {family} checkpoint; expected the keys of that architecture: is it a merge of different models?"
    )]
    Name {
        /// The tensor.
        name: String,
        /// The network.
        part: &'static str,
        /// The family.
        family: &'static str,
    },
}
