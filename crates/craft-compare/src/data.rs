//! What the methods train on, made from what the run of a seed has.

use std::collections::BTreeSet;

use craft_core::stats::mean_std;
use craft_core::{Candidate, CandidateId, Prompt, PromptId, Recipe, ScoreRow, Split};
use craft_store::{RgbImage, jsonl};
use craft_train::methods::{Data, Method};
use craft_train::online::Scorer;
use craft_train::pool::{Pool, Source};
use craft_train::set::{Sample, Set, Unit};
use craft_train::{Result as TrainResult, TrainError};

use super::ablations::{Part, Spread};
use super::evaluator::Evaluator;
use super::pipeline::{OfRun, Pictures, PipelineError, Result, Run, of_units, through};

/// The part of a run's candidates that a variant sees.
struct OfPart<'a> {
    all: OfRun<'a>,
    part: Part,
    /// The first prompts, where the part is so many.
    prompts: Option<BTreeSet<PromptId>>,
    /// Expansions that a spread keeps.
    expansions: Option<BTreeSet<(PromptId, u32)>>,
}

impl<'a> OfPart<'a> {
    fn new(run: &'a Run<'a>, part: Part) -> Result<Self> {
        let all = OfRun { run, selection: None };
        let (mut prompts, mut expansions) = (None, None);
        if part.prompts.is_some() || part.spread.is_some() {
            let rows: Vec<Candidate> = jsonl::read(&run.path("candidates/candidates.jsonl"))?;
            let ids: BTreeSet<&PromptId> = rows.iter().map(|c| &c.prompt_id).collect();
            prompts = part.prompts.map(|n| ids.into_iter().take(n).cloned().collect());
            expansions = part.spread.map(|spread| kept_expansions(&rows, spread));
        }
        Ok(Self { all, part, prompts, expansions })
    }

    fn sees(&self, id: &CandidateId) -> bool {
        let expansion = || (id.prompt.clone(), id.variant);
        self.part.wordings.is_none_or(|n| id.variant as usize <= n)
            && self.expansions.as_ref().is_none_or(|kept| kept.contains(&expansion()))
            && self.prompts.as_ref().is_none_or(|seen| seen.contains(&id.prompt))
    }
}

impl Source for OfPart<'_> {
    fn ids(&self) -> TrainResult<Vec<CandidateId>> {
        Ok(self.all.ids()?.into_iter().filter(|id| self.sees(id)).collect())
    }

    fn rows(&self) -> TrainResult<Vec<ScoreRow>> {
        Ok(self.all.rows()?.into_iter().filter(|row| self.sees(row.id())).collect())
    }
}

/// The training set of a method.
pub(super) fn training_set(
    run: &Run<'_>,
    recipe: &Recipe,
    part: Part,
    method: &Method,
    evaluator: &Evaluator<'_>,
) -> Result<Set> {
    match method.data {
        Data::Candidates { units, .. } => {
            let source = OfPart::new(run, part)?;
            let units = units(&Pool::new(recipe, &source))?;
            if units.is_empty() {
                return Err(PipelineError::Usage(format!(
                    "{}: nothing to train on: no prompt has candidates that it can use; draw more, or leave the method out",
                    method.name
                )));
            }
            of_units(run, units, &evaluator.model, &evaluator.texts)
        }
        Data::Annotated { labels } => super::pairs::training_set(run, labels, evaluator),
        Data::Prompts(_) => of_prompts(run, evaluator),
        Data::Guidance(_) => {
            Ok(Set::new(Vec::new(), Vec::new(), &evaluator.model, &evaluator.texts))
        }
    }
}

/// The expansions of each prompt that a spread keeps, and the prompt itself.
fn kept_expansions(candidates: &[Candidate], spread: Spread) -> BTreeSet<(PromptId, u32)> {
    use std::collections::BTreeMap;
    let mut texts: BTreeMap<&PromptId, BTreeMap<u32, &str>> = BTreeMap::new();
    for candidate in candidates {
        texts.entry(&candidate.prompt_id).or_default().insert(candidate.variant, &candidate.text);
    }
    let mut kept = BTreeSet::new();
    for (prompt, mut expansions) in texts {
        let own = expansions.remove(&0).unwrap_or_default();
        let (variants, all): (Vec<u32>, Vec<&str>) = expansions.into_iter().unzip();
        let places = spread.kept(own, &all);
        let variants = places.into_iter().map(|place| variants[place]).chain([0]);
        kept.extend(variants.map(|variant| (prompt.clone(), variant)));
    }
    kept
}

/// The training prompts, for methods that draw as they go.
fn of_prompts(run: &Run<'_>, evaluator: &Evaluator<'_>) -> Result<Set> {
    let prompts: Vec<Prompt> = jsonl::read(&run.path("prompts/prompts.jsonl"))?;
    let train = prompts.into_iter().filter(|p| p.split == Split::Train);
    let samples: Vec<Sample> = train
        .map(|p| Sample {
            id: p.id.to_string(),
            latents: Vec::new(),
            original: p.text.clone(),
            expanded: p.text,
        })
        .collect();
    let units = (0..samples.len()).map(|i| Unit { samples: vec![i], values: vec![1.0] }).collect();
    Ok(Set::new(samples, units, &evaluator.model, &evaluator.texts))
}

/// A reward's part in the total.
struct Term {
    name: String,
    mean: f64,
    std: f64,
    weight: f64,
}

/// Scores what a method draws as it goes: the weighted sum of z-scores over the candidates of the run.
pub(super) struct Totals<'a> {
    evaluator: &'a Evaluator<'a>,
    terms: Vec<Term>,
}

impl<'a> Totals<'a> {
    /// With mean and deviation of each training reward over the candidates.
    pub(super) fn new(
        run: &Run<'_>,
        recipe: &Recipe,
        evaluator: &'a Evaluator<'a>,
    ) -> Result<Self> {
        let rows: Vec<ScoreRow> = jsonl::read(&run.path("rewards/rewards.jsonl"))?;
        let term = |reward: craft_core::select::RewardUse| {
            let scores: Vec<f64> = rows.iter().filter_map(|row| row.score(&reward.name)).collect();
            let (mean, std) = mean_std(&scores);
            Term { name: reward.name.to_string(), mean, std, weight: reward.weight }
        };
        let terms = recipe.select_options().rewards.into_iter().map(term).collect();
        Ok(Self { evaluator, terms })
    }
}

impl Scorer for Totals<'_> {
    fn totals(&self, pictures: &[RgbImage], prompts: &[&str]) -> TrainResult<Vec<f64>> {
        let mut totals = vec![0.0; pictures.len()];
        for term in self.terms.iter().filter(|t| t.std > 0.0) {
            let scores = self
                .evaluator
                .scores(&term.name, Pictures::Memory(pictures), prompts)
                .map_err(through)?;
            for (total, score) in totals.iter_mut().zip(scores) {
                // A picture without a score lies in the middle of none.
                *total += score.map_or(f64::NAN, |s| term.weight * (s - term.mean) / term.std);
            }
        }
        Ok::<_, TrainError>(totals)
    }
}
