//! Reward models from their folders.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use craft_core::recipe::{OnFailure, RewardRole, RewardSection};
use craft_rewards::{Reward, RewardFiles, RewardKind, registry};
use craft_store::hash::sha256_dir;
use craft_store::weights;

use crate::context::Context;
use crate::error::{PipelineError, Result};
use crate::external::{self, external_reward};
use crate::model::{read_tensors, read_text};

/// Loads the reward model of a folder; its kind follows from its files.
///
/// # Errors
/// When the folder is not that of a reward model, or a file is missing or torn.
pub fn load_reward(name: &str, dir: &Path, device: &Device) -> Result<Box<dyn Reward>> {
    let mut files = RewardFiles::default();
    let entries = std::fs::read_dir(dir).map_err(|error| PipelineError::Input {
        path: dir.to_owned(),
        message: format!("reward {name}: the folder cannot be read ({error})"),
    })?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let Some(file) = path.file_name().and_then(|n| n.to_str()) else { continue };
        if weights::is_weights(&path) {
            files.tensors.insert(file.to_owned(), read_tensors(&path)?);
        } else if file.ends_with(".json") || file.ends_with(".txt") {
            files.configs.insert(file.to_owned(), read_text(&path)?);
        }
    }
    let has = |key: &str| files.tensors.values().any(|map| map.contains_key(key));
    let kind = if has("layers.0.weight") {
        RewardKind::Aesthetic
    } else if has("visual.proj") {
        RewardKind::Hps
    } else if has("visual_projection.weight") {
        RewardKind::PickScore
    } else {
        return Err(PipelineError::Input {
            path: dir.to_owned(),
            message: format!(
                "reward {name}: no weights of a known kind; expected safetensors or torch.save files of HPS (open_clip keys), PickScore (CLIPModel keys), or an image tower with an aesthetic head (layers.0.weight)"
            ),
        });
    };
    registry::build(kind, name, files, device)
        .map_err(|source| PipelineError::Reward { path: dir.to_owned(), source })
}

/// A reward of a run.
#[derive(Clone)]
pub(crate) struct RunReward {
    pub(crate) name: String,
    /// Whether selection sees it.
    pub(crate) trained_on: bool,
    /// Whether a missing score stops the run.
    pub(crate) stops: bool,
    source: Source,
}

/// Where the scores of a reward come from.
#[derive(Clone)]
enum Source {
    /// A folder of weights.
    Folder(PathBuf),
    /// A command or server, and the folder that its paths are relative to.
    External(Box<RewardSection>, PathBuf),
}

impl RunReward {
    /// The reward, ready to score.
    pub(crate) fn load(&self, device: &Device) -> Result<Box<dyn Reward>> {
        match &self.source {
            Source::Folder(dir) => load_reward(&self.name, dir, device),
            Source::External(section, base) => external_reward(section, base),
        }
    }

    /// Digest of what its scores depend on: its weights, or its section of the recipe.
    pub(crate) fn digest(&self) -> Result<String> {
        match &self.source {
            Source::Folder(dir) => Ok(sha256_dir(dir)?),
            Source::External(section, _) => Ok(external::digest(section)),
        }
    }
}

/// The recipe's rewards.
pub(crate) fn of_recipe(
    sections: &[RewardSection],
    base: &Path,
    context: &Context<'_>,
) -> Result<Vec<RunReward>> {
    let mut out = Vec::new();
    for section in sections {
        let name = section.name.as_str().to_owned();
        if external::is_external(section) {
            out.push(RunReward {
                name,
                trained_on: section.role == RewardRole::Train,
                stops: section.on_failure == OnFailure::Stop,
                source: Source::External(Box::new(section.clone()), base.to_owned()),
            });
            continue;
        }
        let dir = match &section.weights {
            Some(path) => base.join(path),
            None => {
                let embedded = match context.world {
                    Some(world) => world.reward_dir(&name)?,
                    None => None,
                };
                embedded.ok_or_else(|| {
                    PipelineError::Usage(format!(
                        "rewards.{name}: no embedded reward has this name; give its folder with `weights = \"…\"`, or a `command` or `url` that scores"
                    ))
                })?
            }
        };
        out.push(RunReward {
            name,
            trained_on: section.role == RewardRole::Train,
            stops: section.on_failure == OnFailure::Stop,
            source: Source::Folder(dir),
        });
    }
    Ok(out)
}
