//! `craft score`: a stage of a run, or images one by one.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use craft_core::RewardName;
use craft_core::recipe::RewardSection;
use craft_pipeline::PipelineError;
use craft_pipeline::external::external_reward;
use craft_pipeline::rewards::load_reward;
use craft_pipeline::world::World;
use craft_rewards::{Reward, RgbImageRef};
use craft_store::image;
use serde_json::{Map, Value, json};

use super::{App, stage};
use crate::cli::ScoreArgs;
use crate::exit::{input, usage};
use crate::pocket_world::PocketWorld;
use crate::{console, interrupt};

/// Reward models that are embedded.
const EMBEDDED: [&str; 4] = ["pocket-hps", "pocket-pick", "pocket-aes", "pocket-ir"];

/// Scores the candidates of a run, or images.
pub(super) fn score(app: &App, args: &ScoreArgs) -> anyhow::Result<()> {
    let Some(prompt) = &args.prompt else {
        return match args.paths.as_slice() {
            [run_dir] => stage::stage(app, run_dir, "score"),
            _ => Err(usage(
                "several paths are given without --reward; expected one run folder, or --reward NAME --prompt TEXT and images",
            )),
        };
    };
    let wanted: Vec<Wanted> =
        args.rewards.iter().map(|text| resolve(text, args)).collect::<Result<_, _>>()?;
    if let Some(twice) = wanted
        .iter()
        .enumerate()
        .find_map(|(i, r)| wanted[..i].iter().any(|o| o.name == r.name).then_some(r))
    {
        let name = &twice.name;
        return Err(usage(format!("--reward {name} is given twice; expected each reward once")));
    }
    interrupt::exit_at_once()?;
    // All pictures are read before a model is: a wrong path shows at once.
    let pictures =
        args.paths.iter().map(|path| image::read(path)).collect::<Result<Vec<_>, _>>()?;
    let rewards: Vec<Box<dyn Reward>> =
        wanted.iter().map(|wanted| wanted.load(&app.device)).collect::<Result<_, _>>()?;
    for (path, picture) in args.paths.iter().zip(&pictures) {
        let view =
            RgbImageRef { pixels: &picture.data, width: picture.width, height: picture.height };
        console::result(&line(path, prompt, &rewards, view).to_string())?;
    }
    Ok(())
}

fn line(path: &Path, prompt: &str, rewards: &[Box<dyn Reward>], view: RgbImageRef<'_>) -> Value {
    let (mut scores, mut missing) = (Map::new(), Map::new());
    for reward in rewards {
        let name = reward.name().to_owned();
        match reward.score_files(&[view], &[Some(path)], &[prompt]).pop() {
            Some(Ok(score)) => scores.insert(name, json!(score.get())),
            Some(Err(reason)) => missing.insert(name, json!(reason.to_string())),
            None => missing.insert(name, json!("the reward gave no score")),
        };
    }
    let mut line =
        json!({ "image": path.display().to_string(), "prompt": prompt, "scores": scores });
    if !missing.is_empty() {
        tracing::warn!(
            "{}: {} of {} scores are missing",
            path.display(),
            missing.len(),
            rewards.len()
        );
        line["missing"] = Value::Object(missing);
    }
    line
}

/// A reward that was asked for.
struct Wanted {
    name: String,
    source: Source,
}

enum Source {
    /// A folder of weights.
    Folder(PathBuf),
    /// A command or server.
    External(Box<RewardSection>),
}

impl Wanted {
    fn load(&self, device: &Device) -> Result<Box<dyn Reward>, PipelineError> {
        match &self.source {
            Source::Folder(dir) => load_reward(&self.name, dir, device),
            Source::External(section) => external_reward(section, Path::new(".")),
        }
    }
}

/// The reward of `NAME`, `NAME=FOLDER`, `NAME=command:PROGRAM ARGUMENT…` or `NAME=http://…`.
fn resolve(text: &str, args: &ScoreArgs) -> anyhow::Result<Wanted> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    if name.is_empty() || value == Some("") {
        return Err(usage(format!(
            "--reward {text}: expected NAME, NAME=FOLDER, NAME=command:PROGRAM or NAME=http://ADDRESS"
        )));
    }
    let folder = |dir| Wanted { name: name.to_owned(), source: Source::Folder(dir) };
    let Some(value) = value else {
        let dir = if EMBEDDED.contains(&name) { PocketWorld.reward_dir(name)? } else { None };
        let dir = dir.ok_or_else(|| {
            usage(format!(
                "--reward {name} is not embedded ({} are); give the folder of its weights: --reward {name}=FOLDER",
                EMBEDDED.join(", ")
            ))
        })?;
        return Ok(folder(dir));
    };
    let is_address = value.starts_with("http://") || value.starts_with("https://");
    if !is_address && !value.starts_with(COMMAND) {
        let dir = PathBuf::from(value);
        if !dir.is_dir() {
            return Err(input(format!(
                "{value}: there is no such folder; expected the folder of the weights and configs of {name}"
            )));
        }
        return Ok(folder(dir));
    }
    let checked = RewardName::new(name).map_err(|error| usage(format!("--reward: {error}")))?;
    let mut section = RewardSection::named(checked);
    if let Some(line) = value.strip_prefix(COMMAND) {
        section.command = Some(words(line).map_err(|e| usage(format!("--reward {name}: {e}")))?);
        section.start_timeout_seconds = args.reward_timeout;
    } else {
        section.url = Some(value.to_owned());
        section.allow_remote = args.allow_remote;
    }
    section.timeout_seconds = args.reward_timeout;
    section.validate().map_err(|error| usage(format!("--reward {name}: {error}")))?;
    // What cannot be used shows before pictures are read and models are loaded.
    external_reward(&section, Path::new("."))
        .map_err(|error| usage(format!("--reward {name}: {error}")))?;
    Ok(Wanted { name: name.to_owned(), source: Source::External(Box::new(section)) })
}

/// How a command among the rewards begins.
const COMMAND: &str = "command:";

/// The words of a command: separated by white space, or a JSON list of texts.
fn words(line: &str) -> Result<Vec<String>, String> {
    if !line.trim_start().starts_with('[') {
        return Ok(line.split_whitespace().map(str::to_owned).collect());
    }
    serde_json::from_str(line)
        .map_err(|e| format!("the command is not a JSON list of texts ({e}): {line}"))
}
