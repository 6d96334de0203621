//! `craft score`: a stage of a run, or images one by one.

use std::path::Path;

use craft_pipeline::rewards::{RewardWeights, for_each, is_weightless};
use craft_pipeline::world::World;
use craft_rewards::RgbImageRef;
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
    let wanted: Vec<(String, RewardWeights)> =
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
    let mut lines: Vec<Line> = pictures.iter().map(|_| Line::new(wanted.len())).collect();
    let views: Vec<RgbImageRef<'_>> = pictures
        .iter()
        .map(|p| RgbImageRef { pixels: &p.data, width: p.width, height: p.height })
        .collect();
    let named: Vec<_> = wanted.iter().map(|(name, weights)| (name.as_str(), weights)).collect();
    for_each(&named, &app.device, |index, reward| {
        let cut = reward.tokens_cut(prompt);
        if cut > 0 {
            tracing::warn!("{}: the prompt is cut by {cut} tokens", reward.name());
        }
        let scores = reward.score(&views, &vec![prompt.as_str(); views.len()]);
        for (line, score) in lines.iter_mut().zip(scores) {
            line.scores[index] = score.map(|s| s.get()).map_err(|reason| reason.to_string());
        }
        Ok(())
    })?;
    let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    for (path, line) in args.paths.iter().zip(lines) {
        console::result(&line.json(path, prompt, &names).to_string())?;
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

    fn json(self, path: &Path, prompt: &str, names: &[&str]) -> Value {
        let (mut scores, mut missing) = (Map::new(), Map::new());
        for (name, score) in names.iter().zip(self.scores) {
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

/// Name and weights of a reward: `NAME=WEIGHTS`, or a name that needs none.
fn resolve(text: &str) -> anyhow::Result<(String, RewardWeights)> {
    let (name, weights) = match text.split_once('=') {
        Some((name, weights)) => (name, Some(weights)),
        None => (text, None),
    };
    if name.is_empty() || weights == Some("") {
        return Err(usage(format!("--reward {text}: expected NAME or NAME=WEIGHTS")));
    }
    let weights = match weights {
        Some(text) => {
            let weights = RewardWeights::parse(text, Path::new(""));
            if let Some(missing) = weights.missing() {
                return Err(input(format!(
                    "{}: there is no such file or folder; expected the weights of {name}",
                    missing.display()
                )));
            }
            weights
        }
        None if is_weightless(name) => RewardWeights::default(),
        None => {
            let dir = if EMBEDDED.contains(&name) { PocketWorld.reward_dir(name)? } else { None };
            RewardWeights::at(dir.ok_or_else(|| {
                usage(format!(
                    "--reward {name} is not embedded ({} are); give its weights: --reward {name}=FOLDER or FILE (docs/rewards.md says which)",
                    EMBEDDED.join(", ")
                ))
            })?)
        }
    };
    Ok((name.to_owned(), weights))
}
