//! Reward models from their weights.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use craft_core::recipe::{OnFailure, RewardRole, RewardSection};
use craft_rewards::{Reward, RewardKind, Towers, license_of, registry};
use craft_store::StoreError;
use craft_store::hash::sha256_file;

use crate::context::Context;
use crate::error::{PipelineError, Result};
use crate::external::{self, external_reward};
pub use crate::reward_files::RewardWeights;
pub use crate::reward_hub::Pins;
use craft_core::Progress;

/// The kind of reward that a recipe's name stands for; any other name says nothing of the kind.
pub fn kind_of(name: &str) -> Option<RewardKind> {
    name.parse().ok()
}

/// The weights of a reward by the text of a recipe or of the command line; without one those that its
/// name is published with. `None` if they are neither given nor known.
///
/// # Errors
/// See [`RewardWeights::resolve`].
pub fn weights_of(
    name: &str,
    text: Option<&str>,
    base: &Path,
    pins: &Pins,
    progress: &dyn Progress,
) -> Result<Option<RewardWeights>> {
    let kind = kind_of(name);
    let published = kind.and_then(RewardKind::file_name);
    let text = match (text, kind) {
        (Some(text), _) => text,
        (None, Some(kind)) if !kind.has_weights() => return Ok(Some(RewardWeights::default())),
        (None, Some(kind)) => kind.hub(),
        (None, None) => return Ok(None),
    };
    RewardWeights::resolve(text, published, base, pins, progress).map(Some).map_err(|error| {
        match error {
            PipelineError::Store(StoreError::Hub { id, message, unreachable }) => {
                let message = format!("reward {name}: {message}");
                PipelineError::Store(StoreError::Hub { id, message, unreachable })
            }
            other => other,
        }
    })
}

/// Loads one reward model. Its kind follows from its name, or else from what its files hold.
///
/// # Errors
/// When the files are not those of a reward model, or one is missing or torn.
pub fn load_reward(
    name: &str,
    weights: &RewardWeights,
    device: &Device,
) -> Result<Box<dyn Reward>> {
    load_with(name, weights, device, &mut Towers::default())
}

fn load_with(
    name: &str,
    weights: &RewardWeights,
    device: &Device,
    towers: &mut Towers,
) -> Result<Box<dyn Reward>> {
    let path = || weights.path().to_owned();
    let named = kind_of(name);
    if let Some(missing) = weights.missing() {
        return Err(PipelineError::Input {
            path: missing.to_owned(),
            message: format!(
                "reward {name}: there is no such file or folder; expected its weights"
            ),
        });
    }
    let mut files = match named {
        Some(kind) if !kind.has_weights() => Default::default(),
        Some(kind) => weights.read(kind.file_name())?,
        None => weights.read(None)?,
    };
    let kind = named.or_else(|| RewardKind::of_files(&files)).ok_or_else(|| {
        PipelineError::Input {
            path: path(),
            message: format!(
                "reward {name}: no weights of a known kind; expected safetensors or torch.save files of HPS (open_clip keys), PickScore (CLIPModel keys), an image tower with an aesthetic head (layers.0.weight), ImageReward or MPS; or one of the names {}",
                RewardKind::ALL.map(RewardKind::as_str).join(", ")
            ),
        }
    })?;
    if kind == RewardKind::Aesthetic && !RewardKind::has_tower(&files) {
        files = weights.read_beside(files, registry::AESTHETIC_TOWER)?;
    }
    registry::build_with(kind, name, files, device, towers)
        .map_err(|source| PipelineError::Reward { path: path(), source })
}

/// Where the scores of a reward come from.
#[derive(Clone, Debug)]
pub enum RewardSource {
    /// Weights.
    Weights(RewardWeights),
    /// A command or server, and the folder that its paths are relative to.
    External(Box<RewardSection>, PathBuf),
}

/// [`load_reward`] of any source.
pub(crate) fn load_source(
    name: &str,
    source: &RewardSource,
    device: &Device,
) -> Result<Box<dyn Reward>> {
    load_source_with(name, source, device, &mut Towers::default())
}

fn load_source_with(
    name: &str,
    source: &RewardSource,
    device: &Device,
    towers: &mut Towers,
) -> Result<Box<dyn Reward>> {
    match source {
        RewardSource::Weights(weights) => load_with(name, weights, device, towers),
        RewardSource::External(section, base) => external_reward(section, base),
    }
}

/// Calls `each` with every reward in turn. Rewards that have a weight file in common are loaded
/// together and share its networks; of the others one is in memory at a time.
///
/// # Errors
/// When a reward cannot be loaded, and those of `each`.
pub fn for_each(
    rewards: &[(&str, &RewardSource)],
    device: &Device,
    mut each: impl FnMut(usize, &dyn Reward) -> Result<()>,
) -> Result<()> {
    let together =
        if rewards.len() > 1 { groups(rewards)? } else { vec![(0..rewards.len()).collect()] };
    for group in together {
        let mut towers = if group.len() > 1 { Towers::shared() } else { Towers::default() };
        let mut loaded = Vec::with_capacity(group.len());
        for index in group {
            let (name, source) = rewards[index];
            loaded.push((index, load_source_with(name, source, device, &mut towers)?));
        }
        for (index, reward) in loaded {
            each(index, reward.as_ref())?;
        }
    }
    Ok(())
}

/// Loads all rewards, to keep; they share the networks that are the same.
///
/// # Errors
/// When one cannot be loaded.
pub fn load_all(
    rewards: &[(&str, &RewardSource)],
    device: &Device,
) -> Result<Vec<Box<dyn Reward>>> {
    let mut towers = Towers::shared();
    rewards
        .iter()
        .map(|(name, source)| load_source_with(name, source, device, &mut towers))
        .collect()
}

/// Rewards with a weight file in common, together; in the order of their first ones.
fn groups(rewards: &[(&str, &RewardSource)]) -> Result<Vec<Vec<usize>>> {
    let files: Vec<_> = rewards
        .iter()
        .map(|(name, source)| match (source, kind_of(name)) {
            (RewardSource::External(..), _) => Ok(Vec::new()),
            (_, Some(kind)) if !kind.has_weights() => Ok(Vec::new()),
            (RewardSource::Weights(weights), kind) => {
                weights.weight_files(kind.and_then(RewardKind::file_name))
            }
        })
        .collect::<Result<_>>()?;
    let same =
        |a: &Path, b: &Path| -> Result<bool> { Ok(a == b || sha256_file(a)? == sha256_file(b)?) };
    let mut groups: Vec<Vec<usize>> = Vec::new();
    'rewards: for index in 0..rewards.len() {
        for group in &mut groups {
            for (size, file) in group.iter().flat_map(|other| &files[*other]) {
                for (own_size, own) in &files[index] {
                    if size == own_size && same(file, own)? {
                        group.push(index);
                        continue 'rewards;
                    }
                }
            }
        }
        groups.push(vec![index]);
    }
    Ok(groups)
}

/// A reward of a run.
#[derive(Clone)]
pub struct RunReward {
    /// Its name.
    pub name: String,
    /// Whether selection sees it.
    pub trained_on: bool,
    /// Whether a missing score stops the run.
    pub(crate) stops: bool,
    pub(crate) source: RewardSource,
}

impl RunReward {
    /// SHA-256 of what the reward is made of: its weights, or its section of the recipe.
    ///
    /// # Errors
    /// When a file of weights cannot be read.
    pub fn hash(&self) -> Result<String> {
        let weights = match &self.source {
            RewardSource::Weights(weights) => weights,
            RewardSource::External(section, _) => return Ok(external::digest(section)),
        };
        match kind_of(&self.name) {
            Some(kind) if !kind.has_weights() => {
                Ok(craft_store::hash::sha256_bytes(format!("{kind}")))
            }
            kind => weights.hash(kind.and_then(RewardKind::file_name)),
        }
    }

    /// Where it comes from: the commits of its repositories by what was asked for, and the licence of
    /// the weights that its name stands for.
    pub(crate) fn origin(&self) -> serde_json::Value {
        let (commits, license) = match &self.source {
            RewardSource::Weights(weights) => (weights.commits().clone(), license_of(&self.name)),
            RewardSource::External(..) => (Pins::new(), external::LICENSE),
        };
        serde_json::json!({ "commits": commits, "license": license })
    }
}

/// The rewards of a recipe.
pub(crate) fn of_recipe(
    sections: &[RewardSection],
    base: &Path,
    pins: &Pins,
    context: &Context<'_>,
) -> Result<Vec<RunReward>> {
    let mut out = Vec::new();
    for section in sections {
        let name = section.name.as_str().to_owned();
        let (trained_on, stops) =
            (section.role == RewardRole::Train, section.on_failure == OnFailure::Stop);
        if external::is_external(section) {
            let source = RewardSource::External(Box::new(section.clone()), base.to_owned());
            out.push(RunReward { name, trained_on, stops, source });
            continue;
        }
        let embedded = match (&section.weights, context.world) {
            (None, Some(world)) => world.reward_dir(&name)?,
            _ => None,
        };
        let weights = match embedded {
            Some(dir) => RewardWeights::at(dir),
            None => {
                let text = section.weights.as_deref();
                weights_of(&name, text, base, pins, context.progress)?.ok_or_else(|| {
                    PipelineError::Usage(format!(
                        "rewards.{name}: no embedded or published reward has this name; give its folder, file or repository with `weights = \"…\"` (docs/rewards.md says which), or a `command` or `url` that scores"
                    ))
                })?
            }
        };
        out.push(RunReward { name, trained_on, stops, source: RewardSource::Weights(weights) });
    }
    Ok(out)
}
