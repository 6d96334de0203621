//! Where a model comes from: a folder, a single file, or a repository of the Hugging Face hub.

use std::path::{Path, PathBuf};

use craft_store::StoreError;
use craft_store::hub::{Listener, Repo, RepoFile, RepoId, Settings, provenance};
use craft_store::weights::{DIFFUSERS, TRANSFORMERS};

use crate::architecture::{self, Architecture};
use crate::error::{ModelError, Result};
use crate::single_file;
use craft_core::Progress;

/// A model that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its folder.
    pub dir: PathBuf,
    /// The commit of the repository that it comes from.
    pub commit: Option<String>,
}

/// The folder of the model that `model` names, relative to `base`. `config` is a model folder that
/// has the configs of a single file; `commit` takes the place of a repository's branch.
///
/// A folder or file of that name wins over a repository.
///
/// # Errors
/// When there is no such model, a single file cannot be used, or the hub refuses.
pub fn resolve(
    model: &str,
    config: Option<&Path>,
    base: &Path,
    commit: Option<&str>,
    progress: &dyn Progress,
) -> Result<Found> {
    let path = base.join(model);
    if path.exists() {
        return Ok(Found { dir: local(&path, config, base, progress)?, commit: None });
    }
    let Some(mut id) = RepoId::parse(model) else {
        return Err(ModelError::Input {
            path,
            message: "there is no such model; expected a model folder in the diffusers layout, a single-file checkpoint (.safetensors, .ckpt), a repository owner/name of the Hugging Face hub, or `pocket` for the embedded model".to_owned(),
        });
    };
    if let Some(commit) = commit {
        id.revision = commit.to_owned();
    }
    let wanted = |repo: &Repo| wanted(&id, &repo.files);
    let dir = snapshot(&Settings::from_env(), &id, &wanted, progress)
        .map_err(|error| nor_local(error, &path))?;
    let commit = provenance(&dir).map(|(_, commit)| commit);
    let path = id.file.as_ref().map_or_else(|| dir.clone(), |file| dir.join(file));
    Ok(Found { dir: local(&path, config, base, progress)?, commit })
}

/// An error of the hub that also says which local path was looked for first.
pub fn nor_local(error: ModelError, path: &Path) -> ModelError {
    match error {
        ModelError::Store(StoreError::Hub { id, message, unreachable }) => {
            let message =
                format!("{message} (there is no local file or folder {} either)", path.display());
            ModelError::Store(StoreError::Hub { id, message, unreachable })
        }
        other => other,
    }
}

fn local(
    path: &Path,
    config: Option<&Path>,
    base: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf> {
    if path.is_file() {
        let config = config.map(|c| base.join(c));
        return single_file::import(path, config.as_deref(), progress);
    }
    match config {
        None => Ok(path.to_owned()),
        Some(_) => Err(ModelError::Usage(format!(
            "{} is a folder, which has its own configs; expected --model-config (model.config) with a single file only: leave it out",
            path.display()
        ))),
    }
}

/// The folder of a repository's revision with the files that are wanted. The hub is not asked for a
/// commit that is complete in the cache, and a cached copy does where the hub does not answer.
pub fn snapshot(
    settings: &Settings,
    id: &RepoId,
    wanted: &dyn Fn(&Repo) -> Result<Vec<String>>,
    progress: &dyn Progress,
) -> Result<PathBuf> {
    let cached = Repo::cached(settings, id)?;
    let whole = cached.as_ref().map(|repo| check_whole(repo, wanted));
    if let (Some(repo), Some(Ok(()))) = (&cached, &whole)
        && (id.is_commit() || settings.offline)
    {
        return Ok(repo.dir.clone());
    }
    let mut listener = Telling { progress, started: false };
    // Where a whole copy is there, a busy hub is not worth much waiting.
    let patient = !matches!(whole, Some(Ok(())));
    let opened = Repo::open(settings, id, patient, &mut listener);
    let repo = match (opened, cached, whole) {
        (Ok(repo), _, _) => repo,
        (Err(StoreError::Hub { message, unreachable: true, .. }), Some(repo), Some(Ok(()))) => {
            progress.note(&format!(
                "{id}: {message}; the cached copy of commit {} is used",
                repo.commit
            ));
            return Ok(repo.dir);
        }
        (Err(StoreError::Hub { message, unreachable: true, .. }), cached, whole) => {
            let state = match (cached, whole) {
                (Some(_), Some(Err(error))) => format!("the cached copy is not complete ({error})"),
                _ => format!("no copy is in the cache {}", settings.cache.display()),
            };
            return Err(hub_error(
                id,
                format!(
                    "{message}, and {state}; expected one or the other: {}, or give a local folder",
                    if settings.offline { "unset HF_HUB_OFFLINE once" } else { "go online once" }
                ),
            ));
        }
        (Err(error), _, _) => return Err(error.into()),
    };
    if id.file.is_none() && repo.has("model_index.json") {
        // What it is decides before gigabytes are fetched.
        repo.fetch(&["model_index.json".to_owned()], &mut listener)?;
        architecture::of_folder(&repo.dir).map(drop)?;
    }
    let paths = wanted(&repo)?;
    repo.fetch(&paths, &mut listener)?;
    if listener.started {
        progress.finish(&format!("{id}: commit {}", repo.commit));
    }
    Ok(repo.dir)
}

/// An error of a repository.
pub fn hub_error(id: &RepoId, message: String) -> ModelError {
    StoreError::Hub { id: id.to_string(), message, unreachable: false }.into()
}

/// Whether a cached copy has all that is wanted.
fn check_whole(repo: &Repo, wanted: &dyn Fn(&Repo) -> Result<Vec<String>>) -> Result<()> {
    let paths = wanted(repo)?;
    if repo.id.file.is_some() || !repo.has("model_index.json") {
        return Ok(());
    }
    let xl = architecture::of_folder(&repo.dir)? != Architecture::StableDiffusion;
    for folder in COMPONENTS.iter().filter(|folder| xl || !folder.ends_with("_2")) {
        if !paths.iter().any(|path| path.starts_with(&format!("{folder}/"))) {
            return Err(hub_error(&repo.id, format!("{folder}/ is missing")));
        }
    }
    Ok(())
}

struct Telling<'a> {
    progress: &'a dyn Progress,
    started: bool,
}

impl Listener for Telling<'_> {
    fn start(&mut self, bytes: u64) {
        self.progress.start("download", bytes, "bytes");
        self.started = true;
    }
    fn advance(&mut self, bytes: u64) {
        self.progress.advance(bytes);
    }
    fn note(&mut self, text: &str) {
        self.progress.note(text);
    }
    fn stopped(&self) -> bool {
        self.progress.stopped()
    }
}

/// Folders of a model that are read.
const COMPONENTS: [&str; 7] =
    ["scheduler", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet", "vae"];

/// The files that a model is loaded from: configs, tokenizers, and of each network's weights one
/// layout, 16 bits before 32.
fn wanted(id: &RepoId, files: &[RepoFile]) -> Result<Vec<String>> {
    let paths: Vec<&str> = files.iter().map(|f| f.path.as_str()).collect();
    if let Some(file) = &id.file {
        return match paths.contains(&file.as_str()) {
            true => Ok(vec![file.clone()]),
            false => Err(hub_error(id, format!("it has no such file; it has {}", shown(&paths)))),
        };
    }
    if !paths.contains(&"model_index.json") {
        let single =
            |p: &&&str| !p.contains('/') && (p.ends_with(".safetensors") || p.ends_with(".ckpt"));
        let single: Vec<&str> = paths.iter().filter(single).copied().collect();
        return Err(hub_error(
            id,
            format!(
                "it has no model_index.json; expected a model in the diffusers layout, or the name of a single file as {}/FILE; it has {}",
                id.name,
                shown(if single.is_empty() { &paths } else { &single })
            ),
        ));
    }
    let mut chosen = vec!["model_index.json".to_owned()];
    for folder in COMPONENTS {
        let inside: Vec<&str> =
            paths.iter().filter_map(|p| p.strip_prefix(folder)?.strip_prefix('/')).collect();
        let stem = match folder {
            "unet" | "vae" => Some(DIFFUSERS),
            "text_encoder" | "text_encoder_2" => Some(TRANSFORMERS),
            _ => None,
        };
        let weights = match stem {
            Some(stem) if !inside.is_empty() => stem.choose(&inside).ok_or_else(|| {
                hub_error(id, format!("{folder}/ has no weights; it has {}", shown(&inside)))
            })?,
            _ => vec![],
        };
        let plain = |p: &&&str| {
            let text = p.ends_with(".json") || p.ends_with(".txt");
            !p.contains('/') && text && !p.contains(".index.")
        };
        let configs = inside.iter().filter(plain).copied();
        chosen.extend(configs.chain(weights).map(|name| format!("{folder}/{name}")));
    }
    Ok(chosen)
}

/// Names of files for a message, the first few of them.
pub fn shown(paths: &[&str]) -> String {
    let mut text = paths.iter().take(8).copied().collect::<Vec<_>>().join(", ");
    match paths.len() {
        0 => text.push_str("nothing"),
        n if n > 8 => text.push_str(&format!(" and {} more", n - 8)),
        _ => {}
    }
    text
}
