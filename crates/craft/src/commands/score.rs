//! `craft score`: a stage of a run, or images one by one.

use std::path::{Path, PathBuf};

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
    let wanted: Vec<(String, PathBuf)> =
        args.rewards.iter().map(|text| resolve(text)).collect::<Result<_, _>>()?;
    if let Some((name, _)) = wanted
        .iter()
        .enumerate()
        .find_map(|(i, r)| wanted[..i].iter().any(|o| o.0 == r.0).then_some(r))
    {
        return Err(usage(format!("--reward {name} is given twice; expected each reward once")));
    }
    interrupt::exit_at_once()?;
    // All pictures are read before a model is: a wrong path shows at once.
    let pictures =
        args.paths.iter().map(|path| image::read(path)).collect::<Result<Vec<_>, _>>()?;
    let rewards: Vec<Box<dyn Reward>> = wanted
        .iter()
        .map(|(name, dir)| load_reward(name, dir, &app.device))
        .collect::<Result<_, _>>()?;
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
        match reward.score(&[view], &[prompt]).pop() {
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

/// Name and folder of a reward: `NAME=FOLDER`, or the name of an embedded one.
fn resolve(text: &str) -> anyhow::Result<(String, PathBuf)> {
    let (name, weights) = match text.split_once('=') {
        Some((name, weights)) => (name, Some(weights)),
        None => (text, None),
    };
    if name.is_empty() || weights == Some("") {
        return Err(usage(format!("--reward {text}: expected NAME or NAME=FOLDER")));
    }
    match weights {
        Some(weights) => {
            let dir = PathBuf::from(weights);
            if !dir.is_dir() {
                return Err(input(format!(
                    "{weights}: there is no such folder; expected the folder of the weights and configs of {name}"
                )));
            }
            Ok((name.to_owned(), dir))
        }
        None => {
            let dir = if EMBEDDED.contains(&name) { PocketWorld.reward_dir(name)? } else { None };
            let dir = dir.ok_or_else(|| {
                usage(format!(
                    "--reward {name} is not embedded ({} are); give the folder of its weights: --reward {name}=FOLDER",
                    EMBEDDED.join(", ")
                ))
            })?;
            Ok((name.to_owned(), dir))
        }
    }
}
