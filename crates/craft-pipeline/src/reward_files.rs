//! Where the files of a reward model lie.

use std::path::{Path, PathBuf};

use craft_rewards::{OPEN_CLIP_MERGES, RewardFiles};
use craft_store::hash::{sha256_bytes, sha256_dir, sha256_file};
use craft_store::{text, weights};

use crate::error::{PipelineError, Result};
use crate::reward_hub::{self, Pins};
use craft_core::Progress;
use craft_model::clip_vocabulary;
use craft_model::model::{read_tensors, read_text};

/// Files that describe one model, so that they are read beside a single weight file only where it is
/// the folder's only one.
pub(crate) const OF_ONE_MODEL: [&str; 3] =
    ["config.json", "open_clip_config.json", "preprocessor_config.json"];
/// Files that several models share.
pub(crate) const SHARED: [&str; 7] = [
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "vocab.txt",
    "med_config.json",
];

/// Weights of a reward: folders and files that together are one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RewardWeights {
    paths: Vec<PathBuf>,
    /// Files from the hub, read as they are: nothing else of their folders belongs to them.
    fetched: Vec<PathBuf>,
    commits: Pins,
}

impl RewardWeights {
    /// From the text of a recipe or of the command line: a folder or file, or several after commas.
    /// Relative ones start from `base`.
    pub fn parse(text: &str, base: &Path) -> Self {
        let whole = base.join(text);
        let paths = if whole.exists() {
            vec![whole]
        } else {
            text.split(',').map(|part| base.join(part.trim())).collect()
        };
        Self { paths, ..Self::default() }
    }

    /// [`Self::parse`] of what may also name repositories of the hub, `owner/name`,
    /// `owner/name/file` or either with `@revision`, which are fetched. A folder or file of that name
    /// wins. `published` is the name under which the weights are published, `pins` are the commits that
    /// an earlier start was given for branches.
    ///
    /// # Errors
    /// When the hub refuses, cannot be reached and nothing whole is in the cache, or has no weights.
    pub fn resolve(
        text: &str,
        published: Option<&str>,
        base: &Path,
        pins: &Pins,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut found = Self::parse(text, base);
        if found.missing().is_none() {
            return Ok(found);
        }
        found.paths.clear();
        for part in text.split(',').map(str::trim) {
            let path = base.join(part);
            match reward_hub::id(part).filter(|_| !path.exists()) {
                Some(id) => {
                    let fetched = reward_hub::fetch(id, published, &path, pins, progress)?;
                    found.fetched.extend(fetched.files);
                    found.commits.insert(fetched.asked, fetched.commit);
                }
                None => found.paths.push(path),
            }
        }
        Ok(found)
    }

    /// One folder or file.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { paths: vec![path.into()], ..Self::default() }
    }

    /// The first path, or an empty one.
    pub fn path(&self) -> &Path {
        self.paths.first().or(self.fetched.first()).map_or(Path::new(""), PathBuf::as_path)
    }

    /// The commits of what came from the hub.
    pub fn commits(&self) -> &Pins {
        &self.commits
    }

    /// The first path that does not exist.
    pub fn missing(&self) -> Option<&Path> {
        self.paths.iter().map(PathBuf::as_path).find(|path| !path.exists())
    }

    /// SHA-256 of everything that is read.
    pub fn hash(&self, published: Option<&str>) -> Result<String> {
        if let ([dir], []) = (&self.paths[..], &self.fetched[..])
            && dir.is_dir()
        {
            return Ok(sha256_dir(dir)?);
        }
        let mut lines = String::new();
        for file in self.files(published)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            lines.push_str(&format!("{}  {name}\n", sha256_file(&file)?));
        }
        Ok(sha256_bytes(lines))
    }

    /// Size and path of each weight file, to see whether rewards have one in common.
    pub(crate) fn weight_files(&self, published: Option<&str>) -> Result<Vec<(u64, PathBuf)>> {
        let files = self.files(published)?.into_iter().filter(|file| is_weights(file));
        Ok(files.map(|file| (craft_store::input::size(&file), file)).collect())
    }

    /// Reads them.
    ///
    /// `published` is the name under which the weights are published: of a folder that holds such a
    /// file no other weights are read.
    pub fn read(&self, published: Option<&str>) -> Result<RewardFiles> {
        let mut files = RewardFiles::default();
        for path in self.files(published)? {
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
            if is_weights(&path) {
                files.tensors.insert(name.to_owned(), read_tensors(&path)?);
            } else if let Some(plain) = name.strip_suffix(".gz") {
                let text = text::read_gzip(&path, MAX_TEXT_BYTES)?;
                files.configs.entry(plain.to_owned()).or_insert(text);
            } else {
                let text = read_text(&path)?;
                files.configs.entry(name.to_owned()).or_insert(text);
            }
        }
        add_clip_merges(&mut files)?;
        Ok(files)
    }

    /// Adds the files of a folder that lies beside the first path, where there is one.
    pub(crate) fn read_beside(&self, mut files: RewardFiles, folder: &str) -> Result<RewardFiles> {
        let path = self.path();
        let places = [path.join(folder), path.with_file_name(folder)];
        if let Some(dir) = places.into_iter().find(|dir| dir.is_dir()) {
            let more = Self::at(dir).read(None)?;
            files.tensors.extend(more.tensors);
            files.configs.extend(more.configs);
        }
        Ok(files)
    }

    fn files(&self, published: Option<&str>) -> Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for path in &self.paths {
            if path.is_dir() {
                all.extend(in_folder(path, published)?);
            } else if path.is_file() {
                all.extend(beside(path)?);
            } else {
                return Err(PipelineError::Input {
                    path: path.clone(),
                    message:
                        "there is no such file or folder; expected the weights of a reward model"
                            .to_owned(),
                });
            }
        }
        all.extend(self.fetched.iter().cloned());
        Ok(all)
    }
}

/// Gives a model of CLIP's vocabulary its tokenizer, where none lies beside its weights.
fn add_clip_merges(files: &mut RewardFiles) -> Result<()> {
    let has = |name: &str| files.configs.contains_key(name);
    let is_clip = files.tensors.values().flatten().any(|(name, tensor)| {
        name.ends_with("token_embedding.weight")
            && tensor.shape.first() == Some(&clip_vocabulary::TOKENS)
    });
    let own = ["merges.txt", "vocab.json", "tokenizer.json", OPEN_CLIP_MERGES];
    if is_clip && !own.into_iter().any(has) {
        files.configs.insert(OPEN_CLIP_MERGES.to_owned(), clip_vocabulary::merges()?);
    }
    Ok(())
}

/// Largest text file read, in bytes.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// All files of a folder that belong to a reward.
fn in_folder(dir: &Path, published: Option<&str>) -> Result<Vec<PathBuf>> {
    if let Some(file) = published.map(|name| dir.join(name)).filter(|file| file.is_file()) {
        return beside(&file);
    }
    let mut files: Vec<PathBuf> =
        list(dir)?.into_iter().filter(|path| is_weights(path) || is_text(path)).collect();
    let shards = files.iter().any(|file| is_index(file));
    files.retain(|file| !(shards && is_shard(file)));
    if !files.iter().any(|file| file.ends_with("merges.txt")) {
        // A whole model of diffusers' layout given for its tokenizer.
        files.extend(texts(&dir.join("tokenizer"), &SHARED));
    }
    Ok(files)
}

/// A weight file and what it needs of its folder, or a text file alone.
fn beside(file: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![file.to_owned()];
    if !is_weights(file) {
        return Ok(files);
    }
    let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    files.extend(texts(dir, &SHARED));
    for name in [OPEN_CLIP_MERGES.to_owned(), format!("{OPEN_CLIP_MERGES}.gz")] {
        files.extend(Some(dir.join(name)).filter(|path| path.is_file()));
    }
    if list(dir)?.iter().filter(|path| is_weights(path)).count() == 1 {
        files.extend(texts(dir, &OF_ONE_MODEL));
    }
    Ok(files)
}

fn texts(dir: &Path, names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(|name| dir.join(name)).filter(|path| path.is_file()).collect()
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    craft_store::atomic::list(dir).map_err(|error| PipelineError::Input {
        path: dir.to_owned(),
        message: format!("the folder of a reward model cannot be read ({})", error.reason()),
    })
}

/// A weight file, or the index of one in shards.
fn is_weights(path: &Path) -> bool {
    weights::is_weights(path) || is_index(path)
}

fn is_index(path: &Path) -> bool {
    path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.ends_with(".index.json"))
}

/// `…-00001-of-00002.…`
pub(crate) fn is_shard(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("");
    let Some((head, count)) = stem.rsplit_once("-of-") else { return false };
    let number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    number(count) && head.rsplit_once('-').is_some_and(|(_, index)| number(index))
}

fn is_text(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    name.ends_with(".json") || name.ends_with(".txt") || name == format!("{OPEN_CLIP_MERGES}.gz")
}
