//! Where a model comes from: a folder, a single file, or a repository of the Hugging Face hub.

use std::path::{Path, PathBuf};

use crate::context::Progress;
use crate::error::{PipelineError, Result};
use crate::single_file;

/// The folder of the model that `model` names, relative to `base`. `config` is a model folder that
/// has the configs of a single file.
///
/// A folder or file of that name wins over a repository.
///
/// # Errors
/// When there is no such model, or a single file cannot be used.
pub fn resolve(
    model: &str,
    config: Option<&Path>,
    base: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf> {
    let path = base.join(model);
    if path.is_file() {
        let config = config.map(|c| base.join(c));
        return single_file::import(&path, config.as_deref(), progress);
    }
    if path.is_dir() {
        return match config {
            None => Ok(path),
            Some(_) => Err(PipelineError::Usage(format!(
                "{model} is a folder, which has its own configs; expected --model-config (model.config) with a single file only: leave it out"
            ))),
        };
    }
    Err(PipelineError::Input {
        path,
        message: "there is no such model; expected a model folder in the diffusers layout, a single-file checkpoint (.safetensors, .ckpt), or `pocket` for the embedded model".to_owned(),
    })
}

/// A folder with `vocab.json` and `merges.txt` of CLIP's tokenizer.
pub(crate) fn clip_tokenizer(_progress: &dyn Progress) -> Result<PathBuf> {
    Err(PipelineError::Usage(
        "a single file has no tokenizer; expected --model-config DIR".to_owned(),
    ))
}
