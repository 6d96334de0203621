//! `craft score`: a stage of a run, or images one by one.

use std::path::{Path, PathBuf};

use craft_core::RewardName;
use craft_core::recipe::RewardSection;
use craft_pipeline::PipelineError;
use craft_pipeline::external::external_reward;
use craft_pipeline::rewards::{Pins, RewardSource, RewardWeights, for_each, weights_of};
use craft_pipeline::world::World;
use craft_rewards::{Reward, RgbImageRef};
use craft_store::image;
use serde_json::{Map, Value, json};

use super::{App, stage};
use crate::cli::ScoreArgs;
use crate::exit::{input, usage};
use crate::pocket_world::PocketWorld;
use crate::progress::Reporter;
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
    let wanted: Vec<(String, RewardSource)> =
        args.rewards.iter().map(|text| resolve(app, text, args)).collect::<Result<_, _>>()?;
    if let Some((name, _)) = wanted
        .iter()
        .enumerate()
        .find_map(|(i, r)| wanted[..i].iter().any(|o| o.0 == r.0).then_some(r))
    {
        return Err(usage(format!("--reward {name} is given twice; expected each reward once")));
    }
    interrupt::exit_at_once()?;
    // All pictures are read before a model is: a wrong path shows at once. No more of them stay in memory
    // than are scored at a time.
    for path in &args.paths {
        image::read(path)?;
    }
    let mut lines: Vec<Line> = args.paths.iter().map(|_| Line::new(wanted.len())).collect();
    let named: Vec<_> = wanted.iter().map(|(name, source)| (name.as_str(), source)).collect();
    let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    let mut asked = 0;
    for_each(&named, app.compute.device(), |index, reward| {
        let cut = reward.tokens_cut(prompt);
        if cut > 0 {
            tracing::warn!("{}: the prompt is cut by {cut} tokens", reward.name());
        }
        asked += 1;
        let batch = reward.batch().max(1);
        for (paths, lines) in args.paths.chunks(batch).zip(lines.chunks_mut(batch)) {
            score_part(reward, paths, prompt, lines, index)?;
            // A picture's line is said as soon as the last reward has spoken.
            if asked == named.len() {
                for (path, line) in paths.iter().zip(lines) {
                    let line = line.json(path, prompt, &names).to_string();
                    console::result(&line).map_err(|e| PipelineError::Usage(e.to_string()))?;
                }
            }
        }
        Ok(())
    })?;
    let scores = || lines.iter().flat_map(|line| &line.scores);
    if scores().all(Result::is_err) {
        let why = scores().find_map(|score| score.as_ref().err()).cloned().unwrap_or_default();
        return Err(anyhow::anyhow!(
            "no picture got a score; the first reason: {why}. Expected at least one: mend the cause and score again"
        ));
    }
    Ok(())
}

/// Asks a reward about a few pictures.
fn score_part(
    reward: &dyn Reward,
    paths: &[PathBuf],
    prompt: &str,
    lines: &mut [Line],
    index: usize,
) -> Result<(), PipelineError> {
    let pictures = paths.iter().map(|path| image::read(path)).collect::<Result<Vec<_>, _>>()?;
    let views: Vec<RgbImageRef<'_>> = pictures
        .iter()
        .map(|p| RgbImageRef { pixels: &p.data, width: p.width, height: p.height })
        .collect();
    let files: Vec<Option<&Path>> = paths.iter().map(|path| Some(path.as_path())).collect();
    let scores = reward.score_files(&views, &files, &vec![prompt; views.len()]);
    for (line, score) in lines.iter_mut().zip(scores) {
        line.scores[index] = score.map(|s| s.get()).map_err(|reason| reason.to_string());
    }
    Ok(())
}

/// What every reward says of one picture.
struct Line {
    scores: Vec<Result<f64, String>>,
}

impl Line {
    fn new(rewards: usize) -> Self {
        Self { scores: vec![Err("the reward gave no score".to_owned()); rewards] }
    }

    fn json(&self, path: &Path, prompt: &str, names: &[&str]) -> Value {
        let (mut scores, mut missing) = (Map::new(), Map::new());
        for (name, score) in names.iter().zip(&self.scores) {
            match score {
                Ok(score) => scores.insert((*name).to_owned(), json!(score)),
                Err(reason) => missing.insert((*name).to_owned(), json!(reason)),
            };
        }
        let mut line =
            json!({ "image": path.display().to_string(), "prompt": prompt, "scores": scores });
        if !missing.is_empty() {
            tracing::warn!(
                "{}: {} of {} scores are missing",
                path.display(),
                missing.len(),
                names.len()
            );
            line["missing"] = Value::Object(missing);
        }
        line
    }
}

/// Name and source of a reward: `NAME` (embedded, published, or without weights), `NAME=WEIGHTS` (folders,
/// files, repositories), `NAME=command:PROGRAM ARGUMENT…` or `NAME=http://…`.
fn resolve(app: &App, text: &str, args: &ScoreArgs) -> anyhow::Result<(String, RewardSource)> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    if name.is_empty() || value == Some("") {
        return Err(usage(format!(
            "--reward {text}: expected NAME, NAME=WEIGHTS, NAME=command:PROGRAM or NAME=http://ADDRESS"
        )));
    }
    let source = match value {
        Some(value)
            if value.starts_with(COMMAND)
                || value.starts_with("http://")
                || value.starts_with("https://") =>
        {
            external(name, value, args)?
        }
        _ => {
            let embedded = value.is_none() && EMBEDDED.contains(&name);
            let dir = if embedded { PocketWorld.reward_dir(name)? } else { None };
            let progress = Reporter::new(app.level);
            let weights = match dir {
                Some(dir) => Some(RewardWeights::at(dir)),
                None => weights_of(name, value, Path::new(""), &Pins::new(), &progress)?,
            };
            let weights = weights.ok_or_else(|| {
                usage(format!(
                    "--reward {name} is not embedded ({} are) and has no published weights; give its weights: --reward {name}=FOLDER, FILE or OWNER/REPOSITORY (docs/rewards.md says which)",
                    EMBEDDED.join(", ")
                ))
            })?;
            if let Some(missing) = weights.missing() {
                return Err(input(format!(
                    "{}: there is no such file or folder; expected the weights of {name}",
                    missing.display()
                )));
            }
            RewardSource::Weights(weights)
        }
    };
    Ok((name.to_owned(), source))
}

/// A command or server of the command line.
fn external(name: &str, value: &str, args: &ScoreArgs) -> anyhow::Result<RewardSource> {
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
    Ok(RewardSource::External(Box::new(section), PathBuf::from(".")))
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
