//! Training sets from the candidates of a run.

use std::collections::BTreeMap;

use craft_core::{Candidate, CandidateId, Prompt, ScoreRow};
use craft_model::Model;
use craft_store::{TensorReader, jsonl};
use craft_train::pool::{Chosen, Source, Units};
use craft_train::set::{Sample, Set, Texts, Unit};
use craft_train::{Result as TrainResult, TrainError};

use crate::error::{PipelineError, Result};
use crate::stages::Run;

const CANDIDATES: &str = "candidates/candidates.jsonl";
const PROMPTS: &str = "prompts/prompts.jsonl";

/// The candidates of a run, as methods choose among them.
pub struct OfRun<'a> {
    /// The run.
    pub run: &'a Run<'a>,
    /// The stage that selected, if what it selected is what the method's recipe selects.
    pub selection: Option<&'a str>,
}

impl Source for OfRun<'_> {
    fn ids(&self) -> TrainResult<Vec<CandidateId>> {
        let rows: Vec<Candidate> = jsonl::read(&self.run.path(CANDIDATES))?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    fn rows(&self) -> TrainResult<Vec<ScoreRow>> {
        Ok(jsonl::read(&self.run.path("rewards/rewards.jsonl"))?)
    }

    fn selected(&self) -> TrainResult<Option<Vec<Chosen>>> {
        let Some(file) = self.selection else { return Ok(None) };
        let rows: Vec<craft_core::select::SelectionRow> = jsonl::read(&self.run.path(file))?;
        let selected = rows.into_iter().filter(|row| row.selected);
        Ok(Some(selected.map(|row| (row.id, row.weight)).collect()))
    }
}

/// An id that one file has and another lacks.
fn lost(run: &Run<'_>, id: &str, has: &str, lacks: &str) -> PipelineError {
    PipelineError::Input {
        path: run.path(lacks),
        message: format!(
            "it lacks {id}, which {} has: one of the two was changed; remove the folder of the later stage to do it again",
            run.path(has).display()
        ),
    }
}

/// The training set of units over the run's candidates: their latents, read row by row, and their texts.
///
/// # Errors
/// When a candidate or its prompt is not there, or a file cannot be read.
pub fn of_units(run: &Run<'_>, units: Units, model: &Model, texts: &Texts) -> Result<Set> {
    let mut wanted: BTreeMap<CandidateId, usize> = BTreeMap::new();
    let mut order: Vec<CandidateId> = Vec::new();
    let units: Vec<Unit> = units
        .into_iter()
        .map(|unit| {
            let (ids, values): (Vec<CandidateId>, Vec<f64>) = unit.into_iter().unzip();
            let place = |id: CandidateId| {
                *wanted.entry(id).or_insert_with_key(|id| {
                    order.push(id.clone());
                    order.len() - 1
                })
            };
            Unit {
                samples: ids.into_iter().map(place).collect(),
                values: values.into_iter().map(|v| v as f32).collect(),
            }
        })
        .collect();
    // Of each wanted candidate its row in the latents and its text.
    let mut found: Vec<Option<(usize, String)>> = vec![None; order.len()];
    let candidates: Vec<Candidate> = jsonl::read(&run.path(CANDIDATES))?;
    for (row, candidate) in candidates.into_iter().enumerate() {
        if let Some(&place) = wanted.get(&candidate.id) {
            found[place] = Some((row, candidate.text));
        }
    }
    let prompts: Vec<Prompt> = jsonl::read(&run.path(PROMPTS))?;
    let prompts: BTreeMap<_, _> = prompts.into_iter().map(|p| (p.id, p.text)).collect();
    let mut latents = TensorReader::open(&run.path("candidates/latents.safetensors"))?;
    let mut samples = Vec::with_capacity(order.len());
    for (id, found) in order.into_iter().zip(found) {
        run.context.check()?;
        let (row, expanded) =
            found.ok_or_else(|| lost(run, &id.to_string(), "rewards/rewards.jsonl", CANDIDATES))?;
        let original = prompts
            .get(&id.prompt)
            .ok_or_else(|| lost(run, id.prompt.as_str(), CANDIDATES, PROMPTS))?;
        samples.push(Sample {
            id: id.to_string(),
            latents: latents.read_row("latents", row)?,
            original: original.clone(),
            expanded,
        });
    }
    Ok(Set::new(samples, units, model, texts))
}

/// An error of what stands above the training engine, for its way through it.
pub fn through(error: PipelineError) -> TrainError {
    match error {
        PipelineError::Interrupted => TrainError::Interrupted,
        PipelineError::Nan(stop) => TrainError::Nan(stop),
        other => TrainError::Other(Box::new(other)),
    }
}
