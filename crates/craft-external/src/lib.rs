//! Rewards and wordings from outside: programs that score pictures, servers that score pictures, and
//! language models that word prompts.
//!
//! Invariants: the only crate that starts programs (connections are `craft-net`'s); nothing outside can
//! stop a run, fill the memory or be waited for without end; a score is finite, or it is missing with a
//! reason; nothing is sent to another machine unless that was allowed; a key reaches no file and no
//! message.
//!
//! The formats are described in `docs/external-rewards.md`.

mod answer;
mod chat;
#[cfg_attr(not(feature = "http"), path = "no_client.rs")]
mod client;
mod command;
mod error;
mod failures;
mod http;
mod process;
mod text;
mod wording;

pub use chat::{Answer, VisionOptions, VisionReward};
pub use command::{CommandOptions, CommandReward};
pub use error::ExternalError;
pub use http::HttpReward;
pub use wording::{INSTRUCTIONS, Wording, WordingModel, WordingOptions};

use std::path::Path;
use std::time::Duration;

use craft_store::RgbImage;
use craft_store::image::encode_png;

/// A picture with its prompt.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// `height · width · 3` bytes of RGB, row-major.
    pub pixels: &'a [u8],
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// The file it was read from, if it was.
    pub path: Option<&'a Path>,
    /// What it is to show.
    pub prompt: &'a str,
}

impl Item<'_> {
    /// The picture as PNG.
    fn png(&self) -> Result<Vec<u8>, String> {
        let picture = RgbImage::new(self.width, self.height, self.pixels.to_vec())
            .ok_or("the picture is empty or too large")?;
        encode_png(&picture, None)
    }
}

/// A server and how to speak with it.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Its address.
    pub url: String,
    /// Whether it may be another machine.
    pub allow_remote: bool,
    /// Environment variable that holds its key.
    pub api_key_env: Option<String>,
    /// Longest time of a request, from connecting to the end of the answer.
    pub timeout: Duration,
    /// Times that it is asked again when it is busy (429), fails (5xx) or cannot be reached.
    pub retries: usize,
}

/// A finite score, or why there is none.
pub type Scored = Result<f64, String>;
