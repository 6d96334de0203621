//! Looks at a model in training: its weights are kept, its pictures measured, and training ends when they
//! get worse or drift.

use std::collections::BTreeMap;
use std::path::PathBuf;

use craft_core::recipe::{PromptSource, StopSection, TrainMode};
use craft_core::{Key, Prompt, PromptId, Split};
use craft_nn::lora::Adapter;
use craft_nn::weights;
use craft_rewards::Reward;
use craft_store::jsonl;
use serde::{Deserialize, Serialize};

use crate::cache::ScoreCache;
use crate::error::Result;
use crate::rewards::{RunReward, load_source};
use crate::stages::evaluate::drawing_options;
use crate::stages::pictures::{Item, Series};
use crate::stages::{Run, score};
use crate::start::{self, Start};
use crate::statistics::{ImageStatistics, measure};
use craft_core::Silent;
use craft_model::lora;
use craft_model::model::{Model, read_tensors, write_tensors};
use craft_model::sample::{DrawOptions, Painter};
use craft_train::networks::{Trained, fresh_factors};

/// A look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Look {
    /// Steps done; 0 is the base model.
    pub(super) step: usize,
    /// Mean of the first held-out reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) held_out: Option<f64>,
    pub(super) statistics: ImageStatistics,
}

/// Why training ended, and at which look it had been best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) reason: String,
    pub(super) best: usize,
}

/// Who looks.
pub(super) struct Watch<'a> {
    run: &'a Run<'a>,
    /// What training begins with; where factors are trained, what they are trained beside.
    model: Model,
    /// The factors that training begins with.
    factors: Adapter,
    options: DrawOptions,
    prompts: Vec<Prompt>,
    held_out: Option<(&'a RunReward, Box<dyn Reward>, &'a str)>,
    /// Where looks and weights are kept.
    dir: PathBuf,
    looks: Vec<Look>,
}

impl<'a> Watch<'a> {
    /// `None` where the recipe asks for no looks. Looks that an interrupted training had are kept.
    ///
    /// # Errors
    /// Those of loading.
    pub(super) fn new(
        run: &'a Run<'a>,
        start: &Start,
        dir: PathBuf,
        (rewards, hashes): (&'a [RunReward], &'a BTreeMap<String, String>),
    ) -> Result<Option<Self>> {
        let recipe = run.recipe;
        if recipe.stop.every == 0 {
            return Ok(None);
        }
        let model = match recipe.train.mode {
            TrainMode::Full => start.model(recipe, run.base)?,
            TrainMode::Lora => {
                start::base_model(recipe, run.base, &start.base, run.context.device())?
            }
        };
        let factors = match (recipe.train.mode, start.factors()) {
            (TrainMode::Full, _) => Adapter::default(),
            (TrainMode::Lora, Some(path)) => lora::read(&path, &model)?,
            (TrainMode::Lora, None) => {
                fresh_factors(&recipe.train.lora, recipe.seed, &lora::parts(&model))?
            }
        };
        let options = drawing_options(run, &model)?;
        let prompts = prompts(run)?;
        let held_out = match rewards.iter().find(|r| !r.trained_on) {
            Some(reward) => {
                let loaded = load_source(&reward.name, &reward.source, run.context.device())?;
                Some((reward, loaded, hashes[&reward.name].as_str()))
            }
            None => None,
        };
        craft_store::atomic::create_dir(&dir)?;
        let looks = jsonl::read_resumable(&dir.join("looks.jsonl"))?.rows;
        Ok(Some(Self { run, model, factors, options, prompts, held_out, dir, looks }))
    }

    /// Whether a step is looked at.
    pub(super) fn due(&self, step: usize) -> bool {
        step.is_multiple_of(self.run.recipe.stop.every)
    }

    /// All looks so far.
    pub(super) fn looks(&self) -> &[Look] {
        &self.looks
    }

    /// What training had made at a look.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub(super) fn trained(&self, step: usize) -> Result<Trained> {
        let full = self.run.recipe.train.mode == TrainMode::Full;
        Ok(match (step, full) {
            (0, true) => Trained::Full(weights::export(&self.model.denoiser)),
            (0, false) => Trained::Lora(self.factors.clone()),
            (_, true) => Trained::Full(read_tensors(&self.file(step))?),
            (_, false) => Trained::Lora(lora::read(&self.file(step), &self.model)?),
        })
    }

    fn file(&self, step: usize) -> PathBuf {
        self.dir.join(format!("step-{step}.safetensors"))
    }

    /// Measures what `step` steps have made, and says whether training is to end. What training begins with is looked
    /// at first.
    ///
    /// # Errors
    /// Those of drawing and scoring.
    pub(super) fn look(&mut self, step: usize, trained: Trained) -> Result<Option<Stop>> {
        if !self.looks.iter().any(|look| look.step == 0) {
            let base = self.measure(0, self.trained(0)?)?;
            self.looks.insert(0, base);
        }
        if !self.looks.iter().any(|look| look.step == step) {
            write_tensors(&self.file(step), &trained.into_tensors())?;
            let look = self.measure(step, self.trained(step)?)?;
            self.looks.retain(|before| before.step < step);
            self.looks.push(look);
            jsonl::write(&self.dir.join("looks.jsonl"), &self.looks)?;
        }
        // Looks after this one are those of an attempt that came further.
        let until = self.looks.iter().take_while(|look| look.step <= step).count();
        Ok(verdict(&self.run.recipe.stop, &self.looks[..until]))
    }

    fn measure(&self, step: usize, trained: Trained) -> Result<Look> {
        let files = self.draw(step, trained)?;
        let (numbers, _) = measure(&files, 1, |_, _| ())?;
        let mut held_out = None;
        if let Some((reward, model, hash)) = &self.held_out {
            let texts: Vec<&str> = self.prompts.iter().map(|p| p.text.as_str()).collect();
            let mut cache = ScoreCache::open(self.run.folder, &self.run.context)?;
            let work = score::Work::new(self.run, score::Pictures::Files(&files), &texts)?;
            let scores =
                work.score(self.run, &mut cache, (reward, model.as_ref(), hash), |_| ())?;
            let found: Vec<f64> = scores.into_iter().filter_map(std::result::Result::ok).collect();
            held_out = Some(craft_core::stats::mean(&found));
        }
        Ok(Look { step, held_out, statistics: numbers.statistics })
    }

    /// Draws the pictures of a look; returns their files.
    fn draw(&self, step: usize, trained: Trained) -> Result<Vec<PathBuf>> {
        let key = Key::new(self.run.recipe.seed).stage("look");
        let dir = self.dir.join(format!("images/step-{step}"));
        craft_store::atomic::create_dir(&dir)?;
        let items: Vec<Item<'_>> = self
            .prompts
            .iter()
            .map(|prompt| Item {
                file: dir.join(format!("{}.png", prompt.id)),
                prompt: &prompt.text,
                key: key.clone().prompt(&prompt.id).sample(0),
                place: format!("Prompt: {}", prompt.id),
            })
            .collect();
        let name = format!("step {step}");
        let series = Series { recipe: self.run.recipe, items: &items, model: &name };
        if !items.iter().all(Item::exists) {
            let mut model = self.model.clone();
            match trained {
                Trained::Full(tensors) => {
                    model.denoiser = weights::load(model.denoiser, tensors).map_err(|source| {
                        craft_model::ModelError::Weights {
                            path: "the denoiser in training".into(),
                            source,
                        }
                    })?;
                }
                Trained::Lora(adapter) => lora::merge(&mut model, &adapter, 1.0),
            }
            let mut painter = Painter::new(&model, self.options, self.run.context.stop)?;
            series.draw(&mut painter, None, &Silent)?;
        }
        Ok(items.into_iter().map(|item| item.file).collect())
    }
}

/// What is drawn at a look: the embedded world's prompts for choosing settings, which nothing is reported on, or
/// else the first of the evaluation.
fn prompts(run: &Run<'_>) -> Result<Vec<Prompt>> {
    let n = run.recipe.stop.prompts;
    let pocket = run.recipe.prompts.source == PromptSource::Pocket;
    let apart = run.context.world.filter(|_| pocket);
    if let Some(mut found) = apart.and_then(|world| world.prompts(0, "select", n)) {
        for (i, prompt) in found.iter_mut().enumerate() {
            prompt.id = PromptId::from_index(i);
        }
        return Ok(found);
    }
    let all: Vec<Prompt> = jsonl::read(&run.path("prompts/prompts.jsonl"))?;
    Ok(all.into_iter().filter(|p| p.split == Split::Eval).take(n).collect())
}

/// Whether the last look is one too many. The first is that of the model before training.
fn verdict(section: &StopSection, looks: &[Look]) -> Option<Stop> {
    let (base, last) = (looks.first()?, looks.last()?);
    let best = |until: &[Look]| {
        let by = |look: &&Look| look.held_out.unwrap_or(0.0);
        until.iter().rev().max_by(|a, b| by(a).total_cmp(&by(b))).map(|look| look.step)
    };
    if let (Some(most), Some(now)) = (section.max_fall, last.held_out) {
        let top = looks.iter().filter_map(|l| l.held_out).fold(f64::NEG_INFINITY, f64::max);
        if top - now > most {
            let reason = format!("the held-out reward fell by {:.4} from its best", top - now);
            return Some(Stop { reason, best: best(looks)? });
        }
    }
    let most = section.max_drift?;
    for ((name, before), (_, now)) in
        base.statistics.named().into_iter().zip(last.statistics.named())
    {
        let change = (now - before).abs() / before.abs().max(1e-9);
        if change > most {
            let reason = format!("{name} changed by {:.0} % of the base model's", 100.0 * change);
            // What drifted is not kept, however well it scores.
            return Some(Stop { reason, best: best(&looks[..looks.len() - 1])? });
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn look(step: usize, held_out: f64, saturation: f64) -> Look {
        let statistics = ImageStatistics {
            saturation,
            brightness: 0.5,
            contrast: 0.2,
            sharpness: 0.1,
            high_frequency: 0.1,
        };
        Look { step, held_out: Some(held_out), statistics }
    }

    #[test]
    fn training_ends_when_the_held_out_reward_falls_or_pictures_drift() {
        let bounds = StopSection { every: 5, max_fall: Some(0.1), ..StopSection::default() };
        let mut looks = vec![look(0, 1.0, 0.5), look(5, 1.3, 0.55), look(10, 1.25, 0.6)];
        assert_eq!(verdict(&bounds, &looks), None);
        looks.push(look(15, 1.15, 0.9));
        let stop = verdict(&bounds, &looks).unwrap();
        assert!(stop.reason.contains("fell by 0.1500"), "{stop:?}");
        assert_eq!(stop.best, 5);
        let bounds = StopSection { every: 5, max_drift: Some(0.5), ..StopSection::default() };
        assert_eq!(verdict(&bounds, &looks[..3]), None);
        let stop = verdict(&bounds, &looks).unwrap();
        assert!(stop.reason.contains("saturation changed by 80 %"), "{stop:?}");
        assert_eq!(stop.best, 5);
        // The highest score does not count where the pictures have gone.
        looks[3].held_out = Some(9.0);
        assert_eq!(verdict(&bounds, &looks).unwrap().best, 5);
        // No bound: looks alone.
        assert_eq!(verdict(&StopSection { every: 5, ..StopSection::default() }, &looks), None);
    }
}
