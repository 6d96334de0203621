//! Draws and scores pictures of a denoiser, the same way for all methods.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use craft_core::{Key, Prompt, PromptId, Split};
use craft_model::model::Model;
use craft_model::sample::DrawOptions;
use craft_store::jsonl;
use craft_train::set::Texts;

use super::pipeline::{
    CHECKER, ImageStatistics, Item, Pictures, Result, Run, Scorer, draw, evaluation_options,
    statistics,
};
use super::plan::Plan;
use super::scores::PictureRow;

/// A denoiser's pictures, measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub(super) rows: Vec<PictureRow>,
    pub(super) statistics: ImageStatistics,
    pub(super) diversity: Option<f64>,
}

/// Prompts of a measurement, with the pictures of each.
#[derive(Clone)]
pub(super) struct EvaluationSet {
    /// Names the noise.
    stage: &'static str,
    prompts: Vec<Prompt>,
    samples: usize,
    /// Guidance factor: multiplies the evaluation's guidance scale.
    guidance: f64,
}

impl EvaluationSet {
    /// The same pictures with so many times the guidance.
    pub(super) fn guided(&self, factor: f64) -> Self {
        Self { guidance: factor * self.guidance, ..self.clone() }
    }

    /// Whether it asks for this picture.
    pub(super) fn has(&self, row: &PictureRow) -> bool {
        row.sample < self.samples && self.prompts.iter().any(|p| p.id.as_str() == row.prompt_id)
    }

    /// The pictures, in `dir`, and for each a row without scores.
    fn items(&self, seed: u64, dir: &Path) -> (Vec<Item<'_>>, Vec<PictureRow>) {
        let key = Key::new(seed).stage(self.stage);
        let (mut items, mut rows) = (Vec::new(), Vec::new());
        for prompt in &self.prompts {
            for sample in 0..self.samples {
                items.push(Item {
                    file: dir.join(format!("{}-s{sample}.png", prompt.id)),
                    prompt: &prompt.text,
                    key: key.clone().prompt(&prompt.id).sample(sample as u64),
                    place: format!("Prompt: {}, Sample: {sample}", prompt.id),
                });
                let (prompt_id, scores) = (prompt.id.to_string(), BTreeMap::new());
                rows.push(PictureRow { prompt_id, sample, scores });
            }
        }
        (items, rows)
    }
}

/// What measures the models of a seed.
pub(super) struct Evaluator<'a> {
    run: &'a Run<'a>,
    /// The base model, whose other parts all methods share.
    pub(super) model: Model,
    options: DrawOptions,
    scorer: Scorer<'a>,
    /// Texts that were encoded for a training, which those after it use again.
    pub(super) texts: Texts,
    /// Hashes of the rewards' folders.
    pub(super) hashes: &'a BTreeMap<String, String>,
    /// The whole evaluation.
    pub(super) full: EvaluationSet,
    /// A part of it, for curves.
    pub(super) curve: EvaluationSet,
    /// Other prompts, for choosing settings.
    pub(super) search: EvaluationSet,
}

impl<'a> Evaluator<'a> {
    /// # Errors
    /// When the model or a reward cannot be loaded.
    pub(super) fn new(
        run: &'a Run<'a>,
        plan: &Plan,
        hashes: &'a BTreeMap<String, String>,
    ) -> Result<Self> {
        let model = Model::load(&plan.model_dir, run.context.device())?;
        let options = evaluation_options(run, &model)?;
        let scorer = Scorer::new(run, &plan.rewards, hashes)?;
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
        let samples = run.recipe.evaluate.samples_per_prompt;
        let set =
            |stage, prompts, samples| EvaluationSet { stage, prompts, samples, guidance: 1.0 };
        Ok(Self {
            run,
            model,
            options,
            scorer,
            texts: Texts::default(),
            hashes,
            full: set("evaluate", prompts, samples),
            curve: set("evaluate", few, 1),
            search: set("search", others, 1),
        })
    }

    /// The base model, or another one that shares its parts. Its pictures lie in `dir`, and those that were there
    /// before are not drawn again.
    ///
    /// # Errors
    /// Those of drawing and scoring.
    pub(super) fn measure(
        &self,
        other: Option<&Model>,
        set: &EvaluationSet,
        dir: &Path,
    ) -> Result<Measured> {
        craft_store::atomic::create_dir(dir)?;
        let (items, mut rows) = set.items(self.run.recipe.seed, dir);
        let options = DrawOptions {
            guidance_scale: set.guidance * self.options.guidance_scale,
            ..self.options
        };
        draw(self.run, other.unwrap_or(&self.model), options, set.stage, &items)?;
        let files: Vec<PathBuf> = items.iter().map(|item| item.file.clone()).collect();
        let texts: Vec<&str> = items.iter().map(|item| item.prompt).collect();
        for reward in self.scorer.names() {
            let scores = self.scores(reward, Pictures::Files(&files), &texts)?;
            for (row, score) in rows.iter_mut().zip(scores) {
                row.scores.extend(score.map(|value| (reward.to_owned(), value)));
            }
        }
        let world = self.run.context.world;
        let (numbers, shares) = statistics(&files, set.samples, |i, picture| {
            let facts = set.prompts[i / set.samples].facts.as_ref()?;
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
    ///
    /// # Errors
    /// See [`Scorer::scores`].
    pub(super) fn scores(
        &self,
        reward: &str,
        pictures: Pictures<'_>,
        texts: &[&str],
    ) -> Result<Vec<Option<f64>>> {
        self.scorer.scores(reward, pictures, texts)
    }
}
