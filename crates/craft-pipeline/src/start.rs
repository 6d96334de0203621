//! What a run and its rounds begin with: a base model with its LoRA files, or what a round before left.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use craft_core::recipe::{Recipe, TrainMode};
use craft_model::Model;
use craft_model::lora::{LORA_FILE, apply, hash as lora_hash, parse};
use craft_store::hash::{sha256_bytes, sha256_dir};

use crate::error::{PipelineError, Result};

/// The LoRA files of a recipe with their scales.
fn files(recipe: &Recipe, base: &Path) -> Result<Vec<(PathBuf, f32)>> {
    let one = |text: &String| {
        parse(text, base).map_err(|e| PipelineError::Usage(format!("model.lora: {text}: {e}")))
    };
    recipe.model.lora.iter().map(one).collect()
}

/// The model that a run starts from: a folder with the recipe's LoRA files merged in.
///
/// # Errors
/// See [`Model::load`].
pub(crate) fn base_model(
    recipe: &Recipe,
    base: &Path,
    dir: &Path,
    device: &Device,
) -> Result<Model> {
    let files = files(recipe, base)?;
    let mut model = Model::load(dir, device)?;
    for (path, strength) in files {
        apply(&mut model, &path, strength)?;
    }
    Ok(model)
}

/// The model that a training starts from. Frozen weights that training rounds to bf16 are rounded as they
/// are read, unless LoRA files are merged into them first.
///
/// # Errors
/// As [`Model::load`].
pub fn training_model(recipe: &Recipe, base: &Path, dir: &Path, device: &Device) -> Result<Model> {
    if recipe.train.mode == TrainMode::Full || !recipe.model.lora.is_empty() {
        return base_model(recipe, base, dir, device);
    }
    Ok(Model::load_as(dir, device, recipe.train.precision)?)
}

/// What a round of a run begins with.
pub struct Start {
    /// Folder of the run's base model.
    pub(crate) base: PathBuf,
    /// The same in the first round; then what the round before left: a whole model's folder, or one with factors.
    pub(crate) from: PathBuf,
    /// Hash of everything that its model depends on.
    pub hash: String,
    /// Where the model computes.
    device: Device,
}

impl Start {
    /// A first round, from the run's base model.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn first(recipe: &Recipe, base: &Path, dir: &Path, device: &Device) -> Result<Self> {
        let hash = base_hash(recipe, base, dir)?;
        Ok(Self { base: dir.to_owned(), from: dir.to_owned(), hash, device: device.clone() })
    }

    /// The round after this one, which left its model in the folder `from`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn after(&self, from: PathBuf) -> Result<Self> {
        let mut hash = sha256_dir(&from)?;
        if from.join(LORA_FILE).is_file() {
            hash = sha256_bytes(format!("{} {hash}", self.hash));
        }
        Ok(Self { base: self.base.clone(), from, hash, device: self.device.clone() })
    }

    /// The model that the round draws from.
    ///
    /// # Errors
    /// See [`Model::load`].
    pub(crate) fn model(&self, recipe: &Recipe, base: &Path) -> Result<Model> {
        arm_model(recipe, base, [&self.base, &self.from], &self.device)
    }

    /// The model that the round trains, or beside which it trains factors.
    ///
    /// # Errors
    /// See [`Model::load`].
    pub fn training_model(&self, recipe: &Recipe, base: &Path) -> Result<Model> {
        match recipe.train.mode {
            TrainMode::Full => self.model(recipe, base),
            TrainMode::Lora => training_model(recipe, base, &self.base, &self.device),
        }
    }

    /// The file of the factors that the round before left.
    pub fn factors(&self) -> Option<PathBuf> {
        let file = self.from.join(LORA_FILE);
        (self.from != self.base && file.is_file()).then_some(file)
    }
}

/// The model of one arm of a run: the base model itself, a tuned model's folder, or the base model
/// with the factors of that folder.
///
/// # Errors
/// See [`Model::load`].
pub(crate) fn arm_model(
    recipe: &Recipe,
    base: &Path,
    [base_dir, dir]: [&Path; 2],
    device: &Device,
) -> Result<Model> {
    let factors = dir.join(LORA_FILE);
    if dir != base_dir && !factors.is_file() {
        return Ok(Model::load(dir, device)?);
    }
    let mut model = base_model(recipe, base, base_dir, device)?;
    if dir != base_dir {
        apply(&mut model, &factors, 1.0)?;
    }
    Ok(model)
}

/// Hash of everything that [`Model::load`] depends on; of the folder alone where the recipe names no
/// LoRA files.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn base_hash(recipe: &Recipe, base: &Path, dir: &Path) -> Result<String> {
    let mut hash = sha256_dir(dir)?;
    for (path, strength) in files(recipe, base)? {
        hash = sha256_bytes(format!("{hash} {} {strength}", lora_hash(&path)?));
    }
    Ok(hash)
}
