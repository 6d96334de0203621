//! Weights of rewards from repositories of the hub.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use craft_store::hub::{Repo, RepoId, Settings, provenance};
use craft_store::weights::TRANSFORMERS;

use crate::error::Result;
use crate::reward_files::{OF_ONE_MODEL, SHARED, is_shard};
use craft_core::Progress;
use craft_model::source::{hub_error, nor_local, shown, snapshot};

/// Commits by what was asked for, `owner/name@revision`.
pub type Pins = BTreeMap<String, String>;

/// Endings of weight files.
const WEIGHTS: [&str; 5] = [".safetensors", ".bin", ".pt", ".pth", ".ckpt"];
/// Weights of open_clip's repositories, the better first.
const OPEN_CLIP: [&str; 2] = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"];

/// Files of one commit.
pub(crate) struct Fetched {
    /// Weights and texts.
    pub(crate) files: Vec<PathBuf>,
    /// What was asked for.
    pub(crate) asked: String,
    /// The commit that it is.
    pub(crate) commit: String,
}

/// The repository that a part of `weights` names; `None` for what can only be a local path, such as
/// `weights/model.pt`.
pub(crate) fn id(text: &str) -> Option<RepoId> {
    let id = RepoId::parse(text)?;
    (id.file.is_some() || !is_weights(&id.name)).then_some(id)
}

/// Fetches what a reward needs of a repository. `published` is the name of the file that its weights are
/// published as, if they have one of their own; `path` is the local path that was looked for first.
///
/// # Errors
/// As a model's: when the hub refuses or cannot be reached and nothing whole is in the cache, when what
/// comes is damaged, or the repository has no weights.
pub(crate) fn fetch(
    mut id: RepoId,
    published: Option<&str>,
    path: &Path,
    pins: &Pins,
    progress: &dyn Progress,
) -> Result<Fetched> {
    let asked = format!("{}@{}", id.name, id.revision);
    if let Some(commit) = pins.get(&asked) {
        id.revision.clone_from(commit);
    }
    let last = RefCell::new(Vec::new());
    let choose = |repo: &Repo| {
        let paths: Vec<&str> = repo.files.iter().map(|f| f.path.as_str()).collect();
        let chosen = wanted(&id, published, &paths)?;
        last.borrow_mut().clone_from(&chosen);
        Ok(chosen)
    };
    let dir = snapshot(&Settings::from_env(), &id, &choose, progress)
        .map_err(|error| nor_local(error, path))?;
    let commit = provenance(&dir).map_or_else(|| id.revision.clone(), |(_, commit)| commit);
    let files = last.into_inner().into_iter().map(|name| dir.join(name));
    Ok(Fetched { files: files.filter(|file| !is_shard(file)).collect(), asked, commit })
}

fn is_weights(name: &str) -> bool {
    WEIGHTS.iter().any(|end| name.ends_with(end))
}

/// Of a repository's files those that a reward is read from: one layout of the weights, and the texts
/// beside it. A file that is named, or has the published name, comes with the texts that models share
/// only, since the others may be of another model.
fn wanted(
    id: &RepoId,
    published: Option<&str>,
    paths: &[&str],
) -> craft_model::Result<Vec<String>> {
    let texts = |folder: &str, names: &[&str]| -> Vec<String> {
        let there = names.iter().map(|name| format!("{folder}{name}"));
        there.filter(|path| paths.contains(&path.as_str())).collect()
    };
    let root: Vec<&str> = paths.iter().copied().filter(|path| !path.contains('/')).collect();
    let published = published.filter(|name| root.contains(name));
    if let Some(file) = id.file.as_deref().or(published) {
        if !paths.contains(&file) {
            return Err(hub_error(id, format!("it has no such file; it has {}", shown(paths))));
        }
        let folder = file.rfind('/').map_or("", |at| &file[..=at]);
        let mut all = vec![file.to_owned()];
        if is_weights(file) {
            all.extend(texts(folder, &SHARED));
        }
        return Ok(all);
    }
    let all: Vec<&str> = root.iter().copied().filter(|name| is_weights(name)).collect();
    let weights = match TRANSFORMERS.choose(&root) {
        Some(chosen) => chosen,
        None => match (OPEN_CLIP.iter().find(|name| root.contains(name)), &all[..]) {
            (Some(name), _) => vec![*name],
            (None, [name]) => vec![*name],
            (None, _) => {
                let there = if all.is_empty() { paths } else { &all };
                return Err(hub_error(
                    id,
                    format!(
                        "it has no weights of one model; expected model.safetensors, open_clip's, or the name of a file as {}/FILE; it has {}",
                        id.name,
                        shown(there)
                    ),
                ));
            }
        },
    };
    let mut all: Vec<String> = weights.into_iter().map(str::to_owned).collect();
    all.extend(texts("", &OF_ONE_MODEL));
    all.extend(texts("", &SHARED));
    Ok(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use craft_rewards::{RewardKind, license_of};

    use super::*;

    #[test]
    fn one_layout_and_its_texts_are_wanted() {
        let of = |text: &str, published: Option<&str>, paths: &[&str]| {
            wanted(&id(text).unwrap(), published, paths).map_err(|error| error.to_string())
        };
        let clip = [
            "README.md",
            "config.json",
            "flax_model.msgpack",
            "merges.txt",
            "model.safetensors",
            "open_clip_pytorch_model.bin",
            "pytorch_model.bin",
            "onnx/model.onnx",
        ];
        let wanted = of("a/b", None, &clip).unwrap();
        assert_eq!(wanted, ["model.safetensors", "config.json", "merges.txt"]);
        let wanted = of("a/b/pytorch_model.bin@v1", None, &clip).unwrap();
        assert_eq!(wanted, ["pytorch_model.bin", "merges.txt"]);
        assert_eq!(of("a/b/merges.txt", None, &clip).unwrap(), ["merges.txt"]);
        let wanted = of("a/b", None, &["open_clip_pytorch_model.bin", "open_clip_config.json"]);
        assert_eq!(wanted.unwrap(), ["open_clip_pytorch_model.bin", "open_clip_config.json"]);
        let hps = ["HPS_v2.1_compressed.pt", "HPS_v2_compressed.pt"];
        assert_eq!(of("a/b", Some(hps[0]), &hps).unwrap(), [hps[0]]);
        let error = of("a/b", None, &hps).unwrap_err();
        assert!(error.contains("a/b/FILE") && error.contains(hps[1]), "{error}");
        let error = of("a/b/c.pt", None, &hps).unwrap_err();
        assert!(error.contains("no such file") && error.contains(hps[1]), "{error}");
    }

    #[test]
    fn published_weights_are_named_by_commit() {
        for kind in RewardKind::ALL {
            let parts: Vec<&str> = kind.hub().split(',').filter(|part| !part.is_empty()).collect();
            assert_eq!(kind.has_weights(), !parts.is_empty(), "{kind}");
            for part in parts {
                assert!(id(part).unwrap().is_commit() || kind == RewardKind::Mps, "{part}");
            }
            assert!(!license_of(kind.as_str()).contains("not known"), "{kind}");
        }
    }

    #[test]
    fn local_paths_are_not_taken_for_repositories() {
        for text in ["weights/HPS_v2.1_compressed.pt", "weights", "./a/b", "/a/b", "a b/c"] {
            assert!(id(text).is_none(), "{text}");
        }
        assert!(id("a/b").is_some() && id("a/b/c.pt@main").is_some());
    }
}
