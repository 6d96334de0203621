//! Draws and scores pictures of a denoiser, the same way for all methods.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Device;
use craft_core::{Key, Prompt, PromptId, Split};
use craft_model::Denoiser;
use craft_rewards::Reward;
use craft_store::jsonl;
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::cache::ScoreCache;
use crate::error::Result;
use crate::rewards::{RunReward, load_all};
use crate::stages::Run;
use crate::stages::evaluate::{CHECKER, drawing_options};
use crate::stages::pictures::{Item, Series};
use crate::stages::score::{Pictures, Work};
use crate::statistics::{ImageStatistics, measure};
use craft_core::Silent;
use craft_model::model::Model;
use craft_model::sample::{DrawOptions, Painter};
use craft_model::text::TextEmbedding;

/// Scores of one picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PictureRow {
    pub(super) prompt_id: String,
    pub(super) sample: usize,
    pub(super) scores: BTreeMap<String, f64>,
}

/// A denoiser's pictures, measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub(super) rows: Vec<PictureRow>,
    pub(super) statistics: ImageStatistics,
    pub(super) diversity: Option<f64>,
}

/// Prompts of a measurement, with the pictures of each.
#[derive(Clone)]
pub(super) struct Exam {
    /// Names the noise.
    stage: &'static str,
    prompts: Vec<Prompt>,
    samples: usize,
    /// Guidance, in multiples of the evaluation's.
    guidance: f64,
}

impl Exam {
    /// The same pictures with so many times the guidance.
    pub(super) fn guided(&self, factor: f64) -> Self {
        Self { guidance: factor * self.guidance, ..self.clone() }
    }

    /// Whether it asks for this picture.
    pub(super) fn has(&self, row: &PictureRow) -> bool {
        row.sample < self.samples && self.prompts.iter().any(|p| p.id.as_str() == row.prompt_id)
    }
}

/// The judges of a seed.
pub(super) struct Judge<'a> {
    run: &'a Run<'a>,
    /// The base model, whose other parts all methods share.
    pub(super) model: Model,
    options: DrawOptions,
    rewards: Vec<(RunReward, Box<dyn Reward>)>,
    cache: Mutex<ScoreCache>,
    /// Texts that were encoded for a training, which those after it use again.
    texts: Mutex<BTreeMap<String, Arc<TextEmbedding>>>,
    /// Hashes of the rewards' folders.
    pub(super) hashes: &'a BTreeMap<String, String>,
    /// The whole evaluation.
    pub(super) full: Exam,
    /// A part of it, for curves.
    pub(super) curve: Exam,
    /// Other prompts, for choosing settings.
    pub(super) search: Exam,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        run: &'a Run<'a>,
        plan: &Plan,
        hashes: &'a BTreeMap<String, String>,
    ) -> Result<Self> {
        let recipe = run.recipe;
        let device = Device::flex();
        let model = Model::load(&plan.model_dir, &device)?;
        let options = drawing_options(run, &model)?;
        let named: Vec<_> = plan.rewards.iter().map(|r| (r.name.as_str(), &r.source)).collect();
        let rewards = plan.rewards.iter().cloned().zip(load_all(&named, &device)?).collect();
        let prompts: Vec<Prompt> = jsonl::read(&run.path("prompts/prompts.jsonl"))?;
        let prompts: Vec<Prompt> = prompts.into_iter().filter(|p| p.split == Split::Eval).collect();
        let few = prompts.iter().take(plan.curve_prompts).cloned().collect();
        let mut others = match run.context.world.filter(|_| plan.search_seeds > 0) {
            Some(world) => world.prompts(0, "select", plan.search_prompts).unwrap_or_default(),
            None => Vec::new(),
        };
        for (i, prompt) in others.iter_mut().enumerate() {
            prompt.id = PromptId::from_index(i);
        }
        let samples = recipe.evaluate.samples_per_prompt;
        Ok(Self {
            run,
            model,
            options,
            rewards,
            cache: Mutex::new(ScoreCache::open(run.folder, &run.context)?),
            texts: Mutex::default(),
            hashes,
            full: Exam { stage: "evaluate", prompts, samples, guidance: 1.0 },
            curve: Exam { stage: "evaluate", prompts: few, samples: 1, guidance: 1.0 },
            search: Exam { stage: "search", prompts: others, samples: 1, guidance: 1.0 },
        })
    }

    /// Embeddings of texts; each is encoded once a seed.
    pub(super) fn embeddings<'t>(
        &self,
        texts: impl Iterator<Item = &'t str>,
    ) -> BTreeMap<String, Arc<TextEmbedding>> {
        let mut known = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: BTreeSet<&str> = texts.collect();
        let new: Vec<&str> =
            wanted.iter().copied().filter(|text| !known.contains_key(*text)).collect();
        for (text, embedding) in new.iter().zip(self.model.encode_texts(&new)) {
            known.insert((*text).to_owned(), Arc::new(embedding));
        }
        wanted.into_iter().map(|text| (text.to_owned(), known[text].clone())).collect()
    }

    /// The base model, or with another denoiser. Its pictures lie in `dir`, and those that were there
    /// before are not drawn again.
    pub(super) fn measure(
        &self,
        other: Option<&Denoiser>,
        exam: &Exam,
        dir: &Path,
    ) -> Result<Measured> {
        craft_store::atomic::create_dir(dir)?;
        let key = Key::new(self.run.recipe.seed).stage(exam.stage);
        let (mut items, mut rows) = (Vec::new(), Vec::new());
        for prompt in &exam.prompts {
            for sample in 0..exam.samples {
                items.push(Item {
                    file: dir.join(format!("{}-s{sample}.png", prompt.id)),
                    prompt: &prompt.text,
                    key: key.clone().prompt(&prompt.id).sample(sample as u64),
                    place: format!("Prompt: {}, Sample: {sample}", prompt.id),
                });
                rows.push(PictureRow {
                    prompt_id: prompt.id.to_string(),
                    sample,
                    scores: BTreeMap::new(),
                });
            }
        }
        let options = DrawOptions {
            guidance_scale: exam.guidance * self.options.guidance_scale,
            ..self.options
        };
        let series = Series { recipe: self.run.recipe, items: &items, model: exam.stage };
        let unet = other.unwrap_or(&self.model.denoiser);
        let mut painter = Painter::new(&self.model, options, self.run.context.stop)?.by(unet);
        series.draw(&mut painter, None, &Silent)?;
        let files: Vec<PathBuf> = items.iter().map(|item| item.file.clone()).collect();
        let texts: Vec<&str> = items.iter().map(|item| item.prompt).collect();
        for (reward, _) in &self.rewards {
            let scores = self.scores(&reward.name, Pictures::Files(&files), &texts)?;
            for (row, score) in rows.iter_mut().zip(scores) {
                row.scores.extend(score.map(|value| (reward.name.clone(), value)));
            }
        }
        let world = self.run.context.world;
        let (numbers, shares) = measure(&files, exam.samples, |i, picture| {
            let facts = exam.prompts[i / exam.samples].facts.as_ref()?;
            let rows = world?.check(&picture.data, facts)?;
            let passed = rows.iter().filter(|row| row.passed).count();
            (!rows.is_empty()).then(|| passed as f64 / rows.len() as f64)
        })?;
        for (row, share) in rows.iter_mut().zip(shares) {
            row.scores.extend(share.map(|share| (CHECKER.to_owned(), share)));
        }
        Ok(Measured { rows, statistics: numbers.statistics, diversity: numbers.diversity })
    }

    /// Scores of pictures under prompts by one reward; `None` where there is none.
    pub(super) fn scores(
        &self,
        reward: &str,
        pictures: Pictures<'_>,
        texts: &[&str],
    ) -> Result<Vec<Option<f64>>> {
        let Some((reward, model)) = self.rewards.iter().find(|(r, _)| r.name == reward) else {
            return Ok(vec![None; texts.len()]);
        };
        let work = Work::new(self.run, pictures, texts)?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let scorer = (reward, model.as_ref(), self.hashes[&reward.name].as_str());
        let scores = work.score(self.run, &mut cache, scorer, |_| ())?;
        Ok(scores.into_iter().map(std::result::Result::ok).collect())
    }
}

/// Mean score by prompt.
pub(super) fn by_prompt(rows: &[PictureRow], reward: &str) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for row in rows {
        if let Some(score) = row.scores.get(reward) {
            let entry = sums.entry(&row.prompt_id).or_default();
            *entry = (entry.0 + score, entry.1 + 1);
        }
    }
    sums.into_iter().map(|(prompt, (sum, n))| (prompt.to_owned(), sum / n as f64)).collect()
}

/// Scores of prompts that both have, in order.
pub(super) fn paired(a: &[PictureRow], b: &[PictureRow], reward: &str) -> (Vec<f64>, Vec<f64>) {
    let (a, b) = (by_prompt(a, reward), by_prompt(b, reward));
    a.iter().filter_map(|(prompt, a)| Some((*a, *b.get(prompt)?))).unzip()
}

/// 1, ½ or 0 of each prompt that both have: whether `b` wins over `a`, ties, or loses.
pub(super) fn wins(a: &[PictureRow], b: &[PictureRow], reward: &str) -> BTreeMap<String, f64> {
    let (a, b) = (by_prompt(a, reward), by_prompt(b, reward));
    let outcome = |a: f64, b: f64| f64::from(u8::from(b > a)) + 0.5 * f64::from(u8::from(b == a));
    a.iter().filter_map(|(p, a)| Some((p.clone(), outcome(*a, *b.get(p)?)))).collect()
}

/// Mean of `b − a` over their common prompts, by reward.
pub(super) fn gains(a: &[PictureRow], b: &[PictureRow]) -> BTreeMap<String, f64> {
    let names: BTreeSet<&String> = b.iter().flat_map(|r| r.scores.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| {
            let (a, b) = paired(a, b, name);
            let change: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
            (!change.is_empty()).then(|| (name.clone(), craft_core::stats::mean(&change)))
        })
        .collect()
}
