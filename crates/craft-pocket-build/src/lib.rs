//! Builds the pocket models from seeds: tokenizer, autoencoder, denoiser with its text encoder, and the
//! reward models, in the formats of the real ones.
//!
//! Every part is trained by the project's own trainer, saves its state, and continues after a stop. A
//! part whose files are complete is skipped.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use craft_core::schedule::ScheduleError;
use craft_nn::config::ConfigError;
use craft_nn::tokenizer::{ClipTokenizer, TokenizerError, TokenizerFiles, train};
use craft_nn::weights::WeightError;
use craft_pocket::world::vocabulary;
use craft_store::lock::FolderLock;
use craft_store::{StoreError, own};
use craft_train::TrainError;
use craft_train::guard::NanStop;
use thiserror::Error;

mod base;
mod fit;
mod images;
mod io;
mod rewards;
mod vae;

/// Longest caption in tokens, begin and end included.
pub const MAX_TOKENS: usize = 32;

/// Why the pocket models could not be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// A file that an earlier part should have written.
    #[error("{0} cannot be read: {1}; build the parts in order, or build all of them")]
    Missing(PathBuf, std::io::Error),
    /// Reading or writing failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A config is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Weights do not fit.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The tokenizer could not be made.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The noise schedule is wrong.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Training diverged.
    #[error(transparent)]
    Nan(#[from] NanStop),
    /// Training failed otherwise.
    #[error("{0}")]
    Training(String),
    /// Stopped by the user; what was trained is saved.
    #[error("interrupted; run the same command again to continue")]
    Interrupted,
}

/// What to build and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder that receives the models, in diffusers layout.
    pub out: PathBuf,
    /// Seed of everything.
    pub seed: u64,
    /// Factor on the number of training steps; 1 for the shipped models, less for tests.
    pub scale: f64,
    /// Set to stop after the step that is being done.
    pub stop: &'static AtomicBool,
}

impl From<TrainError> for BuildError {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Nan(stop) => Self::Nan(stop),
            TrainError::Interrupted => Self::Interrupted,
            TrainError::Other(error) => match error.downcast::<Self>() {
                Ok(own) => *own,
                Err(other) => Self::Training(other.to_string()),
            },
            other => Self::Training(other.to_string()),
        }
    }
}

impl Options {
    fn work(&self) -> PathBuf {
        self.out.join(".work")
    }

    /// Stops here when asked to.
    fn check(&self) -> Result<(), BuildError> {
        if self.stop.load(Ordering::Relaxed) { Err(BuildError::Interrupted) } else { Ok(()) }
    }

    fn scaled(&self, n: usize) -> usize {
        ((n as f64 * self.scale).round() as usize).max(1)
    }
}

/// The parts in the order in which they are built.
pub const PARTS: [&str; 4] = ["tokenizer", "vae", "base", "rewards"];

/// Builds all parts, or the named ones.
///
/// # Errors
/// When a file cannot be read or written, something in the folder is a link, or training diverges.
pub fn build(o: &Options, parts: &[String]) -> Result<(), BuildError> {
    own::no_links_below(&o.out)?;
    craft_store::atomic::create_dir(&o.work())?;
    let _lock = FolderLock::acquire(&o.work(), &mut || {
        tracing::info!("another process builds in {}: waiting until it has ended", o.out.display());
    })?;
    own::remove_leftovers_below(&o.out)?;
    let wants = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let done = |file: &str| o.out.join(file).exists();
    if wants("tokenizer") && !done("tokenizer/merges.txt") {
        write_tokenizer(&o.out.join("tokenizer"))?;
    }
    let tokenizer = read_tokenizer(&o.out.join("tokenizer"))?;
    if wants("vae") && !done("vae/config.json") {
        vae::build(o)?;
    }
    if wants("base") && !done("model_index.json") {
        base::build(o, &tokenizer)?;
    }
    if wants("rewards") {
        rewards::build(o, &tokenizer)?;
    }
    Ok(())
}

fn tokenizer_files() -> Result<TokenizerFiles, BuildError> {
    let words = vocabulary();
    Ok(train(words.iter().map(String::as_str), 2000)?)
}

fn write_tokenizer(dir: &Path) -> Result<(), BuildError> {
    let files = tokenizer_files()?;
    let (config, special) = TokenizerFiles::configs(MAX_TOKENS, "<|endoftext|>");
    io::write_text(&dir.join("vocab.json"), &files.vocab_json)?;
    io::write_text(&dir.join("tokenizer_config.json"), &config)?;
    io::write_text(&dir.join("special_tokens_map.json"), &special)?;
    io::write_text(&dir.join("merges.txt"), &files.merges_txt)
}

fn read_tokenizer(dir: &Path) -> Result<ClipTokenizer, BuildError> {
    let read = |name: &str| io::read_text(&dir.join(name));
    Ok(ClipTokenizer::from_files(
        &read("vocab.json")?,
        &read("merges.txt")?,
        Some(&read("tokenizer_config.json")?),
        Some(&read("special_tokens_map.json")?),
    )?)
}
