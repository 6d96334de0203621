//! The manifests of a run's stages.

use std::path::Path;

use craft_store::Manifest;
use craft_store::manifest::STAGE_FILE;

/// A finished stage.
#[derive(Debug)]
pub(crate) struct StageRecord {
    /// Folder relative to the run, with `/`.
    pub(crate) folder: String,
    pub(crate) manifest: Manifest,
}

const ORDER: [&str; 11] = [
    "prompts",
    "expanded",
    "candidates",
    "rewards",
    "selection",
    "checkpoints",
    "aligned",
    "control",
    "evaluation",
    "sweep",
    "report",
];

/// All `stage.json` files one or two folders down, in the order of the pipeline.
pub(super) fn read(dir: &Path, notes: &mut Vec<String>) -> Vec<StageRecord> {
    let mut folders = Vec::new();
    for top in subfolders(dir) {
        // Pictures and their shards are no stages.
        for inner in subfolders(&dir.join(&top)).into_iter().filter(|inner| inner != "images") {
            folders.push(format!("{top}/{inner}"));
        }
        folders.push(top);
    }
    let rank = |folder: &str| {
        let top = folder.split('/').next().unwrap_or(folder).to_owned();
        let place = ORDER.iter().position(|o| *o == top).unwrap_or(ORDER.len());
        (place, folder.to_owned())
    };
    folders.sort_by_key(|f| rank(f));
    let mut out = Vec::new();
    for folder in folders.into_iter().filter(|f| f != "report") {
        let path = dir.join(&folder).join(STAGE_FILE);
        if !path.exists() {
            continue;
        }
        match Manifest::read(&path) {
            Ok(manifest) => out.push(StageRecord { folder, manifest }),
            Err(_) => notes.push(format!(
                "{folder}/stage.json cannot be read; its times and hashes are not shown"
            )),
        }
    }
    out
}

fn subfolders(dir: &Path) -> Vec<String> {
    let entries = craft_store::atomic::list(dir).unwrap_or_default();
    let folders = entries.iter().filter(|path| path.is_dir() && !path.is_symlink());
    folders.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
}
