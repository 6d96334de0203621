//! Commands and servers as reward models.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use craft_core::recipe::{RewardAnswer, RewardApi, RewardSection, RewardSource};
use craft_external::{
    Answer, CommandOptions, CommandReward, ExternalError, HttpReward, Item, Scored, ServerOptions,
    VisionOptions, VisionReward,
};
use craft_rewards::{MissingReason, Reward, RgbImageRef, Score};
use craft_store::hash::sha256_bytes;

use crate::error::{PipelineError, Result};

/// What is asked for scores.
#[derive(Debug)]
enum Scorer {
    Command(CommandReward),
    Http(HttpReward),
    Vision(VisionReward),
}

/// A reward outside this program. Programs are started and servers asked at the first score.
#[derive(Debug)]
struct ExternalReward {
    name: String,
    version: String,
    batch: usize,
    scorer: Mutex<Scorer>,
}

/// What is known of the licence of a program or server.
pub(crate) const LICENSE: &str = "that of the program or server";

impl Reward for ExternalReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn license(&self) -> &str {
        LICENSE
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn score(
        &self,
        images: &[RgbImageRef<'_>],
        prompts: &[&str],
    ) -> Vec<std::result::Result<Score, MissingReason>> {
        self.score_files(images, &vec![None; images.len()], prompts)
    }

    fn score_files(
        &self,
        images: &[RgbImageRef<'_>],
        files: &[Option<&Path>],
        prompts: &[&str],
    ) -> Vec<std::result::Result<Score, MissingReason>> {
        let faults: Vec<Option<MissingReason>> = images
            .iter()
            .enumerate()
            .map(|(i, image)| match prompts.get(i) {
                None => Some(MissingReason::NoPrompt),
                Some(_) => image.check().err(),
            })
            .collect();
        let items: Vec<Item<'_>> = images
            .iter()
            .enumerate()
            .filter(|(i, _)| faults[*i].is_none())
            .map(|(i, image)| Item {
                pixels: image.pixels,
                width: image.width,
                height: image.height,
                path: files.get(i).copied().flatten(),
                prompt: prompts[i],
            })
            .collect();
        let mut scorer = self.scorer.lock().unwrap_or_else(PoisonError::into_inner);
        let scores: Vec<Scored> = match &mut *scorer {
            Scorer::Command(command) => command.score(&items),
            Scorer::Http(server) => server.score(&items),
            Scorer::Vision(server) => server.score(&items),
        };
        let mut scores = scores.into_iter();
        faults
            .into_iter()
            .map(|fault| match fault {
                Some(reason) => Err(reason),
                None => match scores.next() {
                    Some(Ok(score)) => Score::new(score),
                    Some(Err(reason)) => Err(MissingReason::External(reason)),
                    None => Err(MissingReason::External("no score".to_owned())),
                },
            })
            .collect()
    }
}

/// Whether a reward is a command or a server.
pub(crate) fn is_external(section: &RewardSection) -> bool {
    matches!(section.source(), RewardSource::Command(_) | RewardSource::Server(_))
}

/// What the scores of an external reward depend on, as far as the recipe says.
pub(crate) fn digest(section: &RewardSection) -> String {
    let RewardSection { command, url, api, model, question, answer, .. } = section;
    let all = (command, url, api, model, question, answer, section.external_version());
    sha256_bytes(serde_json::to_string(&all).unwrap_or_default())
}

/// A command or server of a recipe whose paths are relative to `base`; nothing is started or asked yet.
///
/// # Errors
/// When there is no such program, or address or key cannot be used.
pub fn external_reward(section: &RewardSection, base: &Path) -> Result<Box<dyn Reward>> {
    let seconds = |given: Option<f64>, default| Duration::from_secs_f64(given.unwrap_or(default));
    let timeout = seconds(section.timeout_seconds, RewardSection::TIMEOUT_SECONDS);
    let key = |key: &str| format!("rewards.{}.{key}", section.name);
    let (scorer, batch) = match section.source() {
        RewardSource::Command(words) => {
            let start =
                seconds(section.start_timeout_seconds, RewardSection::START_TIMEOUT_SECONDS);
            let options =
                CommandOptions::new(words, base, timeout, start).map_err(usage(&key("command")))?;
            (Scorer::Command(CommandReward::new(options)), 1)
        }
        RewardSource::Server(url) => {
            let server = ServerOptions {
                url: url.to_owned(),
                allow_remote: section.allow_remote,
                api_key_env: section.api_key_env.clone(),
                timeout,
                retries: section.retries.unwrap_or(RewardSection::RETRIES),
            };
            match section.api.unwrap_or_default() {
                RewardApi::Scores => {
                    let batch = section.batch.unwrap_or(RewardSection::BATCH);
                    let reward = HttpReward::new(&server, batch).map_err(usage(&key("url")))?;
                    (Scorer::Http(reward), batch)
                }
                RewardApi::Openai => {
                    let options = VisionOptions {
                        model: section.model.clone().unwrap_or_default(),
                        question: section.question.clone().unwrap_or_default(),
                        answer: match section.answer.unwrap_or_default() {
                            RewardAnswer::YesNo => Answer::YesNo,
                            RewardAnswer::Grade => Answer::Grade,
                        },
                    };
                    let reward = VisionReward::new(&server, options).map_err(usage(&key("url")))?;
                    (Scorer::Vision(reward), 1)
                }
            }
        }
        RewardSource::Embedded | RewardSource::Weights(_) => {
            return Err(PipelineError::Usage(format!(
                "rewards.{}: expected command or url",
                section.name
            )));
        }
    };
    Ok(Box::new(ExternalReward {
        name: section.name.to_string(),
        version: section.external_version().to_owned(),
        batch,
        scorer: Mutex::new(scorer),
    }))
}

/// Names the key of the recipe that an error is about.
pub(crate) fn usage(key: &str) -> impl FnOnce(ExternalError) -> PipelineError + use<> {
    let key = key.to_owned();
    move |error| PipelineError::Usage(format!("{key}: {error}"))
}
