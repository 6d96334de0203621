//! Low-rank adapters (Hu et al. 2021): W' = W + s · (alpha / rank) · B A for linear maps and
//! convolutions, read from the files of other tools and merged into loaded weights.
//!
//! Files name a module either with dots (`unet.….to_q.lora_A.weight`, diffusers and PEFT) or with
//! underscores (`lora_unet_…_to_q.lora_down.weight`, kohya). Underscored names cannot be split back
//! unambiguously, so both are looked up in a table that is made from the network's own names.

mod attach;
mod extract;
mod file;
mod keys;
mod kinds;
mod merge;
mod names;
mod places;
mod settings;
mod targets;
mod write;

use std::collections::BTreeMap;

use thiserror::Error;

use crate::weights::HostTensor;

pub use attach::{LowRank, attach, detach_merged, is_factor, pairs};
pub use merge::merge;
pub use names::{Component, KohyaNames};
pub use places::{Unplaced, unplaced};
pub use settings::Settings;
pub use targets::{TargetError, Targets};

/// One adapted parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// A, `[rank, in]` or `[rank, in, kh, kw]`.
    pub down: HostTensor,
    /// B, `[out, rank]` or `[out, rank, 1, 1]`.
    pub up: HostTensor,
    /// What B·A is multiplied by, alpha / rank.
    pub scale: f32,
}

impl Pair {
    /// Inner size of the product.
    pub fn rank(&self) -> usize {
        self.down.shape.first().copied().unwrap_or(0)
    }
}

/// Pairs by the name of the parameter that they adapt, such as `….to_q.weight`.
pub type Pairs = BTreeMap<String, Pair>;

/// Pairs of all components of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adapter {
    /// By component.
    pub components: BTreeMap<Component, Pairs>,
}

impl Adapter {
    /// Number of adapted parameters.
    pub fn len(&self) -> usize {
        self.components.values().map(BTreeMap::len).sum()
    }

    /// Whether nothing is adapted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why an adapter does not fit a model.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LoraError {
    /// Names of modules that the model does not have.
    #[error(
        "{} of {total} LoRA keys name no module of this model ({}); expected keys such as {example}: the LoRA was made for another model",
        keys.len(),
        names::first(keys)
    )]
    Foreign {
        /// Keys without a module, sorted.
        keys: Vec<String>,
        /// Keys in the file.
        total: usize,
        /// A key that would fit.
        example: String,
    },
    /// Another kind of adapter, or no adapter at all.
    #[error(
        "{count} tensors are not plain LoRA ({keys}): this is {found}, which is not supported here; expected pairs of lora_down and lora_up, or lora_A and lora_B: {cure}"
    )]
    Kind {
        /// What the file is.
        found: &'static str,
        /// How many tensors say so.
        count: usize,
        /// The first of them.
        keys: String,
        /// What its owner can do.
        cure: &'static str,
    },
    /// More than one adapter in a file.
    #[error(
        "the file holds several adapters ({0}); expected one: save each alone, with `save_pretrained`"
    )]
    Several(String),
    /// One half of a pair.
    #[error("LoRA module {module} has no {missing}; expected both halves: the file is not whole")]
    Half {
        /// The module, as the file names it.
        module: String,
        /// Which half is missing.
        missing: &'static str,
    },
    /// An underscored name that stands for several modules.
    #[error(
        "LoRA module {module} stands for several modules of this model: {candidates}; expected names with dots that begin with unet., text_encoder. or text_encoder_2."
    )]
    Ambiguous {
        /// The module, as the file names it.
        module: String,
        /// What it could be.
        candidates: String,
    },
    /// A pair whose product is not of the parameter's shape.
    #[error(
        "LoRA module {module} has down {down:?} and up {up:?}, which do not make the parameter's shape {weight:?}: the LoRA was made for another model"
    )]
    Shape {
        /// The module, as the file names it.
        module: String,
        /// Shape of A.
        down: Vec<usize>,
        /// Shape of B.
        up: Vec<usize>,
        /// Shape of the parameter.
        weight: Vec<usize>,
    },
    /// Settings in the file that cannot be followed.
    #[error("{0}")]
    Settings(String),
    /// No pair at all.
    #[error("the file holds no LoRA tensors; expected keys such as {0}")]
    Empty(String),
}
